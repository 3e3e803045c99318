"""How what a kernel computed is computed again."""

from __future__ import annotations

from dataclasses import dataclass

from mest_compiler.schedules.partial import Partial


@dataclass(frozen=True)
class Repeat:
    """How the first output of a kernel that updates state in place is computed again without touching it: by the
    kernel `make` makes, from arguments ("in", i) and outputs ("out", i) of the first call."""

    make: Partial
    sources: tuple[tuple[str, int], ...]
