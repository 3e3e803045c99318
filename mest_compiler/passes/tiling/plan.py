"""Which kernels compute each convolution and each sparse linear layer of the training step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mest_compiler.errors import ModelError
from mest_compiler.frontend.ops import attributes
from mest_compiler.kernels.problem import LayerProblem
from mest_compiler.schedules.candidates import candidates
from mest_compiler.schedules.choice import Choice

from ..layer_kernels import LayerKernels
from ..program import op_name
from .linear import linear_geometry
from .state import Tiling

Pick = Callable[[str, LayerProblem, Sequence[Choice]], Choice]
"""Decides between the kernels that can compute a direction of a layer, and about their knobs."""


def plan_layers(tiling: Tiling, pick: Pick) -> None:
    """Chooses the kernels of every layer of the training step, before their index arrays become parameters."""
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
            problem = LayerProblem(geometry, tiling.specs.get(a["param"]))
            layer = tiling.layers[a["param"]] = LayerKernels(problem)
        elif direction in layer.choices:
            raise ModelError(f"The weight {a['param']!r} is used by two layers; shared weights are not supported.")
        found = candidates(direction, tiling.device, layer.problem)
        layer.choices[direction] = pick(direction, layer.problem, found)


def _borders_of_layer(tiling: Tiling, param: str) -> tuple[int, int]:
    """(border of x, border of dy) of a layer, as its neighbours will write them."""
    x = dy = 0
    for _, expr in tiling.program.bindings:
        name = op_name(expr).replace("sparse_", "")
        if name.startswith("mest.conv2d") and attributes(expr)["param"] == param:
            if name == "mest.conv2d":
                recompute = attributes(expr).get("recompute")
                x = max(attributes(expr)["padding"]) if recompute else tiling.border_of(expr.args[0])
            else:
                dy = tiling.border_of(expr.args[0])
    return x, dy
