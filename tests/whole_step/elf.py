"""What a shared library asks of the linker that loads it, as readelf says it."""

from __future__ import annotations

import subprocess
from pathlib import Path


def readelf(path: Path, *options: str) -> str:
    done = subprocess.run(["readelf", "--wide", *options, str(path)], capture_output=True, text=True, check=True)
    return done.stdout


def needed(path: Path) -> set[str]:
    """Libraries that it names (DT_NEEDED)."""
    return {line.split("[")[1].rstrip("]") for line in readelf(path, "--dynamic").splitlines() if "(NEEDED)" in line}


def undefined(path: Path) -> set[str]:
    """Symbols that must be found elsewhere, or it is not loaded: all undefined ones but the weak."""
    symbols = [line.split() for line in readelf(path, "--dyn-syms").splitlines() if " UND " in line]
    return {fields[-1].partition("@")[0] for fields in symbols if fields[-1] != "UND" and "WEAK" not in fields}
