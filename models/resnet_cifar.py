"""ResNets for small images: the networks of the paper's CIFAR experiments (sections 5, H and I).

Three stages of basic blocks with 16, 32 and 64 channels times a width factor (He et al., 2016, section 4.2);
1x1 projection shortcuts with batch norm where channels or resolution change. ResNet-32 in the paper is the 2x
widened one: 1,860,522 parameters for 10 classes.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from .widths import widened

_STAGE_CHANNELS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut around them.

    Float [N, in_channels, H, W] -> [N, out_channels, ceil(H/stride), ceil(W/stride)].
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output, float [N, out, H', W']."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """A ResNet of 6 * blocks + 2 layers: float [N, in_channels, H, W] of any size -> logits [N, classes]."""

    def __init__(self, blocks: int, classes: int, in_channels: int, width: float) -> None:
        super().__init__()
        channels = [widened(stage, width) for stage in _STAGE_CHANNELS]
        self.conv1 = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.layer1 = _stage(blocks, channels[0], channels[0], stride=1)
        self.layer2 = _stage(blocks, channels[0], channels[1], stride=2)
        self.layer3 = _stage(blocks, channels[1], channels[2], stride=2)
        self.fc = nn.Linear(channels[2], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, float [N, classes]."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.fc(out.mean(dim=(2, 3)))


def _stage(blocks: int, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Blocks of one resolution; the first changes channels and resolution."""
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))


def resnet20(*, classes: int = 10, in_channels: int = 3, width: float = 1) -> CifarResNet:
    """ResNet-20: three blocks a stage."""
    return CifarResNet(3, classes, in_channels, width)


def resnet32(*, classes: int = 10, in_channels: int = 3, width: float = 1) -> CifarResNet:
    """ResNet-32: five blocks a stage; the paper's has width 2."""
    return CifarResNet(5, classes, in_channels, width)


def resnet110(*, classes: int = 10, in_channels: int = 3, width: float = 1) -> CifarResNet:
    """ResNet-110: eighteen blocks a stage."""
    return CifarResNet(18, classes, in_channels, width)
