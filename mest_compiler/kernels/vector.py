"""What shapes need to know of a device's vectors."""

from __future__ import annotations

from typing import Protocol


class Vector(Protocol):
    """`lanes` numbers of one dtype: the lanes of a batch tile. Each device kind has its own, see `schedules`."""

    @property
    def lanes(self) -> int:
        """Examples of a batch tile."""
        ...

    @property
    def dtype(self) -> str:
        """Of each number."""
        ...
