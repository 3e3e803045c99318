"""How fast this machine's memory is: what a kernel that only moves bytes could reach."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import numpy as np

COPIED = 64 * 2**20
"""Bytes that a thread copies at a time: more than caches keep."""
ROUNDS = 9


def memory_bandwidth(threads: int) -> float:
    """Bytes a second that `threads` threads read and write together while each copies an array of its own; the fastest
    of some rounds."""
    sources = [np.ones(COPIED, np.uint8) for _ in range(threads)]
    targets = [np.zeros(COPIED, np.uint8) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        spent = []
        for _ in range(ROUNDS):
            start = perf_counter()
            list(pool.map(np.copyto, targets, sources))  # NumPy lets other threads run meanwhile
            spent.append(perf_counter() - start)
    return 2 * COPIED * threads / min(spent)
