"""Layers that in one configuration change nothing, or are exactly another layer: taken, and the same as in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mest_compiler.errors import ModelError
from mest_compiler.frontend import trace


class Net(nn.Module):
    """convolution -> `inner` -> mean over the plane: logits [N, 10]; the plane is 7x7 where the image is 9x9."""

    def __init__(self, inner: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.inner = nn.Conv2d(3, 10, 3), inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.inner(self.conv(x) * 2).mean((2, 3))


class Call(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Its value."""
        return self.function(x)


def in_place_after(x: torch.Tensor) -> torch.Tensor:
    """A copy is changed here, and x must stay as it is."""
    return F.pad(x, (0, 0, 0, 0), mode="reflect").mul_(3) + x


NEEDLESS = {
    "ceil max": (nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(3, 2)),
    "ceil max padded": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.MaxPool2d(3, 2, 1)),
    "ceil max dilated": (nn.MaxPool2d(2, 2, dilation=2, ceil_mode=True), nn.MaxPool2d(2, 2, dilation=2)),
    "ceil max of single pixels": (nn.MaxPool2d(1, 4, 0, ceil_mode=True), nn.MaxPool2d(1, 4)),
    "ceil avg": (nn.AvgPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(3, 2)),
    "ceil avg padded": (nn.AvgPool2d(3, 2, 1, ceil_mode=True), nn.AvgPool2d(3, 2, 1)),
    "ceil avg inside": (
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    ),
    "ceil whole plane": (nn.AvgPool2d(7, ceil_mode=True), nn.AdaptiveAvgPool2d(1)),
    "inside without padding": (nn.AvgPool2d(2, count_include_pad=False), nn.AvgPool2d(2)),
    "divisor of the window": (nn.AvgPool2d(2, divisor_override=4), nn.AvgPool2d(2)),
    "indices that nobody reads": (Call(lambda x: F.max_pool2d(x, 2, return_indices=True)[0]), nn.MaxPool2d(2)),
    "adaptive avg overlapping": (nn.AdaptiveAvgPool2d(3), nn.AvgPool2d(3, 2)),
    "adaptive avg same size": (nn.AdaptiveAvgPool2d(7), nn.Identity()),
    "adaptive avg one axis": (nn.AdaptiveAvgPool2d((None, 3)), nn.AvgPool2d((1, 3), (1, 2))),
    "adaptive avg of a pixel": (
        nn.Sequential(nn.AvgPool2d(7), nn.AdaptiveAvgPool2d((2, 3))),
        Call(lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 2, 3)),
    ),
    "adaptive max whole plane": (nn.AdaptiveMaxPool2d(1), nn.MaxPool2d(7)),
    "adaptive max overlapping": (nn.AdaptiveMaxPool2d((3, 1)), nn.MaxPool2d((3, 7), (2, 7))),
    "pad reflect by nothing": (nn.Conv2d(10, 10, 3, padding_mode="reflect"), nn.Conv2d(10, 10, 3)),
    "pad circular by nothing": (nn.Conv2d(10, 10, 1, padding=0, padding_mode="circular"), nn.Conv2d(10, 10, 1)),
    "pad replicate valid": (nn.Conv2d(10, 10, 3, padding="valid", padding_mode="replicate"), nn.Conv2d(10, 10, 3)),
    "pad reflect same of 1x1": (nn.Conv2d(10, 10, 1, padding="same", padding_mode="reflect"), nn.Conv2d(10, 10, 1)),
    "pad zeros": (nn.Conv2d(10, 10, 3, padding=1, padding_mode="zeros"), nn.Conv2d(10, 10, 3, padding=1)),
    "pad same": (nn.Conv2d(10, 10, 3, padding="same"), nn.Conv2d(10, 10, 3, padding=1)),
    "pad same dilated": (
        nn.Conv2d(10, 10, (3, 5), padding="same", dilation=2),
        nn.Conv2d(10, 10, (3, 5), padding=(2, 4), dilation=2),
    ),
    "pad same even": (
        nn.Conv2d(10, 10, 2, padding="same"),
        nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(10, 10, 2)),
    ),
    "pad valid": (nn.Conv2d(10, 10, 3, padding="valid"), nn.Conv2d(10, 10, 3)),
    "reflection pad of nothing": (nn.ReflectionPad2d(0), nn.Identity()),
    "replication pad of nothing": (nn.ReplicationPad2d(0), nn.Identity()),
    "circular pad of nothing": (nn.CircularPad2d(0), nn.Identity()),
    "zero pad of nothing": (nn.ZeroPad2d(0), nn.Identity()),
    "pad then in place": (Call(in_place_after), Call(lambda x: x * 4)),
    "upsample by 1": (nn.Upsample(scale_factor=1), nn.Identity()),
    "interpolate to its size": (
        Call(lambda x: F.interpolate(x, size=x.shape[2:], mode="bilinear", align_corners=False)),
        nn.Identity(),
    ),
    "dropout of nothing": (nn.Dropout(0.0), nn.Identity()),
    "dropout2d of nothing": (nn.Dropout2d(0.0), nn.Identity()),
    "alpha dropout of nothing": (nn.AlphaDropout(0.0), nn.Identity()),
    "dropout switched off": (Call(lambda x: F.dropout2d(x, 0.5, training=False)), nn.Identity()),
    "threshold of ReLU": (nn.Threshold(0, 0), nn.ReLU()),
}


