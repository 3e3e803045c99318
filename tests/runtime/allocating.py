"""A process that allocates in every way there is, with `allocations.c` preloaded: `python allocating.py`.

Prints a line for each way: its kind, by how much it grew, its peak, what was left of it when the memory was given back,
and the same of blocks but for their peak.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from counted import ALIGNED, DEVICE, MAPPED, ORDINARY, Counter

SIZE = 1 << 20
_size = ctypes.c_size_t
counter, libc = Counter(), ctypes.CDLL(None)
for name in ("malloc", "calloc", "realloc", "reallocarray", "aligned_alloc", "memalign"):
    getattr(libc, name).restype = ctypes.c_void_p


def free(block: int) -> None:
    """Gives a block back."""
    libc.free(ctypes.c_void_p(block))


def small() -> ctypes.c_void_p:
    """A block that is to grow."""
    return ctypes.c_void_p(libc.malloc(_size(64)))


WAYS: list[tuple[int, Callable[[], Any], Callable[[Any], None]]] = [
    (DEVICE, lambda: [tvm.runtime.empty((SIZE,), "uint8")], list.clear),
    (ALIGNED, lambda: libc.aligned_alloc(_size(64), _size(SIZE)), free),
    (ALIGNED, lambda: libc.memalign(_size(4096), _size(SIZE)), free),
    (ORDINARY, lambda: libc.malloc(_size(SIZE)), free),
    (ORDINARY, lambda: libc.calloc(_size(16), _size(SIZE // 16)), free),
    (ORDINARY, lambda: libc.realloc(small(), _size(SIZE)), free),
    (ORDINARY, lambda: libc.reallocarray(small(), _size(16), _size(SIZE // 16)), free),
    (ORDINARY, lambda: [np.empty(SIZE, np.uint8)], list.clear),
    (MAPPED, lambda: mmap.mmap(-1, SIZE), lambda block: block.close()),
]


def main() -> None:
    """Allocates and gives back, each way in turn."""
    for kind, make, give_back in WAYS:
        before, blocks = counter.live(kind), counter.blocks(kind)
        counter.reset()
        made = make()
        grown, more = counter.live(kind) - before, counter.blocks(kind) - blocks
        give_back(made)
        del made
        peak, left = counter.peak(kind) - before, counter.live(kind) - before
        print(kind, grown, peak, left, more, counter.blocks(kind) - blocks)


if __name__ == "__main__":
    main()
