"""Plain definitions of the mest.* operators as tensor expressions: what each one computes, in NCHW, without a
schedule.

The dense path of tests is legalised to these; kernels for a device replace them.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import te, tirx, topi

from mest_compiler.dropout_mask import BITS, dropout_bits, dropout_keys, expressions, threshold

Pair = tuple[int, int]
Shape = tuple[int, int, int, int]


def _shape(tensor: te.Tensor) -> list[int]:
    return [int(n) for n in tensor.shape]


def _axes(**extents: int) -> list[tirx.IterVar]:
    return [te.reduce_axis((0, extent), name) for name, extent in extents.items()]


def _zero(tensor: te.Tensor) -> tirx.Expr:
    return tirx.const(0, tensor.dtype)


def _lowest(dtype: str) -> tirx.Expr:
    return -tirx.infinity(dtype)


# te.max starts from the smallest finite number, which would win over -inf.
_maximum = te.comm_reducer(lambda a, b: tirx.max(a, b), _lowest, name="max")


def _sum_over_channel(like: te.Tensor, value: Callable, name: str) -> te.Tensor:
    """Sum of value(n, c, h, w) for every channel, in two stages: one long sum in float32 drifts, and the
    drift flips ReLUs.
    """
    batch, channels, height, width = _shape(like)
    h, w = _axes(h=height, w=width)
    planes = te.compute((batch, channels), lambda n, c: te.sum(value(n, c, h, w), axis=[h, w]), f"{name}_plane")
    (n,) = _axes(n=batch)
    return te.compute((channels,), lambda c: te.sum(planes[n, c], axis=n), name)


def conv2d(
    x: te.Tensor, w: te.Tensor, oshape: Shape, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> te.Tensor:
    """y[n, f, p, q] = sum over c, i, j of x[n, c, p * stride + i * dilation - padding, ..] * w[f, c, i, j]"""
    filters_a_group, channels_a_group = oshape[1] // groups, _shape(w)[1]
    xp = topi.nn.pad(x, [0, 0, *padding], [0, 0, *padding])
    c, i, j = _axes(c=channels_a_group, i=_shape(w)[2], j=_shape(w)[3])

    def value(n: tirx.Var, f: tirx.Var, p: tirx.Var, q: tirx.Var) -> tirx.Expr:
        channel = f // filters_a_group * channels_a_group + c
        row, column = p * stride[0] + i * dilation[0], q * stride[1] + j * dilation[1]
        return te.sum(xp[n, channel, row, column] * w[f, c, i, j], axis=[c, i, j])

    return te.compute(oshape, value, "conv2d")


def _output_position(h: tirx.Expr, w: tirx.Expr, gy: te.Tensor, stride: Pair) -> tuple[tirx.Expr, tirx.Expr, tirx.Expr]:
    """Which output (p, q) has its window start at padded position (h, w), and whether there is one."""
    rows, columns = _shape(gy)[2:]
    p, q = tirx.floordiv(h, stride[0]), tirx.floordiv(w, stride[1])
    aligned = [tirx.floormod(h, stride[0]) == 0, tirx.floormod(w, stride[1]) == 0]
    return p, q, tirx.all(h >= 0, w >= 0, *aligned, p < rows, q < columns)


def conv2d_backward_data(
    gy: te.Tensor, w: te.Tensor, oshape: Shape, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> te.Tensor:
    """gx[n, c, h, w] = sum over the outputs that read it of gy times the weight it was read with."""
    filters_a_group, channels_a_group = _shape(gy)[1] // groups, _shape(w)[1]
    f, i, j = _axes(f=filters_a_group, i=_shape(w)[2], j=_shape(w)[3])

    def value(n: tirx.Var, c: tirx.Var, row: tirx.Var, column: tirx.Var) -> tirx.Expr:
        start_row, start_column = row + padding[0] - i * dilation[0], column + padding[1] - j * dilation[1]
        p, q, exists = _output_position(start_row, start_column, gy, stride)
        filt = c // channels_a_group * filters_a_group + f
        product = gy[n, filt, p, q] * w[filt, c % channels_a_group, i, j]
        return te.sum(tirx.if_then_else(exists, product, _zero(gy)), axis=[f, i, j])

    return te.compute(oshape, value, "conv2d_backward_data")


def conv2d_backward_weight(
    gy: te.Tensor, x: te.Tensor, oshape: Shape, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> te.Tensor:
    """gw[f, c, i, j] = sum over examples and outputs of gy times the input that weight met."""
    batch, _, rows, columns = _shape(gy)
    filters_a_group, channels_a_group = oshape[0] // groups, oshape[1]
    xp = topi.nn.pad(x, [0, 0, *padding], [0, 0, *padding])
    n, p, q = _axes(n=batch, p=rows, q=columns)

    def value(f: tirx.Var, c: tirx.Var, i: tirx.Var, j: tirx.Var) -> tirx.Expr:
        channel = f // filters_a_group * channels_a_group + c
        row, column = p * stride[0] + i * dilation[0], q * stride[1] + j * dilation[1]
        return te.sum(gy[n, f, p, q] * xp[n, channel, row, column], axis=[n, p, q])

    return te.compute(oshape, value, "conv2d_backward_weight")


def bias_add(x: te.Tensor, b: te.Tensor) -> te.Tensor:
    """x plus b on every channel."""
    return te.compute(x.shape, lambda n, c, h, w: x[n, c, h, w] + b[c], "bias_add")


def bias_grad(gy: te.Tensor) -> te.Tensor:
    """Sum of gy over everything but the channel."""
    return _sum_over_channel(gy, lambda n, c, h, w: gy[n, c, h, w], "bias_grad")


def batch_norm(
    x: te.Tensor,
    w: te.Tensor,
    b: te.Tensor,
    running_mean: te.Tensor,
    running_var: te.Tensor,
    momentum: float,
    eps: float,
) -> list[te.Tensor]:
    """Batch norm in training: [y, mean, rstd, new running mean, new running variance].

    rstd = 1 / sqrt(biased variance + eps), from squared deviations (two passes); the running variance moves
    towards the unbiased one, as in PyTorch.
    """
    batch, channels, height, width = _shape(x)
    count = batch * height * width

    def constant(value: float) -> tirx.Expr:
        return tirx.const(value, x.dtype)

    def squared_deviation(n: tirx.Var, c: tirx.Var, i: tirx.Var, j: tirx.Var) -> tirx.Expr:
        return (x[n, c, i, j] - mean[c]) * (x[n, c, i, j] - mean[c])

    def moved(old: te.Tensor, new: Callable, name: str) -> te.Tensor:
        keep, take = constant(1 - momentum), constant(momentum)
        return te.compute((channels,), lambda c: old[c] * keep + new(c) * take, name)

    total = _sum_over_channel(x, lambda n, c, i, j: x[n, c, i, j], "sum")
    mean = te.compute((channels,), lambda c: total[c] / constant(count), "mean")
    squares = _sum_over_channel(x, squared_deviation, "squares")
    rstd = te.compute(
        (channels,),
        lambda c: constant(1) / tirx.sqrt(squares[c] / constant(count) + constant(eps)),
        "rstd",
    )
    y = te.compute(x.shape, lambda n, c, i, j: (x[n, c, i, j] - mean[c]) * (rstd[c] * w[c]) + b[c], "batch_norm")
    # Without a second value PyTorch itself refuses to train, so the divisor below is never 0.
    new_mean = moved(running_mean, lambda c: mean[c], "new_running_mean")
    new_var = moved(running_var, lambda c: squares[c] / constant(count - 1), "new_running_var")
    return [y, mean, rstd, new_mean, new_var]


def batch_norm_backward(gy: te.Tensor, x: te.Tensor, w: te.Tensor, mean: te.Tensor, rstd: te.Tensor) -> list[te.Tensor]:
    """Gradients [gx, gw, gb] of a batch norm in training."""
    batch, _, height, width = _shape(x)
    share = tirx.const(1 / (batch * height * width), x.dtype)

    def normal(n: tirx.Var, c: tirx.Var, i: tirx.Var, j: tirx.Var) -> tirx.Expr:
        return (x[n, c, i, j] - mean[c]) * rstd[c]

    gb = _sum_over_channel(gy, lambda n, c, i, j: gy[n, c, i, j], "gb")
    gw = _sum_over_channel(gy, lambda n, c, i, j: gy[n, c, i, j] * normal(n, c, i, j), "gw")
    gx = te.compute(
        x.shape,
        lambda n, c, i, j: (gy[n, c, i, j] - gb[c] * share - normal(n, c, i, j) * (gw[c] * share)) * (rstd[c] * w[c]),
        "gx",
    )
    return [gx, gw, gb]


def batch_norm_inference(
    x: te.Tensor, w: te.Tensor, b: te.Tensor, running_mean: te.Tensor, running_var: te.Tensor, eps: float
) -> te.Tensor:
    """Batch norm with its running statistics."""
    scale = te.compute(w.shape, lambda c: w[c] / tirx.sqrt(running_var[c] + tirx.const(eps, x.dtype)), "scale")
    return te.compute(
        x.shape,
        lambda n, c, i, j: (x[n, c, i, j] - running_mean[c]) * scale[c] + b[c],
        "batch_norm_inference",
    )


def relu_backward(gy: te.Tensor, y: te.Tensor) -> te.Tensor:
    """gy where the ReLU's output is positive, else 0."""
    return te.compute(gy.shape, lambda *i: tirx.Select(y[i] > _zero(y), gy[i], _zero(gy)), "relu_backward")


