"""A network whose step is compiled in seconds."""

from torch import nn


def make(classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Three convolutions, of which the first stays dense."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, classes),
    )


def same(classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Two convolutions of one shape among three."""
    net = make(classes, in_channels)
    net[3], net[4] = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
    net[6] = nn.Conv2d(8, 8, 3, padding=1, bias=False)
    net[7], net[11] = nn.BatchNorm2d(8), nn.Linear(8, classes)
    return net
