"""The plain definitions of the sparse kernels against the dense float64 reference, and the generators against them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import tvm

from mest_compiler.bench.batch_tiles import from_tiles, to_tiles
from mest_compiler.devices import local_cpu
from mest_compiler.kernels import convolution
from mest_compiler.kernels.arguments import ARGUMENTS, Groups, index_arrays
from mest_compiler.kernels.geometry import ConvGeometry, Plane
from mest_compiler.schedules.cpu.choose import CHOOSE
from mest_compiler.sparsity import structure

LANES, BATCH = 4, 5
DEFINITIONS = {
    "forward": convolution.sparse_forward,
    "backward_data": convolution.sparse_backward_data,
    "backward_weight": convolution.sparse_backward_weight,
}


def geometry(stride: int, padding: int) -> ConvGeometry:
    """A 3x3 convolution of 6 channels and 8 filters on an odd plane."""
    out = (9 + 2 * padding - 3) // stride + 1, (7 + 2 * padding - 3) // stride + 1
    y = Plane(*out)
    return ConvGeometry(
        tiles=2, lanes=LANES, channels=6, filters=8, kernel=(3, 3), stride=(stride, stride),
        padding=(padding, padding), dilation=(1, 1), x=Plane(9, 7, padding), y=y, dy=Plane(*out, 2), dx=Plane(9, 7),
        dtype="float64",
    )  # fmt: skip


def run(function: tvm.tirx.PrimFunc, args: list[np.ndarray]) -> list[np.ndarray]:
    """The arguments after a call."""
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    tensors = [tvm.runtime.tensor(a) for a in args]
    tvm.tirx.build(module, target=local_cpu().target)["main"](*tensors)
    return [t.numpy() for t in tensors]


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (2, 0)])
def test_definition_and_generator(block: int, stride: int, padding: int) -> None:
    g, rng = geometry(stride, padding), np.random.default_rng(0)
    kept = np.repeat(rng.random((8 // block, 6, 3, 3)) < 0.3, block, axis=0)
    kept[:block] = False
    layout = structure.build(kept, "block" if block == 4 else "unstructured")
    weight = rng.standard_normal(kept.shape) * kept
    x, dy = rng.standard_normal((BATCH, 6, 9, 7)), rng.standard_normal((BATCH, 8, g.y.height, g.y.width))
    tx, tw, tdy = (torch.from_numpy(a) for a in (x, weight, dy))
    dx, dw, _ = torch.ops.aten.convolution_backward(
        tdy, tx, tw, None, g.stride, g.padding, g.dilation, False, [0, 0], 1, (True, True, False)
    )
    y = torch.conv2d(tx, tw, None, g.stride, g.padding)
    expected = {"forward": y.numpy(), "backward_data": dx.numpy(), "backward_weight": layout.compact(dw.numpy())}

    values = layout.compact(weight)
    tiled_x, tiled_dy = to_tiles(x, LANES, g.x.border), to_tiles(dy, LANES, g.dy.border)
    sums = np.full((layout.capacity * block, LANES), np.nan)
    ends = {
        "forward": ([tiled_x, values], [np.full((2, 8 * g.y.size, LANES), np.nan)]),
        "backward_data": ([tiled_dy, values], [np.full((2, 6 * g.dx.size, LANES), np.nan)]),
        "backward_weight": ([tiled_x, tiled_dy], [np.full_like(values, np.nan), sums]),
    }
    for direction, (before, after) in ends.items():
        choice = CHOOSE[direction](local_cpu(), g, block, layout.entries)
        for function, groups in ((DEFINITIONS[direction](g, block, 2), 2), (choice.make(), choice.groups)):
            arrays = index_arrays(layout, g, Groups(groups, groups, groups))
            args = [*before, *[arrays[name] for name in ARGUMENTS[direction]], *after]
            found = run(function, args)[len(args) - len(after)]
            if direction == "forward":
                found = from_tiles(found, BATCH, 8, g.y)
            elif direction == "backward_data":
                found = from_tiles(found, BATCH, 6, g.dx)
            np.testing.assert_allclose(found, expected[direction], rtol=1e-9, atol=1e-11)
