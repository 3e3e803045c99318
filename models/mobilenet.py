"""MobileNet-V2, for large and for small images: inverted residuals, depthwise convolutions and ReLU6.

Seven groups of blocks (Sandler et al., 2018, table 2). Parameters have the names that torchvision gives them, and are
as many. A width scales the channels as there: to multiples of eight, and the last layer never below 1,280.
"""

from __future__ import annotations

import torch
from torch import nn

from .widths import widened_to_multiple

# expansion, channels, blocks, stride of the first block
_GROUPS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_SMALL_IMAGE_GROUP = 1  # keeps the resolution where images are small, and so does the first convolution
_STEM_CHANNELS, _LAST_CHANNELS = 32, 1280
_DROPOUT = 0.2


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU6: [N, in_channels, H, W] -> [N, out_channels, ceil(H/stride), ceil(W/stride)]."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """1x1 to more channels, 3x3 depthwise, 1x1 to few channels without ReLU6, and a shortcut where shapes agree.

    Float [N, in_channels, H, W] -> [N, out_channels, ceil(H/stride), ceil(W/stride)].
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.adds = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential(
            *([_convolution(in_channels, hidden, 1)] if expansion != 1 else []),
            _convolution(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output, float [N, out, H', W']."""
        return self.conv(x) + x if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNet-V2: float [N, in_channels, H, W] of any size -> logits [N, classes].

    The resolution is divided by 32, for `small_images` by 8.
    """

    def __init__(self, *, small_images: bool, classes: int, in_channels: int, width: float) -> None:
        super().__init__()
        channels = widened_to_multiple(_STEM_CHANNELS, width)
        last = widened_to_multiple(_LAST_CHANNELS, max(1.0, width))
        features: list[nn.Module] = [_convolution(in_channels, channels, 3, 1 if small_images else 2)]
        for number, (expansion, filters, blocks, stride) in enumerate(_GROUPS):
            filters = widened_to_multiple(filters, width)
            if small_images and number == _SMALL_IMAGE_GROUP:
                stride = 1
            for block in range(blocks):
                features.append(InvertedResidual(channels, filters, stride if block == 0 else 1, expansion))
                channels = filters
        self.features = nn.Sequential(*features, _convolution(channels, last, 1))
        self.classifier = nn.Sequential(nn.Dropout(_DROPOUT), nn.Linear(last, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, float [N, classes]."""
        return self.classifier(self.features(x).mean(dim=(2, 3)))


def mobilenet_v2(*, classes: int = 10, in_channels: int = 3, width: float = 1) -> MobileNetV2:
    """MobileNet-V2 for large images: 3,504,872 parameters for 1,000 classes."""
    return MobileNetV2(small_images=False, classes=classes, in_channels=in_channels, width=width)


def mobilenet_v2_cifar(*, classes: int = 10, in_channels: int = 3, width: float = 1) -> MobileNetV2:
    """MobileNet-V2 for small images: stride 1 in the first convolution and in the second group of blocks."""
    return MobileNetV2(small_images=True, classes=classes, in_channels=in_channels, width=width)
