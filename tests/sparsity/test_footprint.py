"""Table A.1, spelled out scheme by scheme against the one formula."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mest_compiler.errors import ProfileError
from mest_compiler.sparsity.footprint import (
    Footprint,
    dense_footprint,
    kept_footprint,
    layer_footprint,
    network_footprint,
    ratio_footprint,
)
from mest_compiler.sparsity.profile import LayerPlan, Profile
from mest_compiler.sparsity.schemes import get_scheme
from mest_compiler.sparsity.structure import build

from .strategies import masks

SHAPE = F, C, _, _ = (32, 16, 3, 3)
N = F * C * 9
BITS = pytest.mark.parametrize(("w", "i"), [(32, 16), (32, 8), (16, 8)])
# What the table prints: the term of the weights' indices over (1-s) * N, and the sum of row pointers.
TABLE = {
    "unstructured": (1, F + 1),
    "pattern": (1 / 4, F + 1),
    "block": (1 / 4, F / 4 + 1),
    "block:8x2": (1 / 16, F / 8 + 1),
    "block:1x4": (1 / 4, F + 1),
    "channel": (0, 0),
    "filter": (0, 0),
}


@BITS
@pytest.mark.parametrize("scheme", TABLE)
@pytest.mark.parametrize("s", [0.6, 0.9, 0.95])
def test_table_a1(scheme, s, w, i):
    indices, pointers = TABLE[scheme]
    found = ratio_footprint(SHAPE, scheme, s)
    approximation = (1 - s) * (2 * N * w + indices * N * i)
    assert found.approximate_bits(w, i) == pytest.approx(approximation)
    assert found.bits(w, i) == pytest.approx(approximation + pointers * i)
    assert found.bytes(w, i) == pytest.approx(found.bits(w, i) / 8)


@BITS
def test_dense(w, i):
    assert dense_footprint(SHAPE).bits(w, i) == dense_footprint(SHAPE).approximate_bits(w, i) == 2 * N * w
    assert layer_footprint(SHAPE, None) == dense_footprint(SHAPE)


def test_a_linear_layer_is_one_of_1x1_kernels():
    assert ratio_footprint((64, 128, 1, 1), "block", 0.5) == Footprint(4096, 1024, 17)


@given(masks(), st.sampled_from([8, 16]))
def test_kept_units_count_as_a_structure_has_them(scheme_mask, index_bits):
    name, mask = scheme_mask
    structure = build(mask, name)
    found = kept_footprint(mask.shape, name, structure.entries)
    assert found.weights == mask.sum()
    if structure.spec.kind.indexed:
        assert found.indices == structure.entries
        assert found.pointers == len(structure.row_ptr)
    else:
        assert found.bits(32, index_bits) == 64 * mask.sum()


def test_a_plan_counts_whole_units():
    plan = LayerPlan("pattern", 0.9)
    kept = get_scheme("pattern").kept_units(SHAPE, 0.9)
    mask = get_scheme("pattern").random_mask(SHAPE, 0.9, np.random.default_rng(0))
    assert layer_footprint(SHAPE, plan) == kept_footprint(SHAPE, "pattern", kept) == Footprint(mask.sum(), kept, F + 1)


def test_a_network_is_the_sum_of_its_layers_and_dense_ones_count():
    shapes = {"a": (16, 3, 3, 3), "b": SHAPE, "c": (64, 32, 1, 1)}
    plan = Profile(LayerPlan("block", 0.9)).assign(shapes)
    parts = [dense_footprint(shapes["a"]), *(layer_footprint(shapes[name], plan[name]) for name in "bc")]
    assert network_footprint(shapes, plan) == parts[0] + parts[1] + parts[2]
    assert network_footprint({}, {}) == Footprint()


def test_what_a_scheme_cannot_have_is_refused():
    with pytest.raises(ProfileError, match=r"below 0\.5556"):
        ratio_footprint(SHAPE, "pattern", 0.5)
    with pytest.raises(ProfileError, match="needs 3x3"):
        kept_footprint((8, 8, 1, 1), "pattern", 3)
    with pytest.raises(ProfileError, match="no sparsity scheme 'csr'"):
        ratio_footprint(SHAPE, "csr", 0.5)
