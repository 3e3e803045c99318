"""Index arrays of one layer's kernels, worked out from its structure and its geometry.

A structure says which weights are kept; a kernel wants to know where in memory their inputs stand. That depends on the
planes and borders, so it is derived here, at run time, whenever a structure is swapped in: nothing is recompiled.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mest_compiler.errors import StructureError
from mest_compiler.sparsity.layer_spec import INT32_MAX
from mest_compiler.sparsity.structure import Structure

from .families import FAMILIES
from .indices.layer import IndexArraySpec, filled
from .problem import LayerProblem

Used = Mapping[str, tuple[str, int]]
"""Direction -> (name of the family, groups of planes) of the kernel that computes it."""


def forms_of(layer: LayerProblem, direction: str, kernel: tuple[str, int]) -> dict[str, IndexArraySpec]:
    """IndexArraySpec of every index array that one kernel takes, in argument order."""
    family, groups = kernel
    return FAMILIES[family].index_arrays(layer, direction, groups)


def index_forms(layer: LayerProblem, used: Used) -> dict[str, IndexArraySpec]:
    """IndexArraySpec of every index array of a layer's kernels, and of `entries` [1], which every layer has."""
    forms = dict(filled(layer))
    for direction, kernel in used.items():
        forms |= forms_of(layer, direction, kernel)
    return forms


def index_arrays(structure: Structure, layer: LayerProblem, used: Used) -> dict[str, np.ndarray]:
    """The arrays of `index_forms`, filled from a structure.

    Raises:
        StructureError: the structure is not of this layer, or does not pass its own validation.
    """
    g = layer.geometry
    has, wants = structure.spec, layer.sparse
    if has != wants:
        raise StructureError(
            f"A {has.scheme} structure of shape {has.shape} with room for {has.capacity} entries cannot serve a "
            f"{wants.scheme} convolution of shape {wants.shape} with room for {wants.capacity}."
        )
    structure.validate()
    largest = g.tiles * max(g.channels * g.x.size, g.filters * g.dy.size)
    if largest * g.lanes > INT32_MAX:
        raise StructureError(
            f"The activations of a convolution of shape {wants.shape} have {largest * g.lanes} elements, more than "
            "32-bit indices can reach: use a smaller batch."
        )
    found: dict[str, np.ndarray] = {"entries": np.array([structure.entries])}
    for direction, (family, groups) in used.items():
        found |= FAMILIES[family].indexings[direction].arrays(structure, g, groups)
    return {name: _padded(found[name], form, name, layer) for name, form in index_forms(layer, used).items()}


def _padded(array: np.ndarray, form: IndexArraySpec, name: str, layer: LayerProblem) -> np.ndarray:
    if array.size > form.length or (array.size and (array.min() < 0 or array.max() > form.largest)):
        raise StructureError(
            f"Index array {name!r} of a {layer.sparse.scheme} convolution of shape {layer.sparse.shape} does not fit "
            f"the {form.length} places of at most {form.largest} that it was compiled with."
        )
    whole = np.zeros(form.length, form.dtype)
    whole[: array.size] = array
    return whole
