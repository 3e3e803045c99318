"""The families of kernels: the one place that lists them."""

from __future__ import annotations

from .base import KernelFamily
from .block import Blocks
from .dense import Dense
from .expanded import Expanded
from .planes import WholePlanes
from .straight_line import Patterns, StraightLine, Taps

__all__ = ["FAMILIES", "KernelFamily", "StraightLine"]

FAMILIES: dict[str, KernelFamily] = {
    family.name: family for family in (Dense(), Blocks(), Patterns(), Taps(), WholePlanes(), Expanded())
}
"""By name, the more special one first where several serve a layer; `expanded`, which serves every sparse one, last."""
