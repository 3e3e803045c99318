"""Definitions of dense convolutions, grouped and depthwise ones among them, with the weight as PyTorch stores it."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from . import convolution as c
from .geometry import ConvGeometry


def _weight(name: str, g: ConvGeometry) -> tirx.Buffer:
    """Argument [F, C / groups, kh, kw]."""
    return T.arg(name, T.buffer((g.filters, g.channels // g.groups, *g.kernel), g.dtype))


def _gather(name: str, g: ConvGeometry, grids, back: bool) -> tirx.PrimFunc:
    sources, source, targets, target = c.source_and_target(g, back)
    per_in, per_out = sources // g.groups, targets // g.groups

    def body() -> None:
        x, w = c.activation("X", g, sources, source), _weight("W", g)
        y = c.activation("Y", g, targets, target)
        for grid, taps in grids:
            with T.grid(g.tiles, g.groups, per_out, grid.rows, grid.cols, g.lanes) as (tile, group, i, r, q, lane):
                read, write = c.pixel(grid, r, q)
                out = [tile, (group * per_out + i) * target.size + write, lane]
                c.zero(g, y, out)
                with T.serial(per_in) as k:
                    filter_, channel = (group * per_in + k, i) if back else (group * per_out + i, k)
                    for tap, place in taps.items():
                        weight = w[filter_, channel, tap // g.kernel[1], tap % g.kernel[1]]
                        term = weight * x[tile, (group * per_in + k) * source.size + place + read, lane]
                        c.add(y, out, term)

    return c.function(name, body)


def forward(g: ConvGeometry) -> tirx.PrimFunc:
    """Y = conv(X, W). Arguments: X, W, Y."""
    grids = [(g.forward_grid, {tap: g.tap_offset(tap) for tap in range(g.taps)})]
    return _gather("dense_forward", g, grids, False)


def backward_data(g: ConvGeometry) -> tirx.PrimFunc:
    """dX of the same, once for each parity class. Arguments: dY, W, dX."""
    return _gather("dense_backward_data", g, g.backward_grids, True)


def backward_weight(g: ConvGeometry) -> tirx.PrimFunc:
    """dW of the same. Arguments: X, dY, dW, DL [F * columns, L] (unused)."""
    per_in, per_out = g.channels // g.groups, g.filters // g.groups

    def body() -> None:
        x, dy = c.activation("X", g, g.channels, g.x), c.activation("DY", g, g.filters, g.dy)
        dw = _weight("DW", g)
        T.arg("DL", T.buffer((g.filters * g.columns, g.lanes), g.dtype))
        with T.grid(g.filters, per_in) as (f, k):
            for tap in range(g.taps):
                out, place = [f, k, tap // g.kernel[1], tap % g.kernel[1]], g.tap_offset(tap)
                c.zero(g, dw, out)
                plane = (T.truncdiv(f, per_out) * per_in + k) * g.x.size + place
                c.over_batch_and_dy(
                    g,
                    lambda tile, read, at, lane, out=out, plane=plane: c.add(
                        dw, out, dy[tile, f * g.dy.size + at, lane] * x[tile, plane + read, lane]
                    ),
                )

    return c.function("dense_backward_weight", body)
