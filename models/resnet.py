"""ResNet-18, -34 and -50, the networks of the ImageNet experiments, with a stem for large images and one for small.

Four stages of basic or bottleneck blocks (He et al., 2016, table 1), 1x1 projection shortcuts where channels or
resolution change, the stride of a bottleneck in its 3x3 convolution. Parameters have the names that torchvision
gives them, and are as many.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from .widths import widened

_STAGE_CHANNELS = (64, 128, 256, 512)
_SMALL, _MIDDLE = (2, 2, 2, 2), (3, 4, 6, 3)  # blocks a stage


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut around them.

    Float [N, in_channels, H, W] -> [N, channels * expansion, ceil(H/stride), ceil(W/stride)].
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _projection(in_channels, channels * self.expansion, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output, float [N, out, H', W']."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """A 1x1 convolution to few channels, a 3x3 one on them, and a 1x1 one to four times as many, around a shortcut.

    Float [N, in_channels, H, W] -> [N, channels * expansion, ceil(H/stride), ceil(W/stride)].
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.downsample = _projection(in_channels, channels * self.expansion, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output, float [N, out, H', W']."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = functional.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return functional.relu(out + (x if self.downsample is None else self.downsample(x)))


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """The shortcut of a block that changes channels or resolution; None: the input itself."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class ResNet(nn.Module):
    """A ResNet of four stages: float [N, in_channels, H, W] of any size -> logits [N, classes].

    stem: "imagenet" divides the resolution by four (7x7 convolution of stride 2, 3x3 max-pool of stride 2), "cifar"
    keeps it (3x3 convolution of stride 1).
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: tuple[int, int, int, int],
        *,
        stem: str,
        classes: int,
        in_channels: int,
        width: float,
    ) -> None:
        super().__init__()
        channels = [widened(stage, width) for stage in _STAGE_CHANNELS]
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(in_channels, channels[0], 7, stride=2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        elif stem == "cifar":
            self.conv1 = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        else:
            raise ValueError(f"a stem is 'imagenet' or 'cifar', not {stem!r}")
        self.bn1 = nn.BatchNorm2d(channels[0])
        before = channels[0]
        for number, (stage, count) in enumerate(zip(channels, blocks, strict=True), start=1):
            layers = [block(before, stage, 1 if number == 1 else 2)]
            before = stage * block.expansion
            layers += [block(before, stage, 1) for _ in range(count - 1)]
            setattr(self, f"layer{number}", nn.Sequential(*layers))
        self.fc = nn.Linear(before, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, float [N, classes]."""
        out = self.maxpool(functional.relu(self.bn1(self.conv1(x))))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        return self.fc(out.mean(dim=(2, 3)))


def resnet18(*, classes: int = 10, in_channels: int = 3, width: float = 1) -> ResNet:
    """ResNet-18 for large images: 11,689,512 parameters for 1,000 classes."""
    return ResNet(BasicBlock, _SMALL, stem="imagenet", classes=classes, in_channels=in_channels, width=width)


def resnet34(*, classes: int = 10, in_channels: int = 3, width: float = 1) -> ResNet:
    """ResNet-34 for large images: 21,797,672 parameters for 1,000 classes."""
    return ResNet(BasicBlock, _MIDDLE, stem="imagenet", classes=classes, in_channels=in_channels, width=width)


def resnet50(*, classes: int = 10, in_channels: int = 3, width: float = 1) -> ResNet:
    """ResNet-50 for large images: 25,557,032 parameters for 1,000 classes."""
    return ResNet(Bottleneck, _MIDDLE, stem="imagenet", classes=classes, in_channels=in_channels, width=width)


def resnet18_cifar(*, classes: int = 10, in_channels: int = 3, width: float = 1) -> ResNet:
    """ResNet-18 for small images."""
    return ResNet(BasicBlock, _SMALL, stem="cifar", classes=classes, in_channels=in_channels, width=width)


def resnet34_cifar(*, classes: int = 10, in_channels: int = 3, width: float = 1) -> ResNet:
    """ResNet-34 for small images."""
    return ResNet(BasicBlock, _MIDDLE, stem="cifar", classes=classes, in_channels=in_channels, width=width)


def resnet50_cifar(*, classes: int = 10, in_channels: int = 3, width: float = 1) -> ResNet:
    """ResNet-50 for small images."""
    return ResNet(Bottleneck, _MIDDLE, stem="cifar", classes=classes, in_channels=in_channels, width=width)
