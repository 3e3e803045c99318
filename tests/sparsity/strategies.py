"""Hypothesis strategies of this room: masks of every scheme, from empty to full rows."""

import numpy as np
from hypothesis import strategies as st

from mest_compiler.sparsity.schemes import SCHEMES


@st.composite
def masks(draw):
    """(scheme name, mask [F, C, kh, kw]): each row empty, full or at a ratio of its own."""
    scheme = draw(st.sampled_from(SCHEMES))
    shape = (
        scheme.block * draw(st.integers(1, 6)),
        draw(st.integers(1, 7)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
    )
    rows, columns = scheme.grid(shape)
    ratio = np.array(draw(st.lists(st.sampled_from([0, 0.1, 0.5, 1]), min_size=rows, max_size=rows)))
    noise = np.random.default_rng(draw(st.integers(0, 2**32))).random((rows, columns))
    return scheme.name, scheme.units_to_mask((noise < ratio[:, None]).reshape(-1), shape)
