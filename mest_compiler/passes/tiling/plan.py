"""Which kernels compute each convolution and each sparse linear layer of the training step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mest_compiler.errors import ModelError
from mest_compiler.frontend.ops import attributes
from mest_compiler.kernels.geometry import ConvGeometry
from mest_compiler.kernels.indices import SparseConv
from mest_compiler.schedules.choice import Choice

from ..program import op_name, shape_of
from .linear import linear_geometry
from .state import LayerKernels, Tiling

Pick = Callable[[str, SparseConv | ConvGeometry, Sequence[Choice]], Choice]
"""Decides between the kernels that can compute a direction of a sparse layer, or of a dense one by its geometry, and
about their knobs."""


def plan_layers(tiling: Tiling, pick: Pick) -> None:
    """Chooses the kernels of every layer of the training step, before their index arrays become parameters."""
    choose = tiling.generators.choose
    for _, expr in tiling.program.bindings:
        name = op_name(expr)
        linear = name.startswith("mest.sparse_linear")  # a dense one stays a matrix product
        if not (linear or name.replace("sparse_", "").startswith("mest.conv2d")):
            continue
        a = attributes(expr)
        direction = "backward_" + name.rsplit("_", 1)[1] if "_backward_" in name else "forward"
        layer = tiling.layers.get(a["param"])
        if layer is None:
            borders = _borders_of_layer(tiling, a["param"])
            geometry = linear_geometry(tiling, expr) if linear else tiling.geometry(expr, *borders)
            # The forward convolution comes first; its second argument is the weight, or its values.
            values = shape_of(expr.args[1])
            sparse = SparseConv(geometry, a["scheme"], values[0]) if "scheme" in a else None
            layer = tiling.layers[a["param"]] = LayerKernels(geometry, sparse)
        elif direction in layer.choices:
            raise ModelError(f"The weight {a['param']!r} is used by two layers; shared weights are not supported.")
        if layer.sparse is None:
            dense = choose.dense(direction, tiling.device, layer.geometry)
            layer.choices[direction] = pick(direction, layer.geometry, [dense])
        else:
            found = choose.candidates(direction, tiling.device, layer.sparse)
            layer.choices[direction] = pick(direction, layer.sparse, found)


def _borders_of_layer(tiling: Tiling, param: str) -> tuple[int, int]:
    """(border of x, border of dy) of a layer, as its neighbours will write them."""
    x = dy = 0
    for _, expr in tiling.program.bindings:
        name = op_name(expr).replace("sparse_", "")
        if name.startswith("mest.conv2d") and attributes(expr)["param"] == param:
            if name == "mest.conv2d":
                again = attributes(expr).get("again")
                x = max(attributes(expr)["padding"]) if again else tiling.border_of(expr.args[0])
            else:
                dy = tiling.border_of(expr.args[0])
    return x, dy
