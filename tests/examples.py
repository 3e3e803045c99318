"""Loads the worked examples of docs/architecture.md, each the one file that something new takes."""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[1] / "docs/examples"


@cache
def example(name: str) -> ModuleType:
    """docs/examples/NAME.py."""
    spec = spec_from_file_location(f"examples_{name}", FOLDER / f"{name}.py")
    module = module_from_spec(spec)
    sys.modules[module.__name__] = module  # where dataclasses look for a class's own names
    spec.loader.exec_module(module)
    return module
