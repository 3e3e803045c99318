from torch import nn


def make(classes=10, in_channels=3):
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    )
