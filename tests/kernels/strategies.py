"""Hypothesis strategies of this room: convolutions of any stride, dilation, padding, kernel and plane, with masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from mest_compiler.kernels.geometry import ConvGeometry, Plane
from mest_compiler.kernels.problem import LayerProblem
from mest_compiler.sparsity.structure import Structure, build

from ..sparsity.strategies import layers as weights
from ..sparsity.strategies import legal_units

pairs = st.tuples
Pair = tuple[int, int]


@st.composite
def geometries(
    draw: st.DrawFn, channels: int = 3, filters: int = 4, kernel: Pair | None = None, stride: Pair | None = None
) -> ConvGeometry:
    """A convolution whose output has at least one pixel; borders as large as needed or larger."""
    kernel = kernel or draw(pairs(*[st.integers(1, 4)] * 2))
    stride = stride or draw(pairs(*[st.integers(1, 3)] * 2))
    padding, dilation = draw(pairs(*[st.integers(0, 3)] * 2)), draw(pairs(*[st.integers(1, 3)] * 2))
    plane = draw(pairs(*[st.integers(1, 8)] * 2))
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(plane, padding, dilation, kernel, stride, strict=True)
    ]
    assume(min(out) >= 1)
    bare = ConvGeometry(
        tiles=1, lanes=2, channels=channels, filters=filters, kernel=kernel, stride=stride, padding=padding,
        dilation=dilation, x=Plane(*plane), y=Plane(*out), dy=Plane(*out), dx=Plane(*plane),
    )  # fmt: skip
    margins = draw(pairs(*[st.integers(0, 2)] * 2))
    x, dy = Plane(*plane, bare.needed_x_border + margins[0]), Plane(*out, bare.needed_dy_border + margins[1])
    return replace(bare, x=x, dy=dy)


@st.composite
def layers(draw: st.DrawFn) -> tuple[LayerProblem, list[Structure]]:
    """A layer of any scheme and two structures for it, with rows from empty to full and capacity to spare."""
    scheme, shape = draw(weights(most=4))
    g = draw(geometries(shape[1], shape[0], shape[2:], draw(st.sampled_from([(1, 1), None]))))
    rows, columns = scheme.grid(shape)
    rng, masks = np.random.default_rng(draw(st.integers(0, 2**32))), []
    for _ in range(2):
        ratio = np.array(draw(st.lists(st.sampled_from([0, 0.2, 0.6, 1]), min_size=rows, max_size=rows)))
        kept = legal_units(scheme, rng.random((rows, columns)) < ratio[:, None], rng)
        masks.append(scheme.units_to_mask(kept.reshape(-1), shape))
    capacity = max(*(int(mask.sum()) // scheme.unit_size(shape) for mask in masks), 1) + draw(st.integers(0, 3))
    parts = draw(st.sampled_from([1, 2, 3, None]))
    return LayerProblem.of(g, scheme.name, capacity), [build(mask, scheme.name, capacity, parts) for mask in masks]
