"""Validation: no structure with a single wrong number gets as far as a kernel."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mest_compiler.errors import StructureError
from mest_compiler.sparsity.layer_spec import INT32_MAX
from mest_compiler.sparsity.schemes import get_scheme
from mest_compiler.sparsity.structure import Structure, build

from .strategies import masks, schemes


def sample():
    """Rows of 3, 2, 0 and 3 entries; two entries of capacity to spare."""
    mask = np.array([[1, 1, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 1]], bool)
    return build(mask.reshape(4, 2, 1, 2), "unstructured", capacity=10)


def changed(structure, name, index, value):
    """The structure with one number changed."""
    array = getattr(structure, name).copy()
    array[index] = value
    return replace(structure, **{name: array})


def other(structure, **fields):
    """The structure as one of another layer."""
    return replace(structure, spec=replace(structure.spec, **fields))


BROKEN = {
    "column beyond the last": (lambda s: changed(s, "col", 2, 4), "leaves the range of its 4 columns"),
    "negative column": (lambda s: changed(s, "col", 0, -1), "leaves the range"),
    "columns out of order": (lambda s: changed(s, "col", [0, 1], [1, 0]), "does not rise within each row"),
    "doubled column": (lambda s: changed(s, "col", 1, 0), "an entry is doubled"),
    "tail not zero": (lambda s: changed(s, "col", 9, 1), "is not zero beyond its 8 entries"),
    "pointers fall": (lambda s: changed(s, "row_ptr", 1, 7), "does not rise from 0"),
    "pointers start late": (lambda s: changed(s, "row_ptr", 0, 1), "does not rise from 0"),
    "pointers start below zero": (lambda s: changed(s, "row_ptr", 0, -1), "does not rise from 0"),
    "overfull": (lambda s: changed(s, "row_ptr", -1, 11), "reaches 11, beyond the capacity 10"),
    "pointers wrap": (lambda s: changed(s, "row_ptr", -1, INT32_MAX), "beyond the capacity"),
    "row twice": (lambda s: changed(s, "order", 0, 1), "no permutation of its 4 rows"),
    "row beyond the last": (lambda s: changed(s, "order", 0, 4), "no permutation"),
    "negative row": (lambda s: changed(s, "order", 0, -1), "no permutation"),
    "order too short": (lambda s: replace(s, order=s.order[:3]), r"order .* int32 \(3,\), not int32 \(4,\)"),
    "wide dtype": (lambda s: replace(s, col=s.col.astype(np.int64)), "col .* is int64"),
    "other byte order": (lambda s: replace(s, col=s.col.astype(">i4")), "col .* is >i4"),
    "no array": (lambda s: replace(s, row_ptr=[0, 3, 6, 8, 8]), "row_ptr .* is list"),
    "strided": (lambda s: replace(s, col=np.repeat(s.col, 2)[::2]), "not contiguous"),
    "capacity off": (lambda s: other(s, capacity=9), r"not int32 \(9,\)"),
    "no capacity": (lambda s: other(s, capacity=0), "capacity of 0 entries"),
    "other scheme": (lambda s: other(s, scheme="block"), r"order .* int32 \(4,\), not int32 \(1,\)"),
    "scheme of other kernels": (lambda s: other(s, scheme="pattern"), "does not fit its shape: .* needs 3x3"),
    "scheme of other channels": (
        lambda s: other(s, scheme="block:1x4"),
        "does not fit its shape: .* 2 input channels",
    ),
    "unknown scheme": (lambda s: other(s, scheme="blok"), "does not fit its shape: .*did you mean 'block'"),
    "alias": (lambda s: other(s, scheme="block:4x1"), "scheme 'block:4x1' instead of 'block'"),
    "other shape": (lambda s: other(s, shape=(5, 2, 1, 2)), r"not int32 \(5,\)"),
    "fewer columns": (lambda s: other(s, shape=(4, 1, 1, 2)), "leaves the range of its 2 columns"),
    "shape is a list": (
        lambda s: other(s, shape=[4, 2, 1, 2]),
        r"has shape \[4, 2, 1, 2\] and capacity 10: use a tuple",
    ),
    "shape of floats": (lambda s: other(s, shape=(4, 2.0, 1, 2)), "use a tuple of integers"),
    "fractional capacity": (lambda s: other(s, capacity=10.0), "capacity 10.0: use"),
    "empty shape": (lambda s: other(s, shape=(4, 0, 1, 2)), "each at least 1"),
    "huge shape": (lambda s: other(s, shape=(2**16, 2**16, 3, 3)), "more than 32-bit indices can reach"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_validate_refuses(case):
    break_it, sentence = BROKEN[case]
    structure = sample()
    structure.validate()
    with pytest.raises(StructureError, match=sentence):
        break_it(structure).validate()


def kernels():
    """Kernels with patterns 3, 0 and 7 in the first filter, none in the second, 5 in the third; one entry to spare."""
    mask = get_scheme("pattern").units_to_mask(np.isin(np.arange(72), [3, 8, 16 + 7, 48 + 5]), (3, 3, 3, 3))
    return build(mask, "pattern", capacity=5)


BROKEN_KERNELS = {
    "two patterns in a kernel": (
        lambda s: changed(s, "col", 1, 4),
        "does not rise within each row: an entry is doubled",
    ),
    "one pattern twice": (lambda s: changed(s, "col", 1, 3), "an entry is doubled"),
    "kernels out of order": (lambda s: changed(s, "col", [0, 1], [8, 3]), "out of order"),
    "ninth pattern of the last kernel": (lambda s: changed(s, "col", 2, 24), "leaves the range of its 24 columns"),
}


@pytest.mark.parametrize("case", BROKEN_KERNELS)
def test_validate_refuses_kernels(case):
    break_it, sentence = BROKEN_KERNELS[case]
    kernels().validate()
    with pytest.raises(StructureError, match=sentence):
        break_it(kernels()).validate()


def test_a_kernel_may_change_its_pattern():
    changed(kernels(), "col", 0, 4).validate()


INDICES = st.integers(-3, 90) | st.integers(-(2**31), INT32_MAX)
SIZES = st.integers(-3, 40) | st.integers(2**31, 2**62)
"""None so large that a layer of that size would be slow, and none that would not be refused."""


@st.composite
def damaged(draw):
    """The arrays of a structure, a few of their numbers, forms and sizes changed."""
    scheme, mask = draw(masks())
    capacity = int(get_scheme(scheme).mask_to_units(mask).sum()) + draw(st.integers(0, 4))
    arrays = build(mask, scheme, capacity=max(capacity, 1), parts=draw(st.integers(1, 3))).to_arrays()
    for name in draw(st.lists(st.sampled_from(["order", "row_ptr", "col", "col", "shape"]), min_size=1, max_size=3)):
        array = arrays[name].copy()
        how = draw(st.sampled_from(["number", "number", "swap", "copy", "shorter", "longer", "dtype", "flat"]))
        untouched = array.ndim == 1 and array.dtype in (np.int32, np.int64)
        if how in ("number", "swap", "copy") and untouched and array.size:
            i, j = (draw(st.integers(0, array.size - 1)) for _ in range(2))
            if how == "number":
                array[i] = draw(SIZES if name == "shape" else INDICES)
            else:
                array[i], array[j] = array[j], array[j] if how == "copy" else array[i]
        elif how == "shorter":
            array = array[:-1]
        elif how == "longer":
            array = np.append(array, array[-1:])
        elif how == "dtype":
            array = array.astype(draw(st.sampled_from([np.int64, np.uint32, ">i4", np.float32, np.int16])))
        elif how == "flat":
            array = array.reshape(1, -1)
        arrays[name] = array
    if draw(st.booleans()):
        other = draw(schemes).name
        arrays["scheme"] = np.frombuffer(other.encode(), np.uint8)
    return arrays


@settings(max_examples=200)
@given(damaged())
def test_damage_is_refused_or_harmless(arrays):
    """What passes in spite of it has every index in bounds, each weight once at most, and is that of a legal mask."""
    try:
        structure = Structure.from_arrays(arrays)
    except StructureError:
        return
    places = structure.places().reshape(-1)
    assert len(places) == structure.entries * structure.spec.unit_size
    assert len(np.unique(places)) == len(places)
    assert places.size == 0 or (places.min() >= 0 and places.max() < np.prod(structure.spec.shape))
    mask = structure.to_mask()
    again = build(mask, structure.spec.scheme, capacity=structure.spec.capacity)
    assert set(again.unit_ids().tolist()) == set(structure.unit_ids().tolist())
    weight = np.where(mask, np.arange(1.0, mask.size + 1).reshape(mask.shape), 0)
    np.testing.assert_array_equal(structure.expand(structure.compact(weight)), weight)


def test_from_arrays_refuses_foreign_and_damaged_arrays():
    arrays = sample().to_arrays()

    def refused(sentence, **changes):
        with pytest.raises(StructureError, match=sentence):
            Structure.from_arrays({**arrays, **changes})

    with pytest.raises(StructureError, match="but these have: col, order, row_ptr, shape"):
        Structure.from_arrays({name: array for name, array in arrays.items() if name != "scheme"})
    refused("but these have: block, col", block=np.zeros(1, np.int64))
    refused("no readable scheme: There is no sparsity scheme 'magic'", scheme=np.frombuffer(b"magic", np.uint8))
    refused("no readable scheme: 'utf-8'", scheme=np.array([255], np.uint8))
    refused(r"Array scheme of a stored structure is int32 \(12,\), not uint8", scheme=arrays["scheme"].astype(np.int32))
    refused(r"Array shape .* is int64 \(\), not int64 in a row", shape=np.array(4))
    refused("Array shape .* is float64", shape=np.array([4, np.inf, 1, 2]))
    refused(r"shape \(4, 2\), but a sparse layer needs", shape=np.array([4, 2]))
    refused("each at least 1", shape=np.array([4, -2, 1, 2]))
    refused(r"Array col .* is int32 \(2, 5\)", col=arrays["col"].reshape(2, 5))
    refused("Array col .* is list", col=[0] * 10)
    refused("capacity of 0 entries", col=np.zeros(0, np.int32))
