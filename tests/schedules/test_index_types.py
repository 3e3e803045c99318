"""Kernels read index arrays of either type: offsets beyond what a signed 16-bit number holds, and beyond 16 bits."""

from __future__ import annotations

import numpy as np
import pytest

from mest_compiler.kernels.families import FAMILIES
from mest_compiler.kernels.problem import DIRECTIONS
from mest_compiler.schedules.cpu.gather import GatherKnobs
from mest_compiler.schedules.cpu.weight_gradient import WeightGradientKnobs
from mest_compiler.sparsity.schemes import get_scheme

from .convolutions import Conv
from .generators import families_of, gathers, gradients
from .sparse_layers import SparseCase, sparse_conv
from .tiles import NARROW, compile_kernels, vector


@pytest.mark.parametrize(
    ("scheme", "plane", "dtype"),
    [
        ("unstructured", (10, 10), "uint16"), ("block:4x4", (16, 14), "int32"), ("pattern", (16, 14), "int32"),
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in [
                ("unstructured", (16, 14), "int32"), ("block:4x4", (10, 10), "uint16"), ("pattern", (10, 10), "uint16")
            ]
        ),
    ],
)  # fmt: skip
def test_large_offsets(scheme: str, plane: tuple[int, int], dtype: str) -> None:
    conv, vec = Conv(300, 300, plane, batch=2), vector(NARROW, "float64")
    layer, kind = sparse_conv(conv, vec, scheme), get_scheme(scheme)
    assert layer.geometry.x.size * 300 > (1 << 16 if dtype == "int32" else 1 << 15)
    kernels = []
    for family in families_of(scheme, conv.stride):
        for direction in DIRECTIONS:
            types = FAMILIES[family].dtypes(layer, direction, 1)
            assert dtype in {types[name] for name in types if name.endswith("offset")}
        kernels += gathers(layer, family, [GatherKnobs(5)])
        kernels += gradients(layer, family, [WeightGradientKnobs(pixels=5, entries=2)])
    mask = kind.random_mask(layer.sparse.shape, 0.995, np.random.default_rng(0))
    case = SparseCase.make(conv, layer, mask)
    machine = compile_kernels({i: kernel.make() for i, kernel in enumerate(kernels)})
    for i, kernel in enumerate(kernels):
        assert max(int(a.numpy().max()) for a in case.index(kernel.direction, kernel.family, 1)) > 1 << 15
        case.run(str(kernel), machine[i], kernel.direction, kernel.family, 1)