def clip(x: te.Tensor, low: float, high: float) -> te.Tensor:
    """x, at least low and at most high."""
    bounds = [tirx.const(bound, x.dtype) for bound in (low, high)]
    return te.compute(x.shape, lambda *i: tirx.min(bounds[1], tirx.max(bounds[0], x[i])), "clip")


def clip_backward(gy: te.Tensor, y: te.Tensor, low: float, high: float) -> te.Tensor:
    """gy where the clipped output lies between the bounds, 0 on both of them."""
    bounds = [tirx.const(bound, y.dtype) for bound in (low, high)]
    return te.compute(
        gy.shape,
        lambda *i: tirx.Select(tirx.all(y[i] > bounds[0], y[i] < bounds[1]), gy[i], _zero(gy)),
        "clip_backward",
    )


def clamp_backward(gy: te.Tensor, x: te.Tensor, low: float, high: float) -> te.Tensor:
    """gy where the input lies between the bounds or on one of them, else 0."""
    bounds = [tirx.const(bound, x.dtype) for bound in (low, high)]
    return te.compute(
        gy.shape,
        lambda *i: tirx.Select(tirx.all(x[i] >= bounds[0], x[i] <= bounds[1]), gy[i], _zero(gy)),
        "clamp_backward",
    )


def dropout(x: te.Tensor, seed: te.Tensor, p: float, layer: int) -> te.Tensor:
    """x / (1 - p) where `dropout_mask.keep` keeps the element, else 0."""
    scale = tirx.const(1 / (1 - p), x.dtype)

    def value(*index: tirx.Var) -> tirx.Expr:
        place = tirx.const(0, "int32")
        for extent, i in zip(_shape(x), index, strict=True):
            place = place * extent + i
        lets: list[tuple[tirx.Var, tirx.Expr]] = []  # without them the expression doubles at every use

        def bind(value: tirx.Expr) -> tirx.Var:
            lets.append((tirx.Var(f"bits{len(lets)}", BITS), value))
            return lets[-1][0]

        arithmetic = expressions(bind)
        bits = dropout_bits(tirx.Cast(BITS, place), dropout_keys(seed(), layer, arithmetic), arithmetic)
        out = tirx.Select(bits >= tirx.const(threshold(p), BITS), x[index] * scale, _zero(x))
        for var, bound in reversed(lets):
            out = tirx.Let(var, bound, out)
        return out

    return te.compute(x.shape, value, "dropout")


