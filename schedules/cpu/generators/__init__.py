"""Which kernels compute a layer on a CPU, and with which knobs: a generator for each family of kernels."""

from __future__ import annotations

from ...generator import Generator
from .block import Blocks
from .dense import Dense
from .planes import Planes
from .straight_line import StraightLine, Taps

GENERATORS: dict[str, Generator] = {
    "": Dense(), "block": Blocks(), "pattern": StraightLine("pattern"), "taps": Taps("taps"), "planes": Planes(),
}  # fmt: skip
"""By the families' names."""
