"""Structures: what a mask becomes, and what is taken along when it changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mest_compiler.errors import MaskError, ProfileError, StructureError
from mest_compiler.sparsity.layer_spec import INT32_MAX
from mest_compiler.sparsity.schemes import get_scheme
from mest_compiler.sparsity.structure import Structure, build, deal_rows

from .lines import MOST_LINES, counted
from .strategies import SPELLINGS, legal_units, masks

SPARE = st.integers(0, 5)
PARTS = st.integers(1, 9)


def with_spare(scheme, mask, spare, parts=1):
    """A structure with `spare` entries of capacity left."""
    kept = int(get_scheme(scheme).mask_to_units(mask).sum())
    return build(mask, scheme, capacity=max(kept + spare, 1), parts=parts)


def weight_of(mask, dtype=np.float32):
    """A weight that is nowhere zero where the mask keeps it, and zero elsewhere."""
    return np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0).astype(dtype)


@given(masks(), SPARE, PARTS)
def test_mask_round_trip(scheme_mask, spare, parts):
    scheme, mask = scheme_mask
    structure = with_spare(scheme, mask, spare, parts)
    structure.validate()
    np.testing.assert_array_equal(structure.to_mask(), mask)
    assert (structure.order.dtype, structure.row_ptr.dtype, structure.col.dtype) == (np.int32,) * 3
    assert structure.entries * structure.spec.unit_size == mask.sum()
    assert (structure.spec.rows, structure.spec.columns) == structure.spec.kind.grid(mask.shape)
    assert structure.spec.kind == get_scheme(scheme)
    np.testing.assert_array_equal(
        np.sort(structure.unit_ids()), np.flatnonzero(structure.spec.kind.mask_to_units(mask))
    )  # fmt: skip


@given(masks(), SPARE, PARTS)
def test_entries_stand_by_row_and_column(scheme_mask, spare, parts):
    scheme, mask = scheme_mask
    structure = with_spare(scheme, mask, spare, parts)
    units = structure.spec.kind.mask_to_units(mask).reshape(structure.spec.rows, structure.spec.columns)
    expected = [(row, col) for row in structure.order for col in np.flatnonzero(units[row])]
    found = list(zip(structure.row_of_entry(), structure.col[: structure.entries], strict=True))
    assert found == expected
    np.testing.assert_array_equal(structure.lengths, units.sum(1)[structure.order])


@given(masks(), SPARE, st.sampled_from([np.float16, np.float32, np.float64]))
def test_compact_and_expand_are_inverse(scheme_mask, spare, dtype):
    scheme, mask = scheme_mask
    structure = with_spare(scheme, mask, spare)
    weight = weight_of(mask, dtype)
    values = structure.compact(weight)
    assert values.shape == (structure.spec.capacity, structure.spec.unit_size)
    assert values.dtype == dtype
    assert not values[structure.entries :].any()
    np.testing.assert_array_equal(structure.expand(values), weight)
    np.testing.assert_array_equal(structure.compact(structure.expand(values)), values)


@pytest.mark.parametrize(
    ("scheme", "shape", "kept", "values"),
    [
        ("block", (8, 1, 1, 2), [3], [[9, 11, 13, 15]]),
        # channels outside, filters inside: what one channel feeds stands together
        ("block:2x2", (2, 2, 1, 2), [1], [[1, 5, 3, 7]]),
        ("pattern", (1, 2, 3, 3), [8 + 7], [[10, 12, 13, 16]]),
        ("channel", (2, 2, 1, 2), [1], [[2, 3, 6, 7]]),
        ("filter", (2, 2, 1, 2), [1], [[4, 5, 6, 7]]),
    ],
)
def test_values_of_an_entry_stand_in_order(scheme, shape, kept, values):
    kind = get_scheme(scheme)
    structure = build(kind.units_to_mask(np.isin(np.arange(kind.units(shape)), kept), shape), scheme)
    weight = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    np.testing.assert_array_equal(structure.compact(weight), values)
    np.testing.assert_array_equal(structure.places(), values)


@given(masks(), st.integers(0, 2**32), SPARE, SPARE, PARTS)
def test_remap_keeps_common_weights_and_fills_grown_ones(scheme_mask, seed, spare, new_spare, parts):
    """A unit carries over whole or not at all: a kernel that changes its pattern starts anew in all four places."""
    scheme, mask = scheme_mask
    kind, rng = get_scheme(scheme), np.random.default_rng(seed)
    units = kind.mask_to_units(mask)
    flipped = (units ^ (rng.random(units.size) < 0.3)).reshape(kind.grid(mask.shape))
    new_units = legal_units(kind, flipped, rng).reshape(-1)
    new_mask = kind.units_to_mask(new_units, mask.shape)
    common = kind.units_to_mask(units & new_units, mask.shape)
    old, new = with_spare(scheme, mask, spare), with_spare(scheme, new_mask, new_spare, parts)
    weight = weight_of(mask)
    moved = old.remap(new, old.compact(weight))
    assert (moved.dtype, moved.shape) == (np.float32, (new.spec.capacity, new.spec.unit_size))
    assert not moved[new.entries :].any()
    np.testing.assert_array_equal(new.expand(moved), np.where(common, weight, 0))
    survivors = np.intersect1d(old.unit_ids(), new.unit_ids())[::2]
    some = new.expand(old.remap(new, old.compact(weight), survivors))
    carried = np.zeros(mask.size, bool)
    carried[old.spec.kind.weights_of(survivors, old.spec.shape)] = True
    np.testing.assert_array_equal(some, np.where(carried.reshape(mask.shape), weight, 0))


@given(masks(), SPARE, PARTS)
def test_arrays_round_trip(scheme_mask, spare, parts):
    scheme, mask = scheme_mask
    structure = with_spare(scheme, mask, spare, parts)
    again = Structure.from_arrays(structure.to_arrays())
    assert again.spec == structure.spec
    for name in ("order", "row_ptr", "col"):
        np.testing.assert_array_equal(getattr(again, name), getattr(structure, name))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), PARTS)
def test_rows_are_dealt_out_evenly(lengths, parts):
    lengths = np.array(lengths)
    order = deal_rows(lengths, parts)
    np.testing.assert_array_equal(np.sort(order), np.arange(len(lengths)))
    size = -(-len(lengths) // parts)
    runs = [lengths[order[start : start + size]] for start in range(0, len(lengths), size)]
    for run in runs:
        assert np.all(np.diff(run) <= 0)
    if len(lengths) % parts == 0:
        work = [run.sum() for run in runs]
        assert max(work) - min(work) <= lengths.max() - lengths.min()


def test_one_part_is_sorted_by_falling_length_and_stable():
    np.testing.assert_array_equal(deal_rows(np.array([1, 3, 1, 3, 2]), 1), [1, 3, 4, 0, 2])


def test_parts_are_dealt_to_and_fro():
    """Runs of 7 + 1 and 5 + 3: dealt one way only they would be 7 + 3 and 5 + 1."""
    np.testing.assert_array_equal(deal_rows(np.array([7, 5, 3, 1]), 2), [0, 3, 1, 2])


@pytest.mark.parametrize("scheme", SPELLINGS)
def test_an_empty_layer_still_has_room_for_one_entry(scheme):
    shape = (8, 4, 3, 3)
    structure = build(np.zeros(shape, bool), scheme)
    assert (structure.entries, structure.spec.capacity) == (0, 1)
    assert not structure.to_mask().any()
    assert not structure.expand(structure.compact(np.ones(shape, np.float32))).any()
    grown = build(get_scheme(scheme).random_mask(shape, 0.6, np.random.default_rng(0)), scheme)
    assert not structure.remap(grown, structure.compact(np.ones(shape))).any()
    assert not grown.remap(structure, grown.compact(np.ones(shape))).any()


def test_nearly_five_million_entries_build_without_a_loop_over_them():
    mask = np.ones((1024, 512, 3, 3), bool)
    structure, lines = counted(lambda: build(mask, "unstructured", parts=2))
    assert structure.entries == mask.size and lines < MOST_LINES


def test_build_refuses_what_it_cannot_hold():
    mask = np.ones((4, 3, 1, 1), bool)
    with pytest.raises(StructureError, match="keeps 12 units, more than the capacity 11"):
        build(mask, "unstructured", capacity=11)
    with pytest.raises(StructureError, match="capacity of 0 entries: use at least 1"):
        build(mask, "unstructured", capacity=0)
    with pytest.raises(StructureError, match="dealt out to 0 parts"):
        build(mask, "unstructured", parts=0)
    with pytest.raises(StructureError, match="more than 32-bit indices can reach: lower the capacity"):
        build(mask, "block", capacity=INT32_MAX // 4 + 1)
    with pytest.raises(ProfileError, match=r"6 filters.*blocks of 4"):
        build(np.ones((6, 3, 1, 1), bool), "block")
    mask[1, 2] = False
    with pytest.raises(MaskError, match="of filters 0 to 3, channels 2 to 2, place 0 some weights are kept"):
        build(mask, "block")


def test_wrong_partners_are_refused():
    structure = build(np.ones((4, 3, 1, 1), bool), "unstructured")
    other = build(np.ones((4, 3, 1, 1), bool), "block")
    with pytest.raises(StructureError, match=r"cannot compact a weight of shape \(4, 3, 3, 3\)"):
        structure.compact(np.ones((4, 3, 3, 3)))
    with pytest.raises(StructureError, match=r"Values of shape \(12,\).*values are \(12, 1\)"):
        structure.expand(np.ones(12))
    with pytest.raises(StructureError, match="cannot move to a block structure"):
        structure.remap(other, np.ones((12, 1)))
