"""Which units a mutation removes and grows, against brute force, on every scheme and on awkward layers and masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mest_compiler.errors import MaskError
from mest_compiler.sparsity.mutation import Change, check_balanced, grow_to, importance, remove_to
from mest_compiler.sparsity.schemes import Scheme, Shape, get_scheme
from mest_compiler.sparsity.structure import from_units

from .strategies import layers, masks

PATTERN = get_scheme("pattern")
seeds = st.integers(0, 2**32)


@st.composite
def layers_in_training(draw: st.DrawFn) -> tuple[Scheme, Shape, np.ndarray, np.random.Generator]:
    """(scheme, shape, ascending kept ids, generator): empty, full or between; rows uneven too."""
    name, mask = draw(masks())
    scheme = get_scheme(name)
    kept = np.flatnonzero(scheme.mask_to_units(mask)).astype(np.int32)
    return scheme, mask.shape, kept, np.random.default_rng(draw(seeds))


def a_count(data: st.DataObject, scheme: Scheme, shape: Shape) -> int:
    """A number of units that some mask of the scheme keeps."""
    rows = scheme.grid(shape)[0] if scheme.balanced else 1
    return rows * data.draw(st.integers(0, scheme.most_kept(shape) // rows))


def rows_of(scheme: Scheme, shape: Shape, units: np.ndarray) -> np.ndarray:
    """int [n]: what the units compete in: their row where rows are balanced, else the layer."""
    return units // scheme.grid(shape)[1] if scheme.balanced else np.zeros(len(units), int)


def check_legal(scheme: Scheme, shape: Shape, units: np.ndarray) -> None:
    """Fails unless these are the units of a mask, as every engine wants them."""
    assert units.dtype == np.int32 and np.all(np.diff(units.astype(np.int64)) > 0)
    structure = from_units(units, shape, scheme.name)
    kept = np.zeros(scheme.units(shape), bool)
    kept[units] = True
    mask = scheme.units_to_mask(kept, shape)
    np.testing.assert_array_equal(structure.to_mask(), mask)
    np.testing.assert_array_equal(np.flatnonzero(scheme.mask_to_units(mask)), units)
    assert mask.sum() == len(units) * scheme.unit_size(shape)


# ---- importance
@given(layers(), st.sampled_from([0, 0.001, 0.01, 3]), st.sampled_from([np.float32, np.float64]), seeds)
def test_importance_is_the_dense_formula_summed_over_units(layer, coefficient, dtype, seed) -> None:
    scheme, shape = layer
    rng = np.random.default_rng(seed)
    weight, gradient = rng.normal(size=(2, *shape)).astype(dtype)
    kept = np.flatnonzero(scheme.mask_to_units(scheme.random_mask(shape, max(scheme.lowest, 0.6), rng)))
    of_weights = np.abs(weight.astype(float)) + np.abs(coefficient * gradient.astype(float))
    wanted = []
    for unit in kept:
        alone = np.zeros(scheme.units(shape), bool)
        alone[unit] = True
        wanted.append(of_weights[scheme.units_to_mask(alone, shape)].sum())
    places = scheme.weights_of(kept, shape)
    found = importance(weight.reshape(-1)[places], gradient.reshape(-1)[places], coefficient)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_a_gradient_of_either_sign_counts() -> None:
    found = importance(np.array([[1.0, -2.0], [0.0, 0.0]]), np.array([[-3.0, 3.0], [10.0, -10.0]]), 0.5)
    np.testing.assert_array_equal(found, [6.0, 10.0])


# ---- removal
@given(layers_in_training(), st.data())
def test_the_most_important_stay(layer, data) -> None:
    scheme, shape, kept, rng = layer
    count = a_count(data, scheme, shape)
    # few different values, so that equals are common
    weight = rng.integers(0, data.draw(st.sampled_from([1, 3, 1000])), len(kept)).astype(float)
    found = remove_to(scheme, shape, kept, weight, count)
    check_legal(scheme, shape, found)
    groups = scheme.grid(shape)[0] if scheme.balanced else 1
    wanted = []
    for row in range(groups):
        own = np.flatnonzero(rows_of(scheme, shape, kept) == row)
        # the least important goes first, of equals the one with the smaller id
        going = sorted(own, key=lambda i: (weight[i], kept[i]))[: max(len(own) - count // groups, 0)]
        wanted += [kept[i] for i in own if i not in going]
    np.testing.assert_array_equal(found, sorted(wanted))
    if not scheme.balanced:
        assert len(found) == min(count, len(kept))
    np.testing.assert_array_equal(found, remove_to(scheme, shape, kept.astype(np.int64), weight, count))


def test_nothing_removed_outranks_what_stays() -> None:
    kept, weight = np.array([1, 4, 5, 9]), np.array([0.5, 0.1, 0.5, 0.2])
    shape = (2, 5, 1, 1)
    stays = {n: remove_to(get_scheme("unstructured"), shape, kept, weight, n).tolist() for n in range(5)}
    assert stays == {0: [], 1: [5], 2: [1, 5], 3: [1, 5, 9], 4: [1, 4, 5, 9]}


def test_every_filter_keeps_its_own_most_important_kernels() -> None:
    # filter 0 holds all large ones and still loses as many kernels as filter 1
    kept, weight = np.array([0, 9, 18, 24, 33, 42]), np.array([9.0, 8, 7, 1, 3, 2])
    np.testing.assert_array_equal(remove_to(PATTERN, (2, 3, 3, 3), kept, weight, 4), [0, 9, 33, 42])


# ---- growth
@given(layers_in_training(), st.data())
def test_growth_keeps_all_and_reaches_its_count(layer, data) -> None:
    scheme, shape, kept, rng = layer
    count = a_count(data, scheme, shape)
    found = grow_to(scheme, shape, kept, count, rng)
    check_legal(scheme, shape, found)  # ids ascend, so none is doubled
    assert np.isin(kept, found).all()
    rows, columns = scheme.grid(shape)
    if scheme.balanced:
        wanted = np.maximum(np.bincount(kept // columns, minlength=rows), count // rows)
        np.testing.assert_array_equal(np.bincount(found // columns, minlength=rows), wanted)
    else:
        assert len(found) == max(len(kept), count)
    sites = (found // columns).astype(np.int64) * columns + scheme.site(found % columns)
    assert len(np.unique(sites)) == len(found)


@given(layers(), seeds, st.data())
def test_a_mutation_there_and_back_is_exact(layer, seed, data) -> None:
    scheme, shape = layer
    rng = np.random.default_rng(seed)
    low, base, high = sorted(a_count(data, scheme, shape) for _ in range(3))
    kept = grow_to(scheme, shape, np.zeros(0, np.int32), base, rng)
    check_legal(scheme, shape, kept)
    assert len(kept) == base
    survivors = remove_to(scheme, shape, kept, rng.random(base), low)
    again = grow_to(scheme, shape, survivors, base, rng)
    assert (len(survivors), len(again)) == (low, base)
    assert Change(survivors, again).grown == base - low
    more = grow_to(scheme, shape, again, high, rng)
    assert len(more) == high
    assert len(remove_to(scheme, shape, more, rng.random(len(more)), base)) == base


@given(layers_in_training(), seeds, st.data())
def test_growth_is_its_generator(layer, seed, data) -> None:
    scheme, shape, kept, _ = layer
    count = a_count(data, scheme, shape)
    a, b = (np.random.default_rng(seed) for _ in range(2))
    found = grow_to(scheme, shape, kept, count, a)
    np.testing.assert_array_equal(grow_to(scheme, shape, kept.astype(np.int64), count, b), found)
    assert a.bit_generator.state == b.bit_generator.state


@pytest.mark.parametrize("name", ["unstructured", "block", "block:1x4", "block:4x4", "pattern", "channel", "filter"])
def test_every_empty_unit_is_equally_likely(name: str) -> None:
    scheme, shape = get_scheme(name), (8, 8, 3, 3)
    columns, rng = scheme.grid(shape)[1], np.random.default_rng(0)
    half = scheme.most_kept(shape) // 2
    kept = grow_to(scheme, shape, np.zeros(0, np.int32), half, rng)
    rows = scheme.grid(shape)[0]
    more = rows * max(1, half // (4 * rows)) if scheme.balanced else max(1, half // 4)
    rounds, drawn = 1500, np.zeros(scheme.units(shape))
    for _ in range(rounds):
        drawn[np.setdiff1d(grow_to(scheme, shape, kept, half + more, rng), kept)] += 1
    taken = kept // columns * columns + scheme.site(kept % columns)
    every = np.arange(scheme.units(shape))
    empty = ~np.isin(every // columns * columns + scheme.site(every % columns), taken)
    assert not drawn[~empty].any()
    chance = more / empty.sum()
    deviation = np.sqrt(rounds * chance * (1 - chance))
    # of some hundred units none strays by five deviations, and together they stray as a multinomial does
    assert np.abs(drawn[empty] - rounds * chance).max() < 5 * deviation
    assert 0.5 < (drawn[empty] - rounds * chance).std() / deviation < 1.5


# ---- hostile layers
@pytest.mark.parametrize("name", ["unstructured", "pattern", "channel", "filter"])
def test_a_layer_of_a_single_row_and_kernel(name: str) -> None:
    scheme, shape = get_scheme(name), (1, 1, 3, 3)
    rng, none = np.random.default_rng(0), np.zeros(0, np.int32)
    full = grow_to(scheme, shape, none, scheme.most_kept(shape), rng)
    assert len(full) == scheme.most_kept(shape)
    np.testing.assert_array_equal(grow_to(scheme, shape, full, len(full), rng), full)
    np.testing.assert_array_equal(remove_to(scheme, shape, full, np.zeros(len(full)), 0), none)
    assert remove_to(scheme, shape, none, np.zeros(0), scheme.most_kept(shape)).dtype == np.int32
    np.testing.assert_array_equal(grow_to(scheme, shape, none, 0, rng), none)


def test_a_pattern_layer_with_uneven_rows_cannot_mutate() -> None:
    check_balanced("conv", PATTERN, (2, 3, 3, 3), np.array([0, 9, 24, 33]))
    check_balanced("conv", PATTERN, (2, 3, 3, 3), np.zeros(0, int))
    check_balanced("conv", get_scheme("block"), (8, 3, 3, 3), np.array([0, 1, 2]))
    with pytest.raises(MaskError, match="Layer 'conv' keeps 0 to 2 units in its 2 rows, but scheme 'pattern' mutates"):
        check_balanced("conv", PATTERN, (2, 3, 3, 3), np.array([0, 9]))


@given(layers(), st.sampled_from([-1, 1]))
def test_counts_that_no_mask_has(layer, beyond: int) -> None:
    scheme, shape = layer
    count = -1 if beyond < 0 else scheme.most_kept(shape) + 1
    none = np.zeros(0, np.int32)
    for mutate in (
        lambda: grow_to(scheme, shape, none, count, np.random.default_rng(0)),
        lambda: remove_to(scheme, shape, none, np.zeros(0), count),
    ):
        with pytest.raises(MaskError, match=f"can keep 0 to {scheme.most_kept(shape)} units, not {count}"):
            mutate()


def test_kernels_that_filters_cannot_share_out() -> None:
    with pytest.raises(MaskError, match="5 units cannot be shared out evenly to the 4 rows"):
        grow_to(PATTERN, (4, 3, 3, 3), np.zeros(0, np.int32), 5, np.random.default_rng(0))
    with pytest.raises(MaskError, match="There are 2 importances for 3 units"):
        remove_to(PATTERN, (4, 3, 3, 3), np.arange(3) * 8, np.zeros(2), 4)
