"""Structures: what a mask becomes, and what is taken along when it changes."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mest_compiler.errors import MaskError, ProfileError, StructureError
from mest_compiler.sparsity.schemes import get_scheme
from mest_compiler.sparsity.structure import Structure, build, deal_rows
from mest_compiler.sparsity.structure_checks import INT32_MAX

from .strategies import masks

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
    assert structure.entries * structure.block == mask.sum()


@given(masks(), SPARE, PARTS)
def test_entries_stand_by_row_and_column(scheme_mask, spare, parts):
    scheme, mask = scheme_mask
    structure = with_spare(scheme, mask, spare, parts)
    units = mask.reshape(structure.rows, structure.block, -1)[:, 0]
    expected = [(row, col) for row in structure.order for col in np.flatnonzero(units[row])]
    found = list(zip(structure.row_of_entry(), structure.col[: structure.entries], strict=True))
    assert found == expected


@given(masks(), SPARE, st.sampled_from([np.float16, np.float32, np.float64]))
def test_compact_and_expand_are_inverse(scheme_mask, spare, dtype):
    scheme, mask = scheme_mask
    structure = with_spare(scheme, mask, spare)
    weight = weight_of(mask, dtype)
    values = structure.compact(weight)
    assert values.shape == (structure.capacity, structure.block)
    assert values.dtype == dtype
    assert not values[structure.entries :].any()
    np.testing.assert_array_equal(structure.expand(values), weight)
    np.testing.assert_array_equal(structure.compact(structure.expand(values)), values)


def test_a_block_entry_holds_its_filters_in_order():
    mask = np.zeros((8, 1, 1, 2), bool)
    mask[4:, 0, 0, 1] = True
    structure = build(mask, "block")
    weight = np.arange(16, dtype=np.float32).reshape(mask.shape)
    np.testing.assert_array_equal(structure.compact(weight), [[9, 11, 13, 15]])
    np.testing.assert_array_equal(structure.order, [1, 0])


@given(masks(), SPARE, st.integers(1, 12))
def test_group_pointers_bound_every_group(scheme_mask, spare, groups):
    """Group counts that divide the channels, that do not, and that are larger."""
    scheme, mask = scheme_mask
    structure = with_spare(scheme, mask, spare)
    pointers = structure.group_pointers(groups)
    assert pointers.dtype == np.int32
    assert pointers.shape == (structure.rows * groups + 1,)
    assert (pointers[0], pointers[-1]) == (0, structure.entries)
    size = -(-structure.shape[1] // groups)
    for position in range(structure.rows):
        assert pointers[position * groups] == structure.row_ptr[position]
        for group in range(groups):
            low, high = pointers[position * groups + group :][:2]
            channels = structure.col[low:high] // structure.taps
            assert np.all((channels >= group * size) & (channels < (group + 1) * size))


@given(masks(), SPARE, PARTS)
def test_transpose_sorts_by_channel_position_and_tap(scheme_mask, spare, parts):
    scheme, mask = scheme_mask
    structure = with_spare(scheme, mask, spare, parts)
    index = structure.transpose()
    entries = structure.entries
    assert (index.perm.dtype, index.channel_ptr.dtype) == (np.int32, np.int32)
    assert (index.perm.shape, index.channel_ptr.shape) == ((structure.capacity,), (structure.shape[1] + 1,))
    assert not index.perm[entries:].any()
    np.testing.assert_array_equal(np.sort(index.perm[:entries]), np.arange(entries))
    position = np.repeat(np.arange(structure.rows), np.diff(structure.row_ptr))
    keys = [
        (structure.col[entry] // structure.taps, position[entry], structure.col[entry] % structure.taps)
        for entry in index.perm[:entries]
    ]
    assert keys == sorted(keys)
    for channel in range(structure.shape[1]):
        run = keys[index.channel_ptr[channel] : index.channel_ptr[channel + 1]]
        assert {key[0] for key in run} <= {channel}
    assert (index.channel_ptr[0], index.channel_ptr[-1]) == (0, entries)


def test_transpose_of_more_channels_than_sixteen_bits():
    mask = np.zeros((1, 2**16 + 2, 1, 1), bool)
    mask[0, [0, 1, 2**16, 2**16 + 1]] = True
    np.testing.assert_array_equal(build(mask, "unstructured").transpose().perm, [0, 1, 2, 3])


@given(masks(), st.integers(0, 2**32), SPARE, SPARE, PARTS)
def test_remap_keeps_common_weights_and_fills_grown_ones(scheme_mask, seed, spare, new_spare, parts):
    scheme, mask = scheme_mask
    kind = get_scheme(scheme)
    units = kind.mask_to_units(mask)
    flipped = units ^ (np.random.default_rng(seed).random(units.size) < 0.3)
    new_mask = kind.units_to_mask(flipped, mask.shape)
    old, new = with_spare(scheme, mask, spare), with_spare(scheme, new_mask, new_spare, parts)
    weight = weight_of(mask)
    moved = old.remap(new, old.compact(weight))
    assert moved.dtype == np.float32
    assert not moved[new.entries :].any()
    np.testing.assert_array_equal(new.expand(moved), np.where(new_mask, weight, 0))
    filled = new.expand(old.remap(new, old.compact(weight), fill=7))
    np.testing.assert_array_equal(filled, np.where(mask & new_mask, weight, np.where(new_mask, 7, 0)))


@given(masks(), SPARE)
def test_arrays_round_trip(scheme_mask, spare):
    scheme, mask = scheme_mask
    structure = with_spare(scheme, mask, spare)
    again = Structure.from_arrays(structure.to_arrays())
    assert (again.scheme, again.shape, again.block, again.capacity) == (
        structure.scheme,
        structure.shape,
        structure.block,
        structure.capacity,
    )
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


def test_an_empty_layer_still_has_room_for_one_entry():
    structure = build(np.zeros((4, 2, 1, 1), bool), "block")
    assert (structure.entries, structure.capacity) == (0, 1)
    assert structure.transpose().perm.shape == (1,)
    assert not structure.expand(structure.compact(np.ones((4, 2, 1, 1), np.float32))).any()


def test_nearly_five_million_entries_build_in_about_a_second():
    mask = np.ones((1024, 512, 3, 3), bool)
    start = time.perf_counter()
    structure = build(mask, "unstructured", parts=2)
    assert structure.entries == mask.size
    # Three times the aim: this guards against a Python loop, not against a busy machine.
    assert time.perf_counter() - start < 3


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
    with pytest.raises(MaskError, match="of filters 0 to 3 some keep column 2"):
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
    with pytest.raises(StructureError, match="cannot have 0 channel groups"):
        structure.group_pointers(0)
    with pytest.raises(StructureError, match="use fewer groups"):
        structure.group_pointers(INT32_MAX)
