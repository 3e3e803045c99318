"""Validation: no structure with a single wrong number gets as far as a kernel."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mest_compiler.errors import StructureError
from mest_compiler.sparsity.structure import Structure, build
from mest_compiler.sparsity.structure_checks import INT32_MAX

from .strategies import masks


def sample():
    """Rows of 3, 2, 0 and 3 entries; two entries of capacity to spare."""
    mask = np.array([[1, 1, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 1]], bool)
    return build(mask.reshape(4, 2, 1, 2), "unstructured", capacity=10)


def changed(structure, name, index, value):
    """The structure with one number changed."""
    array = getattr(structure, name).copy()
    array[index] = value
    return replace(structure, **{name: array})


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
    "capacity off": (lambda s: replace(s, capacity=9), r"not int32 \(9,\)"),
    "no capacity": (lambda s: replace(s, capacity=0), "capacity of 0 entries"),
    "other block": (lambda s: replace(s, block=4), "blocks of 4 filters instead of"),
    "other scheme": (
        lambda s: replace(s, scheme="block"),
        "with blocks of 1 filters instead of 'block' with 4",
    ),
    "unknown scheme": (lambda s: replace(s, scheme="blok"), "does not fit its shape: .*did you mean 'block'"),
    "alias": (lambda s: replace(s, scheme="block:4x1", block=4), "instead of 'block'"),
    "other shape": (lambda s: replace(s, shape=(5, 2, 1, 2)), r"not int32 \(5,\)"),
    "fewer columns": (lambda s: replace(s, shape=(4, 1, 1, 2)), "leaves the range of its 2 columns"),
    "empty shape": (lambda s: replace(s, shape=(4, 0, 1, 2)), "each at least 1"),
    "huge shape": (lambda s: replace(s, shape=(2**16, 2**16, 3, 3)), "more than 32-bit indices can reach"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_validate_refuses(case):
    break_it, sentence = BROKEN[case]
    structure = sample()
    structure.validate()
    with pytest.raises(StructureError, match=sentence):
        break_it(structure).validate()


@given(masks(), st.integers(1, 4), st.data())
def test_any_one_changed_number_is_refused_or_harmless(scheme_mask, spare, data):
    """What passes in spite of a change has every index in bounds and each entry once."""
    scheme, mask = scheme_mask
    structure = build(mask, scheme, capacity=mask.size + spare)
    name = data.draw(st.sampled_from(["order", "row_ptr", "col"]))
    index = data.draw(st.integers(0, len(getattr(structure, name)) - 1))
    value = data.draw(st.integers(-3, mask.size + 9) | st.integers(-(2**31), INT32_MAX))
    assume(getattr(structure, name)[index] != value)
    mutated = changed(structure, name, index, value)
    try:
        mutated.validate()
    except StructureError:
        return
    # A pointer may move an entry to a neighbouring row, and a column to a free place: another legal mask.
    assert name != "order"
    assert mutated.to_mask().sum() == mutated.entries * mutated.block


def test_from_arrays_refuses_foreign_and_damaged_arrays():
    arrays = sample().to_arrays()
    with pytest.raises(StructureError, match="but these have: col, order, row_ptr, shape"):
        Structure.from_arrays({name: array for name, array in arrays.items() if name != "scheme"})
    with pytest.raises(StructureError, match="no readable scheme and shape: There is no sparsity scheme"):
        Structure.from_arrays({**arrays, "scheme": np.frombuffer(b"magic", np.uint8)})
    with pytest.raises(StructureError, match="no readable scheme and shape"):
        Structure.from_arrays({**arrays, "scheme": np.array([255], np.uint8)})
    with pytest.raises(StructureError, match="no readable scheme and shape"):
        Structure.from_arrays({**arrays, "shape": np.array(4)})
    with pytest.raises(StructureError, match=r"shape \(4, 2\), but a sparse layer needs"):
        Structure.from_arrays({**arrays, "shape": np.array([4, 2])})
    with pytest.raises(StructureError, match=r"col .* is int32 \(2, 5\)"):
        Structure.from_arrays({**arrays, "col": arrays["col"].reshape(2, 5)})
