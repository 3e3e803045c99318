"""Values of a recipe, as YAML and options give them, as the types of its fields."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mest_compiler.errors import MestError

PLAIN_TYPES = {"int": (int, "a whole number"), "bool": (bool, "true or false"), "str": (str, "a text")}


def converted(name: str, kind: str, value: object) -> object:
    """`value` as the field's type; numbers that YAML takes for text ("4e-8") are read, the rest must fit.

    Args:
        name: of the field, for the error; kind: its annotation, in words.

    Raises:
        MestError: it is of another type.
    """
    if value is None and kind.endswith("None"):
        return None
    kind = kind.removesuffix(" | None")
    if kind.startswith("dict"):
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return dict(value)
        raise MestError(f"{name} of a recipe is settings by name, not {value!r}")
    if kind == "float":
        return _number(name, value)
    if kind.startswith("tuple"):
        entries = value if isinstance(value, list | tuple) else [None]
        if "float" in kind and None not in entries:
            return tuple(_number(name, entry) for entry in entries)
        if all(type(entry) is int and entry >= 0 for entry in entries):
            return tuple(entries)
        raise MestError(f"{name} of a recipe is a list of {'' if 'float' in kind else 'whole '}numbers, not {value!r}")
    wanted, said = PLAIN_TYPES[kind]
    # type(), because True is an int to isinstance.
    if type(value) is not wanted:
        raise MestError(f"{name} of a recipe is {said}, not {value!r}")
    return value


def _number(name: str, value: object) -> float:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
    raise MestError(f"{name} of a recipe is a number, not {value!r}")