def max_pool2d(
    x: te.Tensor, oshape: Shape, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> list[te.Tensor]:
    """[maximum of every window, position i * kw + j of the first one in it]; positions in the padding are
    never chosen.
    """
    height, width = _shape(x)[2:]
    xp = topi.nn.pad(x, [0, 0, *padding], [0, 0, *padding], _lowest(x.dtype))
    i, j = _axes(i=kernel[0], j=kernel[1])

    def row_column(p: tirx.Var, q: tirx.Var, i: tirx.Expr, j: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
        return p * stride[0] + i * dilation[0], q * stride[1] + j * dilation[1]

    def first(n: tirx.Var, c: tirx.Var, p: tirx.Var, q: tirx.Var) -> tirx.Expr:
        index = tirx.const(0, "int32")
        for position in reversed(range(kernel[0] * kernel[1])):
            row, column = row_column(p, q, *divmod(position, kernel[1]))
            inside = [row >= padding[0], row < padding[0] + height]
            inside += [column >= padding[1], column < padding[1] + width]
            found = tirx.all(*inside, xp[n, c, row, column] == maximum[n, c, p, q])
            index = tirx.Select(found, tirx.const(position, "int32"), index)
        return index

    maximum = te.compute(
        oshape, lambda n, c, p, q: _maximum(xp[(n, c, *row_column(p, q, i, j))], axis=[i, j]), "max_pool2d"
    )
    return [maximum, te.compute(oshape, first, "index")]


def max_pool2d_backward(
    gy: te.Tensor,
    index: te.Tensor,
    oshape: Shape,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> te.Tensor:
    """gx: the sum of gy over the windows that chose the input."""
    i, j = _axes(i=kernel[0], j=kernel[1])

    def value(n: tirx.Var, c: tirx.Var, row: tirx.Var, column: tirx.Var) -> tirx.Expr:
        start_row, start_column = row + padding[0] - i * dilation[0], column + padding[1] - j * dilation[1]
        p, q, exists = _output_position(start_row, start_column, gy, stride)
        position = tirx.Cast("int32", i * kernel[1] + j)
        chosen = tirx.Select(index[n, c, p, q] == position, gy[n, c, p, q], _zero(gy))
        return te.sum(tirx.if_then_else(exists, chosen, _zero(gy)), axis=[i, j])

    return te.compute(oshape, value, "max_pool2d_backward")


def _pixels_inside(p: tirx.Var, q: tirx.Var, plane: list[int], kernel: Pair, stride: Pair, padding: Pair) -> tirx.Expr:
    """Pixels of the image that the window of output (p, q) covers."""
    counts = []
    for at, size, window, step, pad in zip((p, q), plane, kernel, stride, padding, strict=True):
        start = at * step - pad
        counts.append(tirx.min(start + window, size) - tirx.max(start, 0))
    return counts[0] * counts[1]


def avg_pool2d(x: te.Tensor, oshape: Shape, kernel: Pair, stride: Pair, padding: Pair, divisor: int) -> te.Tensor:
    """The sum of every window by `divisor`; 0: by the pixels of the image in it."""
    plane = _shape(x)[2:]
    xp = topi.nn.pad(x, [0, 0, *padding], [0, 0, *padding])
    i, j = _axes(i=kernel[0], j=kernel[1])
    total = te.compute(
        oshape,
        lambda n, c, p, q: te.sum(xp[n, c, p * stride[0] + i, q * stride[1] + j], axis=[i, j]),
        "window_sum",
    )

    def value(n: tirx.Var, c: tirx.Var, p: tirx.Var, q: tirx.Var) -> tirx.Expr:
        count = divisor or _pixels_inside(p, q, plane, kernel, stride, padding)
        return total[n, c, p, q] / tirx.Cast(x.dtype, count)

    return te.compute(oshape, value, "avg_pool2d")


def avg_pool2d_backward(
    gy: te.Tensor, oshape: Shape, kernel: Pair, stride: Pair, padding: Pair, divisor: int
) -> te.Tensor:
    """gx: the sum of gy over the windows that hold the input, each by its divisor."""
    i, j = _axes(i=kernel[0], j=kernel[1])

    def value(n: tirx.Var, c: tirx.Var, row: tirx.Var, column: tirx.Var) -> tirx.Expr:
        p, q, exists = _output_position(row + padding[0] - i, column + padding[1] - j, gy, stride)
        count = divisor or _pixels_inside(p, q, list(oshape[2:]), kernel, stride, padding)
        share = gy[n, c, p, q] / tirx.Cast(gy.dtype, count)
        return te.sum(tirx.if_then_else(exists, share, _zero(gy)), axis=[i, j])

    return te.compute(oshape, value, "avg_pool2d_backward")


def global_avg_pool(x: te.Tensor) -> te.Tensor:
    """The mean of every plane."""
    batch, channels, height, width = _shape(x)
    h, w = _axes(h=height, w=width)
    total = te.compute((batch, channels), lambda n, c: te.sum(x[n, c, h, w], axis=[h, w]), "plane_sum")
    return te.compute(total.shape, lambda n, c: total[n, c] / tirx.const(height * width, x.dtype), "global_avg_pool")


def spatial_broadcast(g: te.Tensor, oshape: Shape) -> te.Tensor:
    """g repeated over every plane."""
    return te.compute(oshape, lambda n, c, h, w: g[n, c], "spatial_broadcast")


def linear(x: te.Tensor, w: te.Tensor) -> te.Tensor:
    """y[n, f] = sum over c of x[n, c] * w[f, c]"""
    (batch, channels), filters = _shape(x), _shape(w)[0]
    transposed = te.compute((channels, filters), lambda c, f: w[f, c], "transposed")
    (c,) = _axes(c=channels)
    return te.compute((batch, filters), lambda n, f: te.sum(x[n, c] * transposed[c, f], axis=c), "product")


def linear_backward_data(gy: te.Tensor, w: te.Tensor) -> te.Tensor:
    """gx[n, c] = sum over f of gy[n, f] * w[f, c]"""
    (batch, filters), channels = _shape(gy), _shape(w)[1]
    (f,) = _axes(f=filters)
    return te.compute((batch, channels), lambda n, c: te.sum(gy[n, f] * w[f, c], axis=f), "product")


def linear_backward_weight(gy: te.Tensor, x: te.Tensor) -> te.Tensor:
    """gw[f, c] = sum over n of gy[n, f] * x[n, c]"""
    (batch, filters), channels = _shape(gy), _shape(x)[1]
    (n,) = _axes(n=batch)
    return te.compute((filters, channels), lambda f, c: te.sum(gy[n, f] * x[n, c], axis=n), "product")
