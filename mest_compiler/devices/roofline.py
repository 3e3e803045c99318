"""How much a device computes while it moves a byte: what the compiler's estimates of time go by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Roofline:
    """GFLOP/s of float32 and GB/s of memory. Rough: only shares of a step are estimated with it."""

    gflops: float
    gbs: float

    def seconds(self, flops: float, moved: float) -> float:
        """How long a kernel takes that computes so much and moves so many bytes, by what bounds it."""
        return max(flops / self.gflops, moved / self.gbs) / 1e9
