"""The memory of a function's intermediate tensors, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Arena:
    """What one function keeps in it. activations: bytes that are written before the function's first result, the loss
    of a step, and still read after it; workspace: the others. returned: bytes that it allocates for each result, 0 for
    those that are arguments. scratch: bytes of the kernel that allocates most for itself. All in whole pages.
    """

    size: int
    activations: int
    returned: tuple[int, ...]
    scratch: int

    @property
    def workspace(self) -> int:
        """Bytes beyond the activations."""
        return self.size - self.activations + self.scratch
