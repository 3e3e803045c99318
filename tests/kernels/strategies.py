"""Hypothesis strategies of this room: convolutions of any stride, dilation, padding, kernel and plane, with masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from mest_compiler.kernels.geometry import ConvGeometry, Plane
from mest_compiler.sparsity.schemes import SCHEMES
from mest_compiler.sparsity.structure import Structure, build

pairs = st.tuples


@st.composite
def geometries(draw: st.DrawFn, channels: int = 3, filters: int = 4) -> ConvGeometry:
    """A convolution whose output has at least one pixel; borders as large as needed or larger."""
    kernel, stride = draw(pairs(*[st.integers(1, 4)] * 2)), draw(pairs(*[st.integers(1, 3)] * 2))
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
def layers(draw: st.DrawFn) -> tuple[ConvGeometry, Structure]:
    """A convolution and a structure for it, with rows from empty to full and capacity to spare."""
    scheme = draw(st.sampled_from(SCHEMES))
    g = draw(geometries(draw(st.integers(1, 5)), scheme.block * draw(st.integers(1, 3))))
    shape = (g.filters, g.channels, *g.kernel)
    rows, columns = scheme.grid(shape)
    ratio = np.array(draw(st.lists(st.sampled_from([0, 0.2, 0.6, 1]), min_size=rows, max_size=rows)))
    kept = np.random.default_rng(draw(st.integers(0, 2**32))).random((rows, columns)) < ratio[:, None]
    mask = scheme.units_to_mask(kept.reshape(-1), shape)
    capacity = max(int(kept.sum()) + draw(st.integers(0, 3)), 1)
    return g, build(mask, scheme.name, capacity, draw(st.integers(1, 3)))
