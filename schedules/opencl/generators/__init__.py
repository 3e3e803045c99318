"""Which kernels compute a layer on OpenCL, and with which knobs: a generator for each family of kernels."""

from __future__ import annotations

from ...generator import Generator
from .block import Blocks
from .dense import Dense
from .planes import Planes
from .straight_line import StraightLine

GENERATORS: dict[str, Generator] = {
    "": Dense(), "block": Blocks(), "pattern": StraightLine("pattern"), "planes": Planes(),
}  # fmt: skip
"""By the families' names."""
