"""Schemes: units and masks, ratios, and balanced random masks."""

from math import prod

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mest_compiler.errors import MaskError, ProfileError
from mest_compiler.sparsity.pattern import PATTERNS
from mest_compiler.sparsity.schemes import SCHEMES, get_scheme

from .lines import MOST_LINES, counted
from .strategies import SPELLINGS, layers, masks

RATIOS = st.sampled_from([0, 0.1, 0.5, 0.5556, 0.7, 0.9, 0.98]) | st.floats(0, 0.99)


def test_names_and_aliases():
    assert list(SCHEMES) == ["unstructured", "block", "pattern", "channel", "filter"]
    assert get_scheme("unstructured") is get_scheme("block:1x1")
    assert get_scheme("block") is get_scheme("block:4x1")
    assert get_scheme("block:8x2") == get_scheme("block:08x2")
    assert get_scheme("block:8x2").name == "block:8x2"
    assert [scheme.name for scheme in SCHEMES.values() if scheme.of_linears] == ["unstructured", "block"]
    assert [scheme.name for scheme in SCHEMES.values() if not scheme.fine] == ["channel", "filter"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("blok", r"no sparsity scheme 'blok' \(did you mean 'block'\?\): use one of unstructured, .*, block:MxN"),
        (None, "no sparsity scheme None"),
        (["block"], "no sparsity scheme"),
        ("auto", "no sparsity scheme 'auto'"),
        ("block:4", "no sparsity scheme 'block:4'"),
        ("block:-4x1", "no sparsity scheme"),
        ("block:0x1", "Blocks of scheme 'block:0x1' are out of range: use 1 to 16"),
        ("block:4x17", "out of range"),
        ("block:" + "9" * 5000 + "x1", "no sparsity scheme"),
    ],
)
def test_names_of_no_scheme_are_refused(name, sentence):
    with pytest.raises(ProfileError, match=sentence):
        get_scheme(name)


