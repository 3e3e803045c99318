"""Masks by magnitude: what is largest stays, as the scheme cuts it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mest_compiler.errors import MaskError, ProfileError
from mest_compiler.sparsity.magnitude import magnitude_masks
from mest_compiler.sparsity.pattern import PATTERNS
from mest_compiler.sparsity.profile import LayerPlan

from .strategies import layers


@given(layers(), st.floats(0, 0.99), st.integers(0, 2**32))
def test_no_unit_that_goes_is_larger_than_one_that_stays(layer, ratio, seed) -> None:
    scheme, shape = layer
    ratio = max(ratio, scheme.lowest)
    weight = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    mask = magnitude_masks({"w": LayerPlan(scheme.name, ratio)}, {"w": weight})["w"]
    kept = scheme.units_of(mask)  # raises where this is no mask of the scheme
    assert len(kept) == scheme.kept_units(shape, ratio)
    rows, columns = scheme.grid(shape)
    if scheme.balanced:
        assert set(np.bincount(kept // columns, minlength=rows)) == {len(kept) // rows}
    if scheme.name != "pattern":
        # by the definition alone: the sum of |w| over each unit, taken from its own mask
        sums = np.array([np.abs(weight[scheme.mask_of(np.array([u]), shape)]).sum() for u in range(rows * columns)])
        gone = np.delete(sums, kept)
        assert not (len(kept) and len(gone)) or sums[kept].min() >= gone.max() * (1 - 1e-5)


def test_a_kernel_keeps_its_best_pattern_and_a_filter_its_best_kernels() -> None:
    shape = (4, 6, 3, 3)
    weight = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    mask = magnitude_masks({"w": LayerPlan("pattern", 1 - 2 / 6 * 4 / 9)}, {"w": weight})["w"]
    for of_filter, kept in zip(np.abs(weight), mask, strict=True):
        best = [max(sum(kernel.reshape(-1)[list(places)]) for places in PATTERNS) for kernel in of_filter]
        found = np.flatnonzero(kept.any(axis=(1, 2)))
        assert set(found) == set(np.argsort(best)[-2:])
        for channel in found:
            assert of_filter[channel][kept[channel]].sum() == pytest.approx(best[channel])


def test_a_block_counts_by_its_sum_and_not_by_its_largest() -> None:
    weight = np.zeros((4, 2, 1, 1), np.float32)
    weight[:, 0, 0, 0] = [0.4, -0.4, 0.4, -0.4]
    weight[0, 1] = 1.0
    mask = magnitude_masks({"w": LayerPlan("block", 0.5)}, {"w": weight})["w"]
    np.testing.assert_array_equal(mask[:, :, 0, 0], [[True, False]] * 4)


def test_a_linear_layer_is_one_of_1x1_kernels() -> None:
    weight = np.array([[3.0, -1.0], [0.5, -2.0]])
    mask = magnitude_masks({"fc": LayerPlan("unstructured", 0.5)}, {"fc": weight})["fc"]
    np.testing.assert_array_equal(mask[:, :, 0, 0], [[True, False], [False, True]])


def test_what_cannot_be_pruned_is_refused() -> None:
    plan, weight = {"w": LayerPlan("block", 0.5)}, np.ones((4, 2, 3, 3))
    with pytest.raises(MaskError, match="no weights of 'w'"):
        magnitude_masks(plan, {})
    weight[0, 0, 0, 0] = np.nan
    with pytest.raises(MaskError, match="'w' are not finite"):
        magnitude_masks(plan, {"w": weight})
    with pytest.raises(ProfileError, match="Layer 'w' has 3 filters"):
        magnitude_masks(plan, {"w": np.ones((3, 2, 3, 3))})
    with pytest.raises(ProfileError, match=r"below 0\.5556"):
        magnitude_masks({"w": LayerPlan("pattern", 0.1)}, {"w": np.ones((4, 2, 3, 3))})
