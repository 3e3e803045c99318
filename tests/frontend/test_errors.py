"""Every model that cannot be compiled is refused in one sentence that says what and where."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mest_compiler.errors import ModelError
from mest_compiler.frontend import trace
from mest_compiler.losses import CallableLoss


class Net(nn.Module):
    """conv -> `inner` -> mean over the plane: logits [N, 10]."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.conv, self.inner = nn.Conv2d(3, 10, 3), inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.conv(x)).mean((2, 3))


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class FrozenNorm(nn.BatchNorm2d):
    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)


class TwiceUsed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(10, 10, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.relu(self.conv(x)))


class Standardised(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight * 2, self.bias)


class Penalised(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.weight.sum((0, 1, 2, 3))


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (nn.SiLU(), r"aten\.silu\.default in module 'inner' has no converter to Relax; replace"),
        (nn.Sequential(nn.ReLU(), nn.Dropout(1.0)), r"native_dropout.default in module 'inner\.1' drops everything"),
        (Function(lambda x: F.dropout(x, 0.5)), r"module 'inner' drops elements in evaluation too; use nn.Dropout"),
        (nn.Dropout2d(0.5), r"module 'inner' has no converter"),
        (nn.BatchNorm2d(10, affine=False), r"module 'inner' has no affine weight and bias; use affine=True"),
        (
            nn.BatchNorm2d(10, track_running_stats=False),
            r"module 'inner' has no running statistics; use track_running_stats=True",
        ),
        (nn.BatchNorm2d(10, momentum=None), r"module 'inner' reads the value of a tensor .*momentum=None"),
        (FrozenNorm(10), r"module 'inner' is frozen in eval mode"),
        (nn.ConvTranspose2d(10, 10, 3), r"module 'inner' is transposed or not 2-d"),
        (
            nn.MaxPool2d(4, ceil_mode=True),
            r"max_pool2d.* in module 'inner' uses ceil_mode, which makes a plane of \[2, 2\] of \[6, 6\] where whole "
            r"windows make \[1, 1\]; .*: set ceil_mode=False, or pad or crop",
        ),
        (
            nn.AvgPool2d(4, 3, 1, ceil_mode=True),
            r"avg_pool2d.* in module 'inner' uses ceil_mode, .* \[3, 3\] of \[6, 6\]",
        ),
        (
            nn.AdaptiveAvgPool2d(4),
            r"avg_pool2d.* in module 'inner' pools a plane of \[6, 6\] to \[4, 4\] in windows of unequal .*; pool to a",
        ),
        (nn.AdaptiveMaxPool2d((6, 4)), r"adaptive_max.* in module 'inner' pools a plane of \[6, 6\] to \[6, 4\]"),
        (nn.AdaptiveAvgPool2d(12), r"module 'inner' pools a plane of \[6, 6\] to \[12, 12\]"),
        (nn.Threshold(0.1, 0), r"module 'inner' has threshold 0.1 and value 0; only those of ReLU"),
        (nn.ReflectionPad2d(1), r"reflection_pad2d.default in module 'inner' has no converter"),
        (
            nn.Sequential(nn.Flatten(0, 1), nn.MaxPool2d(2), nn.Unflatten(0, (-1, 10))),
            r"module 'inner.1' pools a tensor",
        ),
        (Function(lambda x: torch.clamp(x, 3, -3)), r"module 'inner' has bounds 3 and -3; the lower one must come"),
        (Function(lambda x: x * (x >= 0.5)), r"module 'inner' reads a comparison, which only the gradient of a clamp"),
        (
            Function(lambda x: torch.where(torch.logical_and(x >= 0, x * 2 <= 1), x, 0.0)),
            r"module 'inner' joins other conditions than the bounds of one clamp",
        ),
        (
            Function(lambda x: torch.where(x >= 0, x, x * 0.1)),
            r"module 'inner' chooses by another condition than the bounds of a clamp",
        ),
        (
            nn.Conv2d(11, 10, 3),
            r"cannot be traced for an input of shape \[4, 3, 8, 8\]: module 'inner' fails",
        ),
        (Function(lambda x: F.silu(x)), r"silu.default in module 'inner'"),
        (
            TwiceUsed(),
            r"module 'inner\.conv' uses parameter 'inner\.conv\.weight', which another convolution",
        ),
        (Standardised(10, 10, 1), r"module 'inner' computes its weight in the forward pass"),
        (Penalised(10, 10, 1), r"module 'inner' has weight 'inner\.weight', which aten\.sum\.\w+ reads too"),
        (nn.MaxPool2d(2, return_indices=True), r"module 'inner'|fails with"),
    ],
)
def test_layer_is_refused(inner, message, batch):
    with pytest.raises(ModelError, match=message) as caught:
        trace(Net(inner), batch(torch.float32)[0])
    assert "\n" not in str(caught.value)


