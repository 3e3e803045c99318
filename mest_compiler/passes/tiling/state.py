"""What the tiling pass knows while it walks a function: each variable's forms (NCHW, batch tiles) and the kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tvm import relax
from tvm.ir.base import Span

from mest_compiler.devices import Device
from mest_compiler.errors import ModelError
from mest_compiler.frontend.ops import attributes
from mest_compiler.frontend.origin import marked
from mest_compiler.kernels.geometry import ConvGeometry, Plane
from mest_compiler.schedules import generators
from mest_compiler.schedules.emit import Expr
from mest_compiler.schedules.partial import Partial
from mest_compiler.sparsity.layer_spec import SparseLayerSpec

from ..layer_kernels import LayerKernels
from ..program import KernelTable, Program, dtype_of, op_name, shape_of
from ..repeat import Repeat
from .layout import BatchTiles


@dataclass
class Value:
    """A variable of the source program: as NCHW (or not an activation at all), and as batch tiles by border."""

    plain: relax.Expr | None = None
    tiled: dict[int, relax.Expr] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    dtype: str = ""


def _same(x: Expr) -> Expr:
    return x


class Tiling:
    """One function being rewritten."""

    def __init__(
        self,
        builder: relax.BlockBuilder,
        program: Program,
        device: Device,
        layers: dict[str, LayerKernels],
        kernels: KernelTable,
        repeats: dict[str, Repeat],
        specs: Mapping[str, SparseLayerSpec],
    ) -> None:
        self.builder, self.program, self.device = builder, program, device
        self.generators = generators(device)
        self.layers, self.kernels, self.repeats, self.specs = layers, kernels, repeats, specs
        self.defined, self.items = program.definitions(), program.items()
        self.values: dict[relax.Var, Value] = {}
        self.tuples: dict[relax.Var, list[Value]] = {}
        self.sums: dict[relax.Var, relax.Expr] = {}  # activation -> the sums taken where it was written
        self.index_params: dict[tuple[str, str], relax.Var] = {}
        self.need = self._borders()
        self.span: Span | None = None  # of the binding being rewritten: what is emitted for it gets it

    # ---- what is known before a line is emitted
    def _borders(self) -> dict[relax.Var, int]:
        """Border that the convolutions reading a variable need of it."""
        need: dict[relax.Var, int] = {}
        for _, expr in self.program.bindings:
            name = op_name(expr).replace("sparse_", "")
            if not name.startswith("mest.conv2d"):
                continue
            data, other = expr.args[0], expr.args[1]
            padding = max(attributes(expr)["padding"])
            if name != "mest.conv2d_backward_data" and attributes(expr).get("recompute"):
                continue  # what it reads is the batch norm's input
            if name == "mest.conv2d":
                need[data] = max(need.get(data, 0), padding)
            elif name == "mest.conv2d_backward_weight":
                need[other] = max(need.get(other, 0), padding)
            else:
                need[data] = max(need.get(data, 0), self.geometry(expr).needed_dy_border)
        return need

    def geometry(self, expr: relax.Call, x_border: int = 0, dy_border: int = 0) -> ConvGeometry:
        """Geometry of the convolution that a (sparse or dense) forward or backward call belongs to."""
        a, name = attributes(expr), op_name(expr).replace("sparse_", "")
        first, second = shape_of(expr.args[0]), shape_of(expr.args[1])
        spec = self.specs.get(a["param"])
        weight = (a["oshape"] if name.endswith("weight") else second) if spec is None else spec.shape
        x, y = {
            "mest.conv2d": (first, a["oshape"]),
            "mest.conv2d_backward_data": (a["oshape"], first),
            "mest.conv2d_backward_weight": (second, first),
        }[name]
        dtype = dtype_of(expr.args[0])
        return self.layout(dtype).geometry(
            x, y, weight, dtype, stride=a["stride"], padding=a["padding"], dilation=a["dilation"],
            groups=int(a["groups"]), x_border=x_border, dy_border=dy_border,
        )  # fmt: skip

    def layout(self, dtype: str) -> BatchTiles:
        """How activations of a dtype lie in memory; int32 as float32."""
        return BatchTiles(self.device.lanes("float32" if dtype == "int32" else dtype))

    def vec(self, dtype: str) -> Any:
        """The device's vector for a dtype."""
        return self.generators.emit.Vec(self.layout(dtype).lanes, dtype)

    def border_of(self, var: relax.Var, item: int | None = None) -> int:
        """Border that a variable (or an item of a tuple variable) shall be written with."""
        if item is not None:
            found = self.items[var].get(item)
            return self.need.get(found, 0) if found is not None else 0
        return self.need.get(var, 0)

    # ---- emission
    def run(self, make: Partial, args: Sequence[relax.Expr], out: Sequence[relax.TensorType]) -> list[relax.Expr]:
        """Calls a kernel; gives its outputs."""
        ty = out[0] if len(out) == 1 else list(out)
        call = relax.call_tir(self.kernels.get(make), list(args), ty)
        result = self.builder.emit(marked(call, call.args, self.span))
        return (
            [result] if len(out) == 1 else [self.builder.emit(relax.TupleGetItem(result, i)) for i in range(len(out))]
        )

    def tiled_type(self, shape: Sequence[int], dtype: str, border: int = 0) -> relax.TensorType:
        """Type of an activation [N, C, H, W] in batch tiles [tiles, C * rows * cols, L]."""
        return relax.TensorType(self.layout(dtype).tiled(shape, border), dtype)

    # ---- values
    def value(self, expr: relax.Expr) -> Value:
        """Value of an argument of the source program."""
        if isinstance(expr, relax.Var):
            return self.values[expr]
        return Value(expr, {}, shape_of(expr) if isinstance(expr.ty, relax.TensorType) else (), "")

    def plain(self, expr: relax.Expr) -> relax.Expr:
        """An argument in its plain form, NCHW."""
        value = self.value(expr)
        if value.plain is None:
            border, source = next(iter(value.tiled.items()))
            n, c, h, w = value.shape
            vec, plane = self.vec(value.dtype), Plane(h, w, border)
            (value.plain,) = self.run(
                Partial(self.generators.elementwise.tile_out, n, c, plane, vec),
                [source],
                [relax.TensorType(value.shape, value.dtype)],
            )
        return value.plain

    def tiled(self, expr: relax.Expr, border: int | None = None) -> tuple[relax.Expr, Plane]:
        """An activation in batch tiles with just this border (None: whatever border it has), and its plane."""
        value = self.value(expr)
        if len(value.shape or shape_of(expr)) != 4:
            raise ModelError(f"An activation of shape {shape_of(expr)} cannot be laid out in batch tiles.")
        shape, dtype = value.shape or shape_of(expr), value.dtype or dtype_of(expr)
        n, c, h, w = shape
        for has, tiled in value.tiled.items():
            if border in (None, has):
                return tiled, Plane(h, w, has)
        vec = self.vec(dtype)
        if value.tiled:  # there, but with another border
            has, source = next(iter(value.tiled.items()))
            have, want = Plane(h, w, has), Plane(h, w, border)
            tiles = self.layout(dtype).tiles(shape)
            (copy,) = self.run(
                Partial(self.generators.elementwise.elementwise, "add_border", tiles, c, [have], want, vec, _same),
                [source],
                [self.tiled_type(shape, dtype, border)],
            )
        else:
            wanted = self.border_of(expr) if isinstance(expr, relax.Var) else 0
            want = Plane(h, w, wanted if border is None else border)
            (copy,) = self.run(
                Partial(self.generators.elementwise.tile_in, n, c, want, vec),
                [value.plain],
                [self.tiled_type(shape, dtype, want.border)],
            )
        value.tiled[want.border] = copy
        return copy, want

    def bind(self, var: relax.Var, expr: relax.Expr, border: int) -> None:
        """The source variable is this activation in batch tiles."""
        self.values[var] = Value(None, {border: expr}, shape_of(var), dtype_of(var))

    def activation(self, expr: relax.Expr, shape: tuple[int, ...], dtype: str, border: int) -> Value:
        """A tuple's item that is an activation in batch tiles."""
        return Value(None, {border: expr}, shape, dtype)
