"""The plain definitions of the sparse kernels against the dense reference, and the generators against them: on whole
numbers, so that all three are the same to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

from mest_compiler.kernels.families import FAMILIES
from mest_compiler.schedules.cpu.gather import GatherKnobs
from mest_compiler.schedules.cpu.weight_gradient import WeightGradientKnobs

from ..schedules.convolutions import Conv, whole
from ..schedules.generators import families_of, gathers, gradients
from ..schedules.sparse_layers import SparseCase, fitted, hostile_masks, sparse_conv
from ..schedules.tiles import NARROW, compile_kernels, vector

LAYERS = {
    "same": Conv(5, 6, (7, 5)),
    "strided": Conv(4, 6, (6, 7), stride=(2, 1), padding=(1, 2)),
    "small": Conv(3, 4, (2, 1), stride=(2, 2)),
}
GATHER, GRADIENT = GatherKnobs(5, 2, True), WeightGradientKnobs(entries=2, pixels=4, rows=2, groups=3, chains=2)
MASKS = ("random", "a full row", "none")
# Two blocks stand for all.
KINDS = ("unstructured", "block:3x2", "pattern", "channel", "filter")
CASES = [(name, scheme) for i, name in enumerate(LAYERS) for j, scheme in enumerate(KINDS) if not i or (i + j) % 2]


# With strides they have what they have without; these are slow.
LIKE_OTHERS = [("same", scheme) for scheme in ("unstructured", "pattern", "filter")]


@pytest.mark.parametrize(
    ("name", "scheme"), [pytest.param(*one, marks=pytest.mark.slow if one in LIKE_OTHERS else ()) for one in CASES]
)
def test_definition_and_generator(name: str, scheme: str) -> None:
    conv, vec = fitted(LAYERS[name], scheme), vector(NARROW, "float64")
    layer = sparse_conv(conv, vec, scheme)
    kernels = [
        kernel
        for family in families_of(scheme, conv.stride)
        for kernel in (*gathers(layer, family, [GATHER]), *gradients(layer, family, [GRADIENT]))
    ]
    made = {("generator", i): kernel.make() for i, kernel in enumerate(kernels)}
    for i, k in enumerate(kernels):
        made["definition", i] = FAMILIES[k.family].definition(layer, k.direction, k.groups)
    machine = compile_kernels(made)
    for mask_name in MASKS:
        case = SparseCase.make(conv, layer, hostile_masks(scheme, conv.weight_shape)[mask_name], draw=whole)
        for i, k in enumerate(kernels):
            what = f"{k} on mask {mask_name!r}"
            found, wanted = (
                case.run(f"{of} of {what}", machine[of, i], k.direction, k.family, k.groups)
                for of in ("generator", "definition")
            )
            np.testing.assert_array_equal(found, wanted, err_msg=what)
