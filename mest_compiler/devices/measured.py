"""What `mest devices probe` measured of a device, kept in the user's cache folder by the profile's name: the roofline
that benches compare with."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mest_compiler import caching
from mest_compiler.files import write_text


def path_of(name: str) -> Path | None:
    """The file of a device; None where nothing is kept."""
    folder = caching.folder("probes")
    return None if folder is None else folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.json"


def load(name: str) -> dict[str, Any] | None:
    """What was measured last; None: nothing, or a file that is damaged."""
    path = path_of(name)
    try:
        found = None if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("numbers"), dict) else None


def save(name: str, result: Mapping[str, Any]) -> Path | None:
    """Keeps a probe's result, whole or not at all; None where nothing is kept or the folder cannot be written."""
    path = path_of(name)
    if path is None:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(result, indent=1))
    except OSError:
        return None
    return path
