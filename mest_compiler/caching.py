"""What is kept between runs in the user's cache folder: which folder that is, and the keys of what lies there.

A key is a digest of facts. It must hold everything that the kept thing depends on, since what is missing there comes
back as another one's result; so code goes in by its sources, and compiled code by its text.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = "MEST_CACHE"
"""Environment variable that names another cache folder; empty: nothing is kept."""


def folder(what: str) -> Path | None:
    """The folder of one kind of things, such as "fastest", in the user's cache folder; None: nothing is kept.

    `runtime/opencl/binaries.cc` keeps the binaries of OpenCL kernels by the same rule, under "opencl".
    """
    named = os.environ.get(FOLDER)
    if named is not None:
        return Path(named, what) if named else None
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mest_compiler", what)


def key(**facts: Any) -> str:
    """Digest of facts by name; JSON values, and texts and numbers of any length.

    Raises:
        TypeError: a value that JSON does not have, whose text might say less than it is.
    """
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def sources(packages: Iterable[str]) -> str:
    """Digest of the names and contents of all Python files in these folders, read once a process and folder."""
    return key(folders=[_sources(package) for package in packages])


@cache
def _sources(package: str) -> str:
    digest, root = hashlib.sha256(), Path(package)
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
