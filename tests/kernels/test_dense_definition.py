"""The plain definitions of the dense kernels against the dense reference on whole numbers: the same to the last bit."""

import numpy as np
import pytest

from mest_compiler.kernels import dense_convolution

from ..schedules.convolutions import Conv, Data, dx_buffer, whole, y_buffer
from ..schedules.tiles import NARROW, compile_kernels, poisoned, vector

LAYERS = {
    "same": Conv(5, 6, (7, 5)),
    "strided": Conv(4, 6, (6, 7), stride=(2, 1), padding=(1, 2)),
    "two groups": Conv(6, 8, (5, 7), groups=2),
    "depthwise, stride 2": Conv(7, 7, (7, 6), stride=(2, 2), groups=7, batch=3, margin=1),
    "dilated": Conv(4, 4, (8, 5), kernel=(3, 1), padding=(2, 0), dilation=(2, 1)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_definition(name: str) -> None:
    conv, vec = LAYERS[name], vector(NARROW, "float64")
    g, data = conv.geometry(vec), Data.make(conv, vec, draw=whole)
    made = {name: getattr(dense_convolution, name)(g) for name in ("forward", "backward_data", "backward_weight")}
    machine = compile_kernels(made)
    y, dx, dw = y_buffer(g), dx_buffer(g), poisoned(conv.weight_shape, "float64")
    machine["forward"](data.x, data.weight_tensor(), y)
    data.check_y(name, y)
    machine["backward_data"](data.dy, data.weight_tensor(), dx)
    data.check_dx(name, dx)
    machine["backward_weight"](data.x, data.dy, dw, poisoned((data.weight.size, vec.lanes), "float64"))
    np.testing.assert_array_equal(dw.numpy(), data.dw_ref)