def test_indices_of_a_pooling_are_refused_elsewhere(batch):
    def multiply_by_index(x: torch.Tensor) -> torch.Tensor:
        y, index = F.max_pool2d(x, 2, return_indices=True)
        return y * index

    with pytest.raises(ModelError, match="module 'inner' reads the indices of a max-pooling"):
        trace(Net(Function(multiply_by_index)), batch(torch.float32)[0])


def test_operator_outside_of_a_layer_names_the_model(batch):
    class Squashed(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.erf(super().forward(x))

    with pytest.raises(ModelError, match=r"aten\.erf\.default in the model's own forward"):
        trace(Squashed(nn.ReLU()), batch(torch.float32)[0])


def test_unused_parameter(batch):
    model = Net(nn.ReLU())
    model.spare = nn.Linear(2, 2)
    with pytest.raises(ModelError, match=r"parameter 'spare\.weight' gets no gradient"):
        trace(model, batch(torch.float32)[0])


def test_shared_parameter(batch):
    model = Net(nn.Conv2d(10, 10, 1, bias=False))
    model.again = nn.Conv2d(10, 10, 1, bias=False)
    model.again.weight = model.inner.weight
    with pytest.raises(ModelError, match=r"'inner\.weight' and 'again\.weight' are one tensor"):
        trace(model, batch(torch.float32)[0])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Flatten(), "has no parameters that are trained"),
        (nn.Linear(3, 3).requires_grad_(False), "has no parameters that are trained"),
        (
            Function(nn.Sequential(nn.Conv2d(3, 10, 8), nn.Flatten(0))),
            r"of shape \[40\] for a batch of 4; 'output' must",
        ),
        (nn.Conv2d(3, 10, 3), r"returns a tensor of shape \['batch', 10, 6, 6\], and cross-entropy takes logits"),
        (Function(nn.Sequential(nn.Conv2d(3, 10, 8), nn.Flatten()).half()), "must be float32 or float64"),
        (nn.Sequential(nn.Conv2d(3, 10, 8), nn.Linear(1, 1).double()), "must have one dtype, but '0.weight'"),
        (nn.Conv2d(3, 10, 8).double(), "x is float32 but the parameters are float64"),
    ],
)
def test_model_is_refused(model, message, batch):
    with pytest.raises(ModelError, match=message):
        trace(model, batch(torch.float32)[0])


def test_several_outputs(batch):
    class Two(Net):
        def forward(self, x):
            out = super().forward(x)
            return out, out

    with pytest.raises(ModelError, match="outputs output0, output1, and cross-entropy is taken of one: give a loss of"):
        trace(Two(nn.ReLU()), batch(torch.float32)[0])


def test_what_is_no_tensor(batch):
    class Sized(Net):
        def forward(self, x):
            return super().forward(x), len(x)

    with pytest.raises(ModelError, match="returns tuple; it must return a tensor, or a tuple or a dict of tensors"):
        trace(Sized(nn.ReLU()), batch(torch.float32)[0])


def test_a_loss_that_is_no_number(batch):
    loss = CallableLoss(lambda output: output.sum(1))
    with pytest.raises(ModelError, match=r"the loss returns a tensor of shape \[4\]; it must return a number"):
        trace(Net(nn.ReLU()), batch(torch.float32)[0], loss)


def test_parameter_changed_in_the_forward(batch):
    class Decaying(nn.Conv2d):
        def forward(self, x):
            with torch.no_grad():
                self.weight.mul_(0.9)
            return super().forward(x)

    with pytest.raises(ModelError, match=r"parameter 'inner\.weight'"):
        trace(Net(Decaying(10, 10, 1)), batch(torch.float32)[0])


def test_an_error_leaves_the_tracer_usable(batch):
    for _ in range(2):
        with pytest.raises(ModelError, match="module 'inner' fails"):
            trace(Net(nn.Conv2d(11, 10, 3)), batch(torch.float32)[0])
    assert trace(Net(nn.ReLU()), batch(torch.float32)[0]).step.results[1].shape == (4, 10)
