"""Schemes: units and masks, ratios, and balanced random masks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mest_compiler.errors import MaskError, ProfileError
from mest_compiler.sparsity.schemes import SCHEMES, get_scheme

from .strategies import masks


def test_names_and_aliases():
    assert get_scheme("unstructured").block == 1
    assert get_scheme("block") is get_scheme("block:4x1")
    assert get_scheme("block").block == 4
    with pytest.raises(ProfileError, match=r"no sparsity scheme 'blok' \(did you mean 'block'\?\): use one of"):
        get_scheme("blok")
    with pytest.raises(ProfileError, match="no sparsity scheme None"):
        get_scheme(None)


@given(masks())
def test_units_and_masks_are_inverse(scheme_mask):
    name, mask = scheme_mask
    scheme = get_scheme(name)
    kept = scheme.mask_to_units(mask)
    assert kept.shape == (scheme.units(mask.shape),)
    assert kept.sum() * scheme.block == mask.sum()
    np.testing.assert_array_equal(scheme.units_to_mask(kept, mask.shape), mask)
    np.testing.assert_array_equal(scheme.cover(mask), mask)


def test_a_unit_of_block_is_four_filters_by_one_column():
    mask = get_scheme("block").units_to_mask(np.arange(6) == 4, (8, 3, 1, 1))
    np.testing.assert_array_equal(np.argwhere(mask)[:, :2], [[4, 1], [5, 1], [6, 1], [7, 1]])


def test_cover_keeps_a_block_for_any_of_its_weights():
    mask = np.zeros((8, 2, 1, 1), bool)
    mask[6, 1] = True
    np.testing.assert_array_equal(np.argwhere(get_scheme("block").cover(mask))[:, 0], [4, 5, 6, 7])


@given(
    st.sampled_from(SCHEMES),
    st.integers(1, 8),
    st.integers(1, 30),
    st.sampled_from([0, 0.1, 0.5, 0.9, 0.98]),
    st.integers(0, 2**32),
)
def test_random_masks_are_balanced(scheme, rows, channels, sparsity, seed):
    shape = (rows * scheme.block, channels, 1, 3)
    mask = scheme.random_mask(shape, sparsity, np.random.default_rng(seed))
    kept = scheme.mask_to_units(mask).reshape(rows, -1).sum(1)
    assert kept.sum() == round((1 - sparsity) * scheme.units(shape))
    assert kept.max() - kept.min() <= 1


def test_columns_and_longer_rows_are_drawn_evenly():
    scheme, rng, count = get_scheme("unstructured"), np.random.default_rng(0), 2000
    drawn = sum(scheme.random_mask((4, 5, 1, 1), 0.5, rng).astype(int) for _ in range(count))
    # Ten of twenty weights are kept: each one in half of the masks, give or take five standard deviations.
    assert np.all(np.abs(drawn / count - 0.5) < 5 * 0.5 / count**0.5)


def test_ratio_is_of_weights_and_rounds_to_the_nearest():
    assert get_scheme("block").kept_units((8, 10, 1, 1), 0.9) == 2
    assert get_scheme("unstructured").kept_units((128, 128, 3, 3), 0.9) == 14746


@pytest.mark.parametrize("sparsity", [1, -0.1, 90, float("nan"), "0.9", True, None])
def test_ratios_outside_the_range_are_refused(sparsity):
    with pytest.raises(ProfileError, match="give the fraction of weights that are zero"):
        get_scheme("block").kept_units((4, 4, 1, 1), sparsity)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ProfileError, match=r"Layer 'conv' has 6 filters, .* blocks of 4: keep it dense"):
        get_scheme("block").check_shape("conv", (6, 3, 3, 3))
    with pytest.raises(ProfileError, match=r"Layer 'fc' .* needs"):
        get_scheme("unstructured").check_shape("fc", (10, 128))


def test_arrays_that_are_no_masks_are_refused():
    scheme = get_scheme("block")
    with pytest.raises(MaskError, match=r"not float64 of shape \(4, 1, 1, 1\)"):
        scheme.mask_to_units(np.ones((4, 1, 1, 1)))
    with pytest.raises(MaskError, match=r"not bool of shape \(4, 9\)"):
        scheme.mask_to_units(np.ones((4, 9), bool))
    with pytest.raises(MaskError, match="not list"):
        scheme.mask_to_units([[True]])
    with pytest.raises(MaskError, match="bool array of 2, not bool of shape"):
        scheme.units_to_mask(np.ones(3, bool), (8, 1, 1, 1))
    part = np.zeros((8, 2, 1, 2), bool)
    part[5, 1, 0, 0] = True
    with pytest.raises(MaskError, match="no mask of scheme 'block': of filters 4 to 7 some keep column 2"):
        scheme.mask_to_units(part)
