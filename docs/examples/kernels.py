"""Whole kernels: the weights between one input channel and one filter are kept or removed together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mest_compiler.sparsity.scheme import Scheme


@dataclass(frozen=True)
class Kernels(Scheme):
    """A row is a filter, a column an input channel, a unit a kernel [kh, kw]. Linear layers are unstructured by it."""

    name: str = "kernel"
    of_linears = True

    def grid(self, shape):
        """(F, C)."""
        self.check_shape("(unnamed)", shape)
        return shape[:2]

    def unit_size(self, shape):
        """Places of a kernel."""
        return shape[2] * shape[3]

    def weights_of(self, units, shape):
        """int64 [n, kh * kw]: units run filter by filter, as the weight does."""
        size = self.unit_size(shape)
        return units.astype(np.int64)[:, None] * size + np.arange(size)

    def describe(self, unit, shape):
        """ "the kernel of filter 3 and channel 5"."""
        return "the kernel of filter {} and channel {}".format(*divmod(unit, shape[1]))
