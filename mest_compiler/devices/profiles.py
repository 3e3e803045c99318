"""Profiles of OpenCL devices as YAML: those of this package, by name, and a user's own files."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from mest_compiler.errors import DeviceError

from .opencl import OpenClProfile

ENDINGS = (".yaml", ".yml")
DESCRIPTION = "description"
"""A key for people."""
_FOLDER = resources.files(__package__)
_FOUND = frozenset({"hardware"})
"""What is asked of the device itself, and not for a file to say."""
_QUAD = 4  # a batch tile is made of float4s
_BOUNDS = {
    "batch_lanes": (_QUAD, 4096), "work_group": (1, 65536), "local_bytes": (0, 2**30), "wave": (1, 1024),
    "threads": (1, 65536), "buffer_bytes": (1, 2**63), "argument_bytes": (1, 2**20), "peak_gflops": (1e-3, 1e9),
    "peak_gbs": (1e-3, 1e9),
}  # fmt: skip
"""Least and most of each number."""


def is_file(name: str) -> bool:
    """Whether a device's name is that of a YAML file."""
    return name.endswith(ENDINGS)


def names() -> tuple[str, ...]:
    """Profiles of this package, "opencl" (this machine's) first."""
    found = {file.name.removesuffix(".yaml") for file in _FOLDER.iterdir() if file.name.endswith(".yaml")}
    return tuple(sorted(found, key=lambda name: (name != "opencl", name)))


def profile(name: str) -> OpenClProfile:
    """The profile of this name, or of this file.

    Raises:
        DeviceError: the file is missing, is no YAML, or says something that no device can be.
    """
    return profile_of(_content(name), name)


def description(name: str) -> str:
    """What the profile says about itself to people; "" for nothing."""
    return str(_content(name).get(DESCRIPTION, ""))


def profile_of(content: Mapping[str, Any], where: str) -> OpenClProfile:
    """A profile from what a file holds; `where` is named in errors, and its stem is the name where none is said."""
    known = {field.name: field for field in fields(OpenClProfile) if field.name not in _FOUND}
    types_of = get_type_hints(OpenClProfile)
    given = {key: value for key, value in content.items() if key != DESCRIPTION}
    for key, value in given.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), [*known, DESCRIPTION], 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it may have {', '.join([*known, DESCRIPTION])}."
            raise DeviceError(f"The device profile {where} has an unknown key {key!r}: {hint}")
        _check(key, value, types_of[key], where)
    given.setdefault("name", Path(where).stem if is_file(where) else where)
    absent = [key for key, field in known.items() if field.default is MISSING and key not in given]
    if absent:
        raise DeviceError(f"The device profile {where} lacks the key {absent[0]!r}: add it.")
    for key, value in given.items():
        if type(value) is int and float in get_args(types_of[key]):
            given[key] = float(value)
    return OpenClProfile(**given)


def _check(key: str, value: Any, wanted: Any, where: str) -> None:
    allowed = get_args(wanted) if get_origin(wanted) is types.UnionType else (wanted,)
    fits = type(value) in allowed or (float in allowed and type(value) is int)
    if not fits:
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "nothing"}
        raise DeviceError(
            f"The key {key!r} of the device profile {where} is {value!r}: it must be "
            f"{' or '.join(words[one] for one in allowed)}."
        )
    if key in _BOUNDS and value is not None:
        least, most = _BOUNDS[key]
        if not least <= value <= most:
            raise DeviceError(
                f"The key {key!r} of the device profile {where} is {value}: it must be {least:g} to {most:g}."
            )
    if key == "batch_lanes" and value % _QUAD:
        raise DeviceError(
            f"The key 'batch_lanes' of the device profile {where} is {value}: it must be a multiple of {_QUAD}."
        )
    if key == "host" and value is not None and len(value.split("-")) < 3:
        raise DeviceError(
            f"The key 'host' of the device profile {where} is {value!r}: it must be an LLVM triple such as "
            "aarch64-linux-android, or be left out for this machine."
        )
    if key == "name" and (not value or value.split() != [value]):
        raise DeviceError(f"The key 'name' of the device profile {where} is {value!r}: it must be one word.")


def _content(name: str) -> Mapping[str, Any]:
    file = Path(name) if is_file(name) else _FOLDER / f"{name}.yaml"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DeviceError(f"There is no device profile {name}: check its path.") from error
    except OSError as error:
        raise DeviceError(f"The device profile {name} cannot be read: {error.strerror or error}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise DeviceError(f"The device profile {name} is no YAML ({first}): write it anew.") from error
    if not isinstance(content, dict):
        raise DeviceError(f"The device profile {name} holds no keys: write lines such as 'work_group: 256'.")
    return content