class All(nn.Module):
    """All layers side by side, each with a factor of its own: one compilation, and no error hides another."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.conv, self.inner = nn.Conv2d(3, 10, 3), nn.ModuleList(NEEDLESS[name][0] for name in names)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.conv(x)
        return sum(inner(x * (1 + i / 8)).mean((2, 3)) for i, inner in enumerate(self.inner))


COMPUTED_OTHERWISE = (
    "ceil avg inside", "adaptive avg overlapping", "adaptive avg of a pixel", "adaptive max overlapping",
    "pad then in place", "threshold of ReLU",
)  # fmt: skip
"""Those with a converter of their own."""


@pytest.mark.parametrize("names", [COMPUTED_OTHERWISE, pytest.param(tuple(NEEDLESS), marks=pytest.mark.slow)], ids=len)
def test_needless_options_compute_what_pytorch_does(names, batch, check_against_torch):
    check_against_torch(All(names).double(), *batch(size=9))


@pytest.mark.parametrize("name", NEEDLESS)
def test_a_needless_option_is_taken(name, batch):
    """And it is needless: PyTorch has the same with another layer."""
    inner, same = NEEDLESS[name]
    x, _ = batch(size=9)
    same.load_state_dict(dict(zip(same.state_dict(), inner.state_dict().values(), strict=True)))
    model, other = Net(inner).double(), Net(same).double()
    other.conv.load_state_dict(model.conv.state_dict())
    torch.testing.assert_close(model(x), other(x), rtol=1e-12, atol=1e-12)
    trace(model, x)


@pytest.mark.parametrize("size", range(4, 12, 2))
@pytest.mark.parametrize("pool", [nn.MaxPool2d, nn.AvgPool2d])
def test_ceil_mode_is_taken_exactly_where_it_changes_nothing(pool, size, batch):
    """Over planes of 2 to 8 pixels: what is refused is another size in PyTorch, and the other way round."""
    x, _ = batch(size=size)
    plane = torch.zeros(1, 10, size - 2, size - 2)
    for kernel, stride, padding in ((2, 2, 0), (3, 2, 0), (3, 2, 1), (2, 3, 1), (1, 3, 0)):
        if kernel > size - 2 + 2 * padding:
            continue
        ceiled, floored = (pool(kernel, stride, padding, ceil_mode=ceil) for ceil in (True, False))
        if ceiled(plane).shape == floored(plane).shape:
            trace(Net(ceiled).double(), x)
        else:
            with pytest.raises(ModelError, match="module 'inner' uses ceil_mode, which makes a plane of"):
                trace(Net(ceiled).double(), x)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda x: F.interpolate(x, scale_factor=1.1), id="a scale that rounds to the same size"),
        pytest.param(lambda x: F.interpolate(x, size=(7, 6)), id="another size"),
        pytest.param(lambda x: F.pad(x, (0, 0, 0, 1), mode="replicate"), id="a row more"),
    ],
)
def test_what_changes_something_is_not_taken_for_needless(call, batch):
    with pytest.raises(ModelError, match=r"module 'inner' has no converter"):
        trace(Net(Call(call)), batch(torch.float32, size=9)[0])
