"""Plain definitions of the mest.* operators as tensor expressions: what each one computes, in NCHW, without a
schedule.

The dense path of tests is legalised to these; kernels for a device replace them.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import te, tirx, topi

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


def global_avg_pool(x: te.Tensor) -> te.Tensor:
    """The mean of every plane."""
    batch, channels, height, width = _shape(x)
    h, w = _axes(h=height, w=width)
    total = te.compute((batch, channels), lambda n, c: te.sum(x[n, c, h, w], axis=[h, w]), "plane_sum")
    return te.compute(total.shape, lambda n, c: total[n, c] / tirx.const(height * width, x.dtype), "global_avg_pool")


def spatial_broadcast(g: te.Tensor, oshape: Shape) -> te.Tensor:
    """g repeated over every plane."""
    return te.compute(oshape, lambda n, c, h, w: g[n, c], "spatial_broadcast")
