"""Hypothesis strategies of this room: schemes, layers that they fit, and masks from empty to full."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from mest_compiler.sparsity.schemes import SCHEMES, Scheme, Shape, get_scheme

SPELLINGS = (*SCHEMES, "block:1x4", "block:8x1", "block:4x4")
BLOCKS = st.builds("block:{}x{}".format, st.integers(1, 6), st.integers(1, 6))
schemes = (st.sampled_from(SPELLINGS) | BLOCKS).map(get_scheme)


@st.composite
def layers(draw: st.DrawFn, most: int = 6) -> tuple[Scheme, Shape]:
    """A scheme and the shape [F, C, kh, kw] of a weight that it can cut into units."""
    scheme = draw(schemes)
    filters, channels = getattr(scheme, "filters", 1), getattr(scheme, "channels", 1)
    kernel = (3, 3) if scheme.name == "pattern" else draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    return scheme, (filters * draw(st.integers(1, most)), channels * draw(st.integers(1, most)), *kernel)


def legal_units(scheme: Scheme, wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """bool [rows, columns]: of the wanted units of each site one, drawn at random."""
    rows, columns = wanted.shape
    sites = scheme.site(np.arange(columns))
    kept = np.zeros(wanted.shape, bool)
    for row in range(rows):
        drawn = rng.permutation(np.flatnonzero(wanted[row]))
        kept[row, drawn[np.unique(sites[drawn], return_index=True)[1]]] = True
    return kept


@st.composite
def masks(draw: st.DrawFn) -> tuple[str, np.ndarray]:
    """(scheme name, mask [F, C, kh, kw]): each row empty, full or at a ratio of its own; or all of them alike."""
    scheme, shape = draw(layers())
    rows, columns = scheme.grid(shape)
    ratios = st.sampled_from([0, 0.1, 0.5, 1])
    ratio = np.array(draw(st.lists(ratios, min_size=rows, max_size=rows) | ratios.map(lambda one: [one] * rows)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kept = legal_units(scheme, rng.random((rows, columns)) < ratio[:, None], rng)
    return scheme.name, scheme.units_to_mask(kept.reshape(-1), shape)