@given(layers())
def test_units_are_all_weights_once(layer):
    """Every weight is in one unit; a pattern's units of one kernel share theirs."""
    scheme, shape = layer
    weights = scheme.weights_of(np.arange(scheme.units(shape)), shape)
    assert (weights.dtype, weights.shape) == (np.int64, (scheme.units(shape), scheme.unit_size(shape)))
    assert all(len(set(unit)) == scheme.unit_size(shape) for unit in weights.tolist())
    times = np.bincount(weights.reshape(-1), minlength=prod(shape))
    if scheme.name == "pattern":
        taps = np.bincount([tap for pattern in PATTERNS for tap in pattern], minlength=9)
        np.testing.assert_array_equal(times.reshape(-1, 9), np.tile(taps, (len(times) // 9, 1)))
    else:
        assert (times == 1).all()
        assert scheme.most_kept(shape) == scheme.units(shape)


@given(layers(), st.data())
def test_some_units_are_where_all_of_them_say(layer, data):
    scheme, shape = layer
    units = np.array(data.draw(st.lists(st.integers(0, scheme.units(shape) - 1))), np.int32)
    every = scheme.weights_of(np.arange(scheme.units(shape)), shape)
    np.testing.assert_array_equal(scheme.weights_of(units, shape), every[units])


@given(masks())
def test_units_and_masks_are_inverse(scheme_mask):
    name, mask = scheme_mask
    scheme = get_scheme(name)
    kept = scheme.mask_to_units(mask)
    assert kept.shape == (scheme.units(mask.shape),)
    assert kept.sum() * scheme.unit_size(mask.shape) == mask.sum()
    assert kept.sum() <= scheme.most_kept(mask.shape)
    np.testing.assert_array_equal(scheme.units_to_mask(kept, mask.shape), mask)
    np.testing.assert_array_equal(scheme.cover(mask), mask)


@given(masks(), st.data())
def test_cover_keeps_all_and_no_more_than_units(scheme_mask, data):
    """Weights that are zero by chance take nothing along."""
    name, mask = scheme_mask
    scheme = get_scheme(name)
    lost = np.random.default_rng(data.draw(st.integers(0, 2**32))).random(mask.shape) < 0.3
    covered = scheme.cover(mask & ~lost)
    assert (covered | ~(mask & ~lost)).all()
    assert scheme.mask_to_units(covered).sum() <= scheme.mask_to_units(mask).sum()
    if scheme.name != "pattern":  # several patterns may cover what is left of a kernel
        assert not (covered & ~mask).any()


@given(masks(), st.data())
def test_a_mask_that_keeps_part_of_a_unit_is_refused(scheme_mask, data):
    name, mask = scheme_mask
    scheme = get_scheme(name)
    assume(scheme.unit_size(mask.shape) > 1)
    flipped = mask.copy()
    flipped.reshape(-1)[data.draw(st.integers(0, mask.size - 1))] ^= True
    with pytest.raises(MaskError, match=f"no mask of scheme '{name}'"):
        scheme.mask_to_units(flipped)


def test_a_unit_of_block_is_four_filters_by_one_column():
    mask = get_scheme("block").units_to_mask(np.arange(6) == 4, (8, 3, 1, 1))
    np.testing.assert_array_equal(np.argwhere(mask)[:, :2], [[4, 1], [5, 1], [6, 1], [7, 1]])


def test_a_unit_of_a_wide_block_is_its_channels_at_one_place_of_the_kernel():
    mask = get_scheme("block:2x3").units_to_mask(np.arange(8) == 7, (2, 6, 2, 2))
    np.testing.assert_array_equal(
        np.argwhere(mask), [[f, c, 1, 1] for f in range(2) for c in range(3, 6)]
    )  # fmt: skip


def test_units_of_planes_are_whole_channels_and_filters():
    shape = (4, 3, 3, 3)
    channel = get_scheme("channel").units_to_mask(np.array([False, True, False]), shape)
    assert channel[:, 1].all() and channel.sum() == 36
    filter_ = get_scheme("filter").units_to_mask(np.arange(4) == 2, shape)
    assert filter_[2].all() and filter_.sum() == 27
    assert (get_scheme("channel").grid(shape), get_scheme("filter").grid(shape)) == ((1, 3), (1, 4))


def test_patterns_are_eight_of_four_places():
    assert len(set(PATTERNS)) == 8
    assert all(len(set(pattern)) == 4 and max(pattern) < 9 for pattern in PATTERNS)
    mask = get_scheme("pattern").units_to_mask(np.arange(16) == 8, (1, 2, 3, 3))
    np.testing.assert_array_equal(mask[0, 1], [[0, 0, 0], [0, 1, 1], [0, 1, 1]])


def test_cover_keeps_a_block_for_any_of_its_weights():
    mask = np.zeros((8, 2, 1, 1), bool)
    mask[6, 1] = True
    np.testing.assert_array_equal(np.argwhere(get_scheme("block").cover(mask))[:, 0], [4, 5, 6, 7])


def test_a_kernel_that_no_pattern_covers_is_named():
    mask = np.zeros((2, 2, 3, 3), bool)
    mask[1, 0, 0, 0] = mask[1, 0, 2, 2] = True
    with pytest.raises(
        MaskError, match="No pattern covers the kernel of filter 1 and channel 0, which keeps places 0, 8"
    ):
        get_scheme("pattern").cover(mask)
    with pytest.raises(MaskError, match="filter 1 and channel 0 keeps places 0, 8, which is none of the eight"):
        get_scheme("pattern").mask_to_units(mask)


@given(layers(12), RATIOS, st.integers(0, 2**32))
def test_random_masks_are_balanced(layer, sparsity, seed):
    """As many units as were asked for, equally many a row up to one; with patterns exactly equally many."""
    scheme, shape = layer
    assume(sparsity >= scheme.lowest)
    mask = scheme.random_mask(shape, sparsity, np.random.default_rng(seed))
    of_rows = scheme.mask_to_units(mask).reshape(scheme.grid(shape)).sum(1)
    assert of_rows.sum() == scheme.kept_units(shape, sparsity)
    assert of_rows.max() - of_rows.min() <= (0 if scheme.name == "pattern" else 1)
    off = abs(mask.sum() - (1 - sparsity) * mask.size)
    slack = len(of_rows) if scheme.name == "pattern" else 1
    assert off <= (slack / 2 + 1e-6) * scheme.unit_size(shape)


@given(layers(), st.data())
def test_masks_of_given_row_lengths(layer, data):
    scheme, shape = layer
    rows, _ = scheme.grid(shape)
    sites = scheme.most_kept(shape) // rows
    quotas = np.array(data.draw(st.lists(st.integers(0, sites + 2), min_size=rows, max_size=rows)))
    mask = scheme.mask_of_rows(shape, quotas, np.random.default_rng(data.draw(st.integers(0, 2**32))))
    of_rows = scheme.mask_to_units(mask).reshape(scheme.grid(shape)).sum(1)
    np.testing.assert_array_equal(of_rows, np.minimum(quotas, sites))


@given(layers(12), RATIOS)
def test_kept_units_are_in_range_and_fall_with_the_sparsity(layer, sparsity):
    scheme, shape = layer
    assume(sparsity >= scheme.lowest)
    kept = scheme.kept_units(shape, sparsity)
    assert 0 <= kept <= scheme.most_kept(shape)
    assert scheme.kept_units(shape, min(sparsity + 0.005, 0.999)) <= kept
    assert scheme.kept_units(shape, scheme.lowest) == scheme.most_kept(shape)
    assert scheme.kept_units(shape, max(scheme.highest(shape), scheme.lowest)) >= 1


def test_columns_and_longer_rows_are_drawn_evenly():
    scheme, rng, count = get_scheme("unstructured"), np.random.default_rng(0), 2000
    drawn = sum(scheme.random_mask((4, 5, 1, 1), 0.5, rng).astype(int) for _ in range(count))
    # Ten of twenty weights are kept: each one in half of the masks, give or take five standard deviations.
    assert np.all(np.abs(drawn / count - 0.5) < 5 * 0.5 / count**0.5)


def test_patterns_are_drawn_evenly():
    scheme, rng = get_scheme("pattern"), np.random.default_rng(0)
    kept = scheme.mask_to_units(scheme.random_mask((256, 64, 3, 3), 0.8, rng)).reshape(-1, 8)
    count = kept.sum()
    assert np.all(np.abs(kept.sum(0) / count - 1 / 8) < 5 * (7 / 64 / count) ** 0.5)


def test_ratio_is_of_weights_and_rounds_to_the_nearest():
    assert get_scheme("block").kept_units((8, 10, 1, 1), 0.9) == 2
    assert get_scheme("unstructured").kept_units((128, 128, 3, 3), 0.9) == 14746
    # 90 % zeros are 22.5 % of the kernels, since each keeps four of nine weights
    assert get_scheme("pattern").kept_units((16, 80, 3, 3), 0.9) == 16 * 18
    assert get_scheme("channel").kept_units((8, 10, 3, 3), 0.9) == 1


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("sparsity", [1, -0.1, 90, float("nan"), "0.9", True, None])
def test_ratios_outside_the_range_are_refused(name, sparsity):
    with pytest.raises(ProfileError, match="give the fraction of weights that are zero"):
        get_scheme(name).kept_units((16, 16, 3, 3), sparsity)


def test_a_pattern_starts_at_five_ninths():
    scheme, shape = get_scheme("pattern"), (4, 6, 3, 3)
    assert scheme.kept_units(shape, 0.5556) == scheme.most_kept(shape) == 24
    with pytest.raises(ProfileError, match=r"sparsity of layer 'conv' is 0.5, below 0.5556 \(5/9\), the least that"):
        scheme.check_ratio("layer 'conv'", 0.5)
    with pytest.raises(ProfileError, match=r"below 0\.5556"):
        scheme.random_mask(shape, 0.2, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("name", "shape", "sentence"),
    [
        ("block", (6, 3, 3, 3), r"Layer 'conv' has 6 filters, .* blocks of 4: keep it dense"),
        ("block:2x4", (6, 6, 3, 3), r"Layer 'conv' has 6 input channels, .* blocks of 4"),
        (
            "pattern",
            (8, 8, 1, 1),
            r"Layer 'conv' has 1x1 kernels, but scheme 'pattern' needs 3x3: keep it dense or give",
        ),
        ("pattern", (8, 8, 3, 1), "has 3x1 kernels"),
        ("unstructured", (10, 128), r"Layer 'conv' .* needs \[filters"),
        ("channel", (10, 0, 3, 3), "each at least 1"),
        ("filter", (1, 2, 3, 4, 5), "needs"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(name, shape, sentence):
    with pytest.raises(ProfileError, match=sentence):
        get_scheme(name).check_shape("conv", shape)


@pytest.mark.parametrize("name", SPELLINGS)
def test_arrays_that_are_no_masks_are_refused(name):
    scheme = get_scheme(name)
    for call in (scheme.mask_to_units, scheme.cover):
        with pytest.raises(MaskError, match=r"not float64 of shape \(8, 4, 3, 3\)"):
            call(np.ones((8, 4, 3, 3)))
        with pytest.raises(MaskError, match=r"not bool of shape \(8, 9\)"):
            call(np.ones((8, 9), bool))
        with pytest.raises(MaskError, match="not list"):
            call([[True]])
    with pytest.raises(MaskError, match=r"a bool array of \d+, not bool of shape \(3,\)"):
        scheme.units_to_mask(np.ones(3, bool), (8, 8, 3, 3))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("block", "of filters 4 to 7, channels 1 to 1, place 4 some weights are kept, some are not"),
        ("block:2x2", "of filters 4 to 5, channels 0 to 1, place 4 some"),
        ("pattern", "the kernel of filter 5 and channel 1 keeps places 4, which"),
        ("channel", "of channel 1 some"),
        ("filter", "of filter 5 some"),
    ],
)
def test_the_unit_that_is_kept_in_part_is_named(name, sentence):
    part = np.zeros((8, 2, 3, 3), bool)
    part[5, 1, 1, 1] = True
    with pytest.raises(MaskError, match=f"no mask of scheme '{name}': {sentence}"):
        get_scheme(name).mask_to_units(part)


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_large_layer_takes_no_loop_over_units(name):
    scheme, shape = get_scheme(name), (512, 512, 3, 3)

    def work() -> None:
        mask = scheme.random_mask(shape, 0.9, np.random.default_rng(0))
        scheme.weights_of(np.arange(scheme.units(shape)), shape)
        scheme.mask_to_units(mask)

    assert counted(work)[1] < MOST_LINES
