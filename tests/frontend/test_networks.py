"""Whole training steps in float64 against PyTorch: residual networks with both kinds of shortcut, a VGG, and
awkward convolutions.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn


def projection(channels: int, filters: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters))


class PadShortcut(nn.Module):
    """Option A of the ResNet paper: every second pixel, zeros for the new channels; no parameters."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.stride, self.more = stride, filters - channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))


class Block(nn.Module):
    def __init__(self, channels: int, filters: int, stride: int, shortcut: type | object) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        same = stride == 1 and channels == filters
        self.shortcut = nn.Identity() if same else shortcut(channels, filters, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = F.relu(self.bn1(self.conv1(x)))
        z = self.bn2(self.conv2(z))
        z += self.shortcut(x)
        return F.relu(z)


class ResNet(nn.Module):
    def __init__(self, blocks: int, width: int, shortcut: type | object) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        layers, channels = [], width
        for stage in range(3):
            for block in range(blocks):
                filters, stride = width << stage, 2 if stage and block == 0 else 1
                layers.append(Block(channels, filters, stride, shortcut))
                channels = filters
        self.layers, self.fc = nn.Sequential(*layers), nn.Linear(channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layers(F.relu(self.bn1(self.conv1(x)), inplace=True))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def both_shortcuts() -> nn.Module:
    """A block of each kind, the second on planes of odd size."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), Block(4, 6, 2, projection), Block(6, 10, 2, PadShortcut),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 10),
    )  # fmt: skip


def small_vgg() -> nn.Module:
    """Biased convolutions, with and without batch norm; overlapping, padded and plain max-pooling; a hidden
    linear layer.
    """
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding="same"),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2, 2),
        nn.Flatten(),
        nn.Linear(16, 12),
        nn.ReLU(),
        nn.Linear(12, 10),
    )


class Awkward(nn.Module):
    """Odd planes, unequal kernels, dilation, strides that drop a row, depthwise and grouped convolutions,
    ReLU6, reductions of other kinds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 8, (3, 5), stride=(2, 1), padding=(0, 2))
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8, eps=1e-3, momentum=0.2)
        self.point = nn.Conv2d(8, 12, 1, stride=2)
        self.grouped = nn.Conv2d(12, 6, 3, padding=2, dilation=2, groups=3)
        self.head = nn.Linear(6, 10)
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.wide(x) * 3)
        x = F.hardtanh(self.norm(self.depthwise(x)), -0.7, 0.9)
        x = -self.point(x[:, :, 1:, :-1]) / 2 - 0.1
        x = self.grouped(x) * self.scale
        return self.head(F.pad(x.mean((2, 3)), (1, -1), value=0.25))


class PoolTail(nn.Module):
    """F.avg_pool2d over the whole plane, as many CIFAR networks write it, and a view behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10), nn.Linear(10, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn(self.conv(x)))
        return self.fc(F.avg_pool2d(x, x.shape[3]).view(x.shape[0], -1))


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda: ResNet(1, 4, projection), id="resnet8-projection", marks=pytest.mark.slow),
        pytest.param(lambda: ResNet(3, 4, projection), id="resnet20-projection", marks=pytest.mark.slow),
        pytest.param(lambda: ResNet(1, 4, PadShortcut), id="resnet8-pad", marks=pytest.mark.slow),
        pytest.param(both_shortcuts, id="both shortcuts"),
        pytest.param(small_vgg, id="vgg"),
        pytest.param(PoolTail, id="avg-pool"),
    ],
)
def test_step_and_predict_agree_with_torch(build, batch, check_against_torch):
    check_against_torch(build().double(), *batch())


@pytest.mark.parametrize("smoothing", [0.1, pytest.param(0.9, marks=pytest.mark.slow)])
def test_smoothed_labels_agree_with_torch(smoothing, batch, check_against_torch):
    check_against_torch(PoolTail().double(), *batch(), label_smoothing=smoothing, tolerance=1e-12)


def test_awkward_convolutions_agree_with_torch(batch, check_against_torch):
    graph = check_against_torch(Awkward().double(), *batch(size=9))
    assert graph.convolutions["wide.weight"].out_plane == (4, 9)
    assert graph.convolutions["depthwise.weight"].groups == 8


def test_float32_is_close(batch, check_against_torch):
    graph = check_against_torch(PoolTail(), *batch(torch.float32), tolerance=1e-3)
    assert graph.dtype == "float32"


def test_labels_to_ignore_do_not_count(batch, check_against_torch):
    x, y = batch()
    y[1] = -100
    check_against_torch(PoolTail().double(), x, y)
