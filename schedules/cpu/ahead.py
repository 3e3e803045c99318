"""Asking for data ahead of its use.

What a register tile reads lies in short pieces of many planes, which no hardware foresees: each would be waited for
when it is first used. Asked for together, they come as fast as memory gives them.
"""

from __future__ import annotations

from collections.abc import Iterable

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.geometry import Plane

from ..emit import Expr
from .emit import Vec
from .source import Tile


def ask_for_slab(
    vec: Vec, x: Tile, plane: Plane, planes: int, corner: Expr, reads: Iterable[int], group: Expr, groups: int
) -> None:
    """Asks for what a register tile reads of each plane of a group of the input's `planes`: the vectors at offsets
    `reads` from its corner."""
    size = -(-planes // groups)  # as `indices.group_of` deals them out
    first = T.Bind(tirx.min(group * size, planes)) if groups > 1 else T.int32(0)
    with T.serial(tirx.min(planes - first, size) if groups > 1 else T.int32(planes)) as i:
        source = vec.pointer(*x, (first + i) * plane.size + corner, 0)
        for offset in sorted(reads):
            vec.prefetch(source, offset)
