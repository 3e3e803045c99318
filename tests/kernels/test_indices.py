"""Index arrays of the kernels: read back they say the mask, in every direction, and lead to no place outside the
buffers; they fit the forms that were compiled, and structures that do not are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mest_compiler.errors import StructureError
from mest_compiler.kernels.families import FAMILIES
from mest_compiler.kernels.geometry import ConvGeometry, Plane
from mest_compiler.kernels.index_arrays import index_arrays, index_forms
from mest_compiler.kernels.indices.layer import IndexArraySpec
from mest_compiler.kernels.problem import DIRECTIONS, LayerProblem
from mest_compiler.sparsity.structure import Structure, build

from .readings import Term, read
from .strategies import layers

groups = st.integers(1, 6)


def families_of(layer: LayerProblem) -> list[str]:
    """All that a scheme can be read by."""
    return [name for name, family in FAMILIES.items() if all(family.serves(layer, d) for d in DIRECTIONS)]


def wanted(layer: LayerProblem, structure: Structure, direction: str, family: str) -> list[Term]:
    """A term for every kept weight; of backward-data those alone that reach a pixel of dx."""
    g, found = layer.geometry, []
    for value, place in enumerate(structure.places().reshape(-1)):
        f, c, i, j = (int(n) for n in np.unravel_index(int(place), layer.sparse.shape))
        reach = [
            (tap * dil - pad) % step < size
            for tap, dil, pad, step, size in zip(
                (i, j), g.dilation, g.padding, g.stride, (g.dx.height, g.dx.width), strict=True
            )
        ]
        if all(reach) or direction != "backward_data" or family in ("planes", "zeros"):
            found.append(Term(value, f, c, i, j))
    return found


@given(layers(), groups)
@settings(max_examples=60, deadline=None)
def test_arrays_give_the_mask_in_every_direction(drawn: tuple[LayerProblem, list[Structure]], count: int) -> None:
    layer, structures = drawn
    for structure in structures:  # the second one as after a swap
        for family in families_of(layer):
            for direction in DIRECTIONS:
                arrays = index_arrays(structure, layer, {direction: (family, count)})
                found = read(layer, arrays, direction, family, count)
                assert sorted(found) == wanted(layer, structure, direction, family), (family, direction)


@given(layers(), groups, groups)
@settings(max_examples=60, deadline=None)
def test_arrays_have_the_forms_that_were_compiled(
    drawn: tuple[LayerProblem, list[Structure]], first: int, second: int
) -> None:
    layer, structures = drawn
    for family in families_of(layer):
        used = dict(zip(DIRECTIONS, ((family, first), (family, second), (family, first)), strict=True))
        forms = index_forms(layer, used)
        for direction, (name, count) in used.items():
            assert set(FAMILIES[name].index_arrays(layer, direction, count)) <= set(forms)
        for structure in structures:
            arrays = index_arrays(structure, layer, used)
            assert set(arrays) == set(forms)
            for name, form in forms.items():
                assert arrays[name].shape == (form.length,) and arrays[name].dtype == form.dtype, name
                assert arrays[name].flags.c_contiguous and form.length > 0
            assert arrays["entries"][0] == structure.entries


@given(layers())
@settings(max_examples=50, deadline=None)
def test_kernels_of_a_layer_share_arrays_of_one_name(drawn: tuple[LayerProblem, list[Structure]]) -> None:
    layer, (structure, _) = drawn
    kinds = families_of(layer)
    used = {direction: (kinds[i % len(kinds)], 2 + i) for i, direction in enumerate(DIRECTIONS)}
    together = index_arrays(structure, layer, used)
    for direction, one in used.items():
        for name, array in index_arrays(structure, layer, {direction: one}).items():
            np.testing.assert_array_equal(together[name], array, err_msg=name)


@given(layers())
@settings(max_examples=50, deadline=None)
def test_kept_planes_come_first_and_none_is_forgotten(drawn: tuple[LayerProblem, list[Structure]]) -> None:
    layer, structures = drawn
    for structure in structures if layer.sparse.scheme in ("channel", "filter") else ():
        planes = index_arrays(structure, layer, {"forward": ("planes", 1)})["planes"]
        kept = structure.to_mask().any(axis=tuple({0, 1, 2, 3} - {layer.sparse.kind.axis}))
        np.testing.assert_array_equal(planes[: structure.entries], np.flatnonzero(kept))
        np.testing.assert_array_equal(np.sort(planes), np.arange(len(kept)))


# ---- types
def geometry(channels: int = 3, filters: int = 4, plane: tuple[int, int] = (4, 4), tiles: int = 1) -> ConvGeometry:
    """A 1x1 convolution without borders: the largest offsets are planes * pixels."""
    p = Plane(*plane)
    return ConvGeometry(tiles, 8, channels, filters, (1, 1), (1, 1), (0, 0), (1, 1), p, p, p, p)


@pytest.mark.parametrize(("largest", "dtype"), [(0, "uint16"), (65535, "uint16"), (65536, "int32")])
def test_the_narrowest_type(largest: int, dtype: str) -> None:
    form = IndexArraySpec(3, largest)
    assert form.dtype == dtype and np.array([largest]).astype(form.dtype)[0] == largest


# 257 * (15 * 17) = 65535 and 256 * (16 * 16) = 65536
@pytest.mark.parametrize(("planes", "plane", "dtype"), [(257, (15, 17), "uint16"), (256, (16, 16), "int32")])
def test_types_at_the_limit(planes: int, plane: tuple[int, int], dtype: str) -> None:
    for channels, filters, direction, name in (
        (planes, 2, "forward", "offset"),
        (2, planes, "backward_data", "back_offset"),
    ):
        layer = LayerProblem.of(geometry(channels, filters, plane), "unstructured", channels * filters)
        assert index_forms(layer, {direction: ("block", 1)})[name].dtype == dtype
        structure = build(np.ones(layer.sparse.shape, bool), "unstructured")
        offset = index_arrays(structure, layer, {direction: ("block", 1)})[name]
        assert int(offset.max()) == (planes - 1) * plane[0] * plane[1]


@pytest.mark.parametrize(("capacity", "dtype"), [(65535, "uint16"), (65536, "int32")])
def test_types_at_the_limit_of_the_capacity(capacity: int, dtype: str) -> None:
    layer = LayerProblem.of(geometry(256, 256), "unstructured", capacity)
    forms = index_forms(layer, {d: ("block", 1) for d in DIRECTIONS})
    for name in ("forward_ptr", "weight_ptr", "back_ptr", "back_perm", "entries"):
        assert forms[name].dtype == dtype, name
    mask = np.ones(layer.sparse.shape, bool)
    mask[0, 0] = capacity == 65536
    arrays = index_arrays(build(mask, "unstructured", capacity), layer, {"forward": ("block", 1)})
    assert arrays["forward_ptr"][-1] == arrays["entries"][0] == capacity


def test_values_of_an_entry_count_in_its_types() -> None:
    three = replace(geometry(64, 256), kernel=(3, 3), padding=(1, 1), x=Plane(4, 4, 1), dy=Plane(4, 4, 1))
    for capacity, dtype in ((16383, "uint16"), (16384, "int32")):  # 4 values each
        layer = LayerProblem.of(three, "pattern", capacity)
        assert index_forms(layer, {"forward": ("pattern", 1)})["pattern_first"].dtype == dtype
        assert index_forms(layer, {"forward": ("pattern", 1)})["pattern_ptr"].dtype == "uint16"


# ---- what is refused
MASK = np.ones((4, 3, 1, 1), bool)
LAYER = LayerProblem.of(geometry(), "unstructured", 12)
USED = {"forward": ("block", 1)}


@pytest.mark.parametrize(
    "other",
    [
        build(np.ones((4, 2, 1, 1), bool), "unstructured", 12),
        build(np.ones((3, 4, 1, 1), bool), "unstructured", 12),
        build(MASK, "block", 12),
        build(MASK, "unstructured", 13),
        build(MASK & (np.arange(4) > 0)[:, None, None, None], "unstructured"),
    ],
    ids=["shape", "turned", "scheme", "more room", "less room"],
)
def test_structure_of_another_layer(other: Structure) -> None:
    with pytest.raises(StructureError, match=r"cannot serve a unstructured convolution of shape \(4, 3, 1, 1\)"):
        index_arrays(other, LAYER, USED)


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("col", {0: 3}, "leaves the range"),
        ("col", {0: -1}, "leaves the range"),
        ("col", {1: 0}, "does not rise"),
        ("row_ptr", {4: 13}, "beyond the capacity"),
        ("row_ptr", {1: 7}, "does not rise"),
        ("order", {0: 1}, "no permutation"),
    ],
)
def test_structure_that_is_invalid(field: str, values: dict[int, int], message: str) -> None:
    good = build(MASK, "unstructured")
    array = getattr(good, field).copy()
    for place, value in values.items():
        array[place] = value
    with pytest.raises(StructureError, match=message):
        index_arrays(replace(good, **{field: array}), LAYER, USED)
    index_arrays(good, LAYER, USED)


def test_activations_beyond_32_bit_indices() -> None:
    s = build(MASK, "unstructured")
    with pytest.raises(StructureError, match="use a smaller batch"):
        index_arrays(s, replace(LAYER, geometry=geometry(tiles=2000, plane=(256, 256))), USED)
    index_arrays(s, replace(LAYER, geometry=geometry(tiles=50, plane=(256, 256))), USED)
