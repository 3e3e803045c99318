"""Asking for data ahead of its use.

What a register tile reads lies in short pieces of many planes, which no hardware foresees: each would be waited for
when it is first used. Asked for together, they come as fast as memory gives them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.geometry import Plane

from ..emit import Buffer, Expr
from .emit import Vec
from .source import Tile

UNROLLED = 16  # requests of a run that stand in the code one by one; a longer run is a loop
KEPT_BYTES = 512 << 10  # of a second-level cache: what is asked for ahead has to last there beside what is in use


def ask(vec: Vec, pointer: Buffer, offsets: Iterable[int], write: bool = False, soon: bool = True) -> None:
    """Asks for the vectors at `offsets` behind a pointer, once for each line of the caches; write, soon: see
    `Vec.prefetch`."""
    for start, count in _runs(offsets):
        requests = -(-(count - 1) // vec.per_line)  # besides the last vector: a run may begin amid a line
        if requests > UNROLLED:
            with T.serial(requests) as i:
                vec.prefetch(pointer, start + i * vec.per_line, write, soon)
        else:
            for i in range(requests):
                vec.prefetch(pointer, start + i * vec.per_line, write, soon)
        vec.prefetch(pointer, start + count - 1, write, soon)


@dataclass(frozen=True)
class Slab:
    """What is read of one group of the input's `planes`, from a corner in each of them."""

    x: Tile
    plane: Plane
    planes: int
    group: Expr
    groups: int
    corner: Expr

    def ask(self, vec: Vec, reads: Iterable[int], soon: bool = True) -> None:
        """Asks for the vectors at offsets `reads` from the corner."""
        size = self._most
        first = T.Bind(tirx.min(self.group * size, self.planes)) if self.groups > 1 else T.int32(0)
        with T.serial(tirx.min(self.planes - first, size) if self.groups > 1 else T.int32(self.planes)) as i:
            ask(vec, vec.pointer(*self.x, (first + i) * self.plane.size + self.corner, 0), reads, soon=soon)

    def lasts(self, vec: Vec, reads: Collection[int]) -> bool:
        """Whether so much stays in a second-level cache until it is read."""
        return self._most * len(reads) * vec.bytes <= KEPT_BYTES

    @property
    def _most(self) -> int:
        """Planes of a group, as `indices.group_of` deals them out."""
        return -(-self.planes // self.groups)


def _runs(offsets: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(first, count) of the runs of neighbours among offsets."""
    start = count = 0
    for offset in sorted(set(offsets)):
        if count and offset == start + count:
            count += 1
        else:
            if count:
                yield start, count
            start, count = offset, 1
    if count:
        yield start, count
