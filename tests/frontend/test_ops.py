"""Plain definitions of single mest.* operators against PyTorch, where a network would not show a mistake."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tvm
from tvm import relax

from mest_compiler.frontend import ops

LOWEST = float("-inf")


def function_of(calls, *shapes: tuple[int, ...]) -> tvm.IRModule:
    """A module whose main applies `calls` to float64 tensors of these shapes."""
    builder = relax.BlockBuilder()
    variables = [relax.Var(f"a{i}", relax.TensorType(shape, "float64")) for i, shape in enumerate(shapes)]
    with builder.function("main", variables):
        with builder.dataflow():
            out = builder.emit_output(calls(builder, *variables))
        builder.emit_func_output(out)
    return builder.finalize()


def run(machine: relax.VirtualMachine, *arrays: np.ndarray) -> list[np.ndarray]:
    result = machine["main"](*[tvm.runtime.tensor(a) for a in arrays])
    return [value.numpy() for value in result]


@pytest.mark.parametrize(
    ("channels", "filters", "plane", "kernel", "stride", "padding", "dilation", "groups"),
    [
        (4, 6, (7, 5), (3, 3), (2, 2), (1, 1), (1, 1), 1),
        (4, 4, (6, 6), (1, 1), (2, 2), (0, 0), (1, 1), 1),
        (6, 6, (5, 8), (3, 3), (1, 2), (1, 0), (1, 1), 6),
        (4, 6, (9, 9), (2, 3), (3, 1), (2, 1), (2, 3), 2),
    ],
)
def test_convolution_and_gradients(channels, filters, plane, kernel, stride, padding, dilation, groups, compile_plain):
    x = torch.randn(2, channels, *plane, dtype=torch.float64, requires_grad=True)
    w = torch.randn(filters, channels // groups, *kernel, dtype=torch.float64, requires_grad=True)
    y = F.conv2d(x, w, None, stride, padding, dilation, groups)
    gy = torch.randn_like(y)
    y.backward(gy)
    geometry = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "param": "w",
    }

    def calls(builder, x_, w_, gy_):
        out = builder.emit(ops.conv2d(x_, w_, oshape=y.shape, **geometry))
        gx = builder.emit(ops.conv2d_backward_data(gy_, w_, oshape=x.shape, **geometry))
        gw = builder.emit(ops.conv2d_backward_weight(gy_, x_, oshape=w.shape, **geometry))
        return relax.Tuple([out, gx, gw])

    machine = compile_plain(function_of(calls, x.shape, w.shape, y.shape))
    found = run(machine, x.detach().numpy(), w.detach().numpy(), gy.numpy())
    for value, wanted in zip(found, (y, x.grad, w.grad), strict=True):
        np.testing.assert_allclose(value, wanted.detach().numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [((3, 3), (2, 2), (1, 1), (1, 1)), ((2, 3), (1, 2), (1, 0), (2, 1))],
)
def test_max_pool_takes_the_first_of_equal_maxima(kernel, stride, padding, dilation, compile_plain):
    # few distinct values make ties; a plane of -inf must still choose a position inside the image
    x = torch.randint(0, 3, (2, 3, 7, 8)).double()
    x[0, 0] = LOWEST
    x.requires_grad_(True)
    y = F.max_pool2d(x, kernel, stride, padding, dilation)
    gy = torch.randn_like(y)
    y.backward(gy)
    window = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}

    def calls(builder, x_, gy_):
        pooled = builder.emit(ops.max_pool2d(x_, oshape=y.shape, **window))
        index = builder.emit(relax.TupleGetItem(pooled, 1))
        gx = builder.emit(ops.max_pool2d_backward(gy_, index, oshape=x.shape, **window))
        return relax.Tuple([builder.emit(relax.TupleGetItem(pooled, 0)), index, gx])

    found = run(compile_plain(function_of(calls, x.shape, y.shape)), x.detach().numpy(), gy.numpy())
    np.testing.assert_array_equal(found[0], y.detach().numpy())
    assert found[1].dtype == np.int32 and found[1].max() < kernel[0] * kernel[1]
    np.testing.assert_allclose(found[2], x.grad.numpy(), rtol=1e-12, atol=1e-14)


def test_relu_gradient_at_zero_is_zero(compile_plain):
    module = function_of(lambda builder, gy, y: relax.Tuple([builder.emit(ops.relu_backward(gy, y))]), (4,), (4,))
    (found,) = run(compile_plain(module), np.array([1.0, 2, 3, 4]), np.array([0.0, 0.5, -0.0, 7]))
    np.testing.assert_array_equal(found, [0, 2, 0, 4])


def test_attributes_come_back_as_python_values():
    x = relax.Var("x", relax.TensorType((2, 3, 4, 4), "float32"))
    pooled = ops.max_pool2d(x, oshape=(2, 3, 2, 2), kernel=(2, 2), stride=(2, 2), padding=(0, 0), dilation=(1, 1))
    assert ops.attributes(pooled)["oshape"] == (2, 3, 2, 2)
    statistics = [relax.Var("v", relax.TensorType((3,), "float32"))] * 4
    norm = ops.batch_norm(x, *statistics, momentum=0.1, eps=1e-5)
    assert ops.attributes(norm) == {"momentum": 0.1, "eps": 1e-5}
