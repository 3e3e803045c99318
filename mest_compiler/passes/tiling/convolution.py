"""Convolutions over batch tiles: which kernel, and the run-time index arrays it takes."""

from __future__ import annotations

from tvm import relax

from mest_compiler.errors import ModelError
from mest_compiler.frontend.ops import attributes
from mest_compiler.kernels.geometry import ConvGeometry
from mest_compiler.schedules.cpu import choose
from mest_compiler.schedules.cpu.choose import Choice

from ..program import dtype_of, op_name, shape_of
from .state import LayerKernels, Tiling


def plan_layers(tiling: Tiling) -> None:
    """Chooses the kernels of every layer of the training step, before their index arrays become parameters."""
    for _, expr in tiling.program.bindings:
        name = op_name(expr)
        if not name.replace("sparse_", "").startswith("mest.conv2d"):
            continue
        a = attributes(expr)
        direction = "forward" if name.endswith("conv2d") else "backward_" + name.rsplit("_", 1)[1]
        layer = tiling.layers.get(a["param"])
        if layer is None:
            borders = _borders_of_layer(tiling, a["param"])
            block = int(a["block"]) if "block" in a else None
            capacity = _capacity(tiling, expr, a["param"]) if block else 0
            layer = tiling.layers[a["param"]] = LayerKernels(tiling.geometry(expr, *borders), block, capacity)
        elif direction in layer.choices:
            raise ModelError(
                f"The weight {a['param']!r} is used by two convolutions; shared weights are not supported."
            )
        pick = {
            "forward": choose.forward,
            "backward_data": choose.backward_data,
            "backward_weight": choose.backward_weight,
        }
        layer.choices[direction] = pick[direction](tiling.device, layer.geometry, layer.block, layer.capacity)


def _capacity(tiling: Tiling, expr: relax.Call, param: str) -> int:
    if op_name(expr).endswith("weight"):
        return int(attributes(expr)["oshape"][0])
    return shape_of(expr.args[1])[0]


def _borders_of_layer(tiling: Tiling, param: str) -> tuple[int, int]:
    """(border of x, border of dy) of a layer, as its neighbours will write them."""
    x = dy = 0
    for _, expr in tiling.program.bindings:
        name = op_name(expr).replace("sparse_", "")
        if name.startswith("mest.conv2d") and attributes(expr)["param"] == param:
            if name == "mest.conv2d":
                x = tiling.border_of(expr.args[0])
            else:
                dy = tiling.border_of(expr.args[0])
    return x, dy


def _index(tiling: Tiling, param: str, array: str) -> relax.Var:
    return tiling.index_params[param, array]


def _run(tiling: Tiling, layer: LayerKernels, choice: Choice, args: list, out: list) -> list[relax.Expr]:
    key = (choice.kernel, layer.geometry, layer.block, choice.knobs)
    return tiling.run(key, choice.make, args, out)


def _check(tiling: Tiling, expr: relax.Call, planned: ConvGeometry, **planes) -> None:
    for name, plane in planes.items():
        if getattr(planned, name) != plane:
            raise ModelError(
                f"The {name} of convolution {attributes(expr)['param']!r} is laid out as {plane}, and its kernels "
                f"were planned for {getattr(planned, name)}."
            )


def forward(tiling: Tiling, var: relax.Var, expr: relax.Call) -> None:
    """y = conv(x, w)."""
    param = attributes(expr)["param"]
    layer = tiling.layers[param]
    x, plane = tiling.tiled(expr.args[0], layer.geometry.x.border)
    _check(tiling, expr, layer.geometry, x=plane)
    args = [x, tiling.plain(expr.args[1])]
    if layer.block is not None:
        args += [_index(tiling, param, k) for k in ("offset", "forward_ptr", "row")]
    out = [tiling.tiled_type(shape_of(var), dtype_of(var))]
    tiling.bind(var, _run(tiling, layer, layer.choices["forward"], args, out)[0], 0)


def backward_data(tiling: Tiling, var: relax.Var, expr: relax.Call) -> None:
    """dx from dy and w."""
    param = attributes(expr)["param"]
    layer = tiling.layers[param]
    dy, plane = tiling.tiled(expr.args[0], layer.geometry.dy.border)
    _check(tiling, expr, layer.geometry, dy=plane)
    args = [dy, tiling.plain(expr.args[1])]
    if layer.block is not None:
        args += [_index(tiling, param, k) for k in ("back_offset", "back_ptr", "back_row", "back_perm")]
    out = [tiling.tiled_type(shape_of(var), dtype_of(var))]
    tiling.bind(var, _run(tiling, layer, layer.choices["backward_data"], args, out)[0], 0)


def backward_weight(tiling: Tiling, var: relax.Var, expr: relax.Call) -> None:
    """The gradient of w, dense or of compact values; the second output is the kernel's workspace."""
    param = attributes(expr)["param"]
    layer = tiling.layers[param]
    dy, dy_plane = tiling.tiled(expr.args[0], layer.geometry.dy.border)
    x, x_plane = tiling.tiled(expr.args[1], layer.geometry.x.border)
    _check(tiling, expr, layer.geometry, x=x_plane, dy=dy_plane)
    args = [x, dy]
    if layer.block is not None:
        args += [_index(tiling, param, k) for k in ("offset", "weight_ptr", "row")]
    shape, dtype = shape_of(var), dtype_of(var)
    size = 1
    for n in shape:
        size *= n
    out = [relax.TensorType(shape, dtype), relax.TensorType([size, layer.geometry.lanes], dtype)]
    tiling.values[var].plain = _run(tiling, layer, layer.choices["backward_weight"], args, out)[0]


HANDLERS = {
    **dict.fromkeys(("mest.conv2d", "mest.sparse_conv2d"), forward),
    **dict.fromkeys(("mest.conv2d_backward_data", "mest.sparse_conv2d_backward_data"), backward_data),
    **dict.fromkeys(("mest.conv2d_backward_weight", "mest.sparse_conv2d_backward_weight"), backward_weight),
}
