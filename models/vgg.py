"""VGG-19 with batch norm for 32x32 images: the second network of the paper's CIFAR experiments (appendix H).

Sixteen 3x3 convolutions (Simonyan and Zisserman, 2015, table 1, column E) with batch norm in place of biases,
a max-pool between the stages, the mean over what is left of the plane, and one linear classifier.
"""

from __future__ import annotations

import torch
from torch import nn

from .widths import widened

_STAGES = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)


class Vgg(nn.Module):
    """VGG-19: float [N, in_channels, H, W] -> logits [N, classes]; H and W at least 16 for four max-pools."""

    def __init__(self, classes: int, in_channels: int, width: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for number, stage in enumerate(_STAGES):
            if number:
                layers.append(nn.MaxPool2d(2))
            for filters in (widened(base, width) for base in stage):
                layers += [
                    nn.Conv2d(channels, filters, 3, padding=1, bias=False),
                    nn.BatchNorm2d(filters),
                    nn.ReLU(),
                ]
                channels = filters
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, float [N, classes]."""
        return self.classifier(self.features(x).mean(dim=(2, 3)))


def vgg19_bn(*, classes: int = 10, in_channels: int = 3, width: float = 1) -> Vgg:
    """VGG-19 with batch norm: 20,035,018 parameters for 10 classes."""
    return Vgg(classes, in_channels, width)
