"""How much memory the C allocator has handed out in this process: what a trainer really takes, against its plan.

The resident size of a process says less: it has the code of all libraries in it, and pages that were freed long ago.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


class _Mallinfo2(ctypes.Structure):
    """struct mallinfo2 of malloc.h, glibc 2.33 and newer; bytes where the names say nothing else."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


@cache
def _mallinfo2() -> Callable[[], _Mallinfo2] | None:
    try:
        function = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):  # another C library, or an older one
        return None
    function.restype = _Mallinfo2
    return function


def bytes_in_use() -> int | None:
    """Bytes that the C allocator of this process has handed out and not taken back, those of large blocks, which it
    maps one by one, among them; None where the C library does not count them (other than glibc 2.33 and newer)."""
    count = _mallinfo2()
    if count is None:
        return None
    found = count()
    return found.uordblks + found.hblkhd
