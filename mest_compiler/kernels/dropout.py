"""Shapes of a dropout over batch tiles."""

from __future__ import annotations

from dataclasses import dataclass

from .geometry import Plane
from .vector import Vector


@dataclass(frozen=True)
class Dropout:
    """Shapes of one dropout, the probability to drop, and its number among those of the step."""

    tiles: int
    channels: int
    vec: Vector
    x: Plane
    y: Plane
    p: float
    layer: int
