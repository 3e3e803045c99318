"""Networks that are awkward to compile: everything a convolution may be, and everything a batch norm may stand in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from mest_compiler.models.resnet import BasicBlock


class OddConvolutions(nn.Module):
    """Biased, strided, dilated, rectangular, 1x1, grouped and depthwise convolutions on odd planes, some right after
    another: [N, 3, 9, 7] -> logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 12, 1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.strided = nn.Conv2d(12, 8, 3, stride=2, padding=1)
        self.rectangular = nn.Conv2d(8, 8, (3, 2), stride=(1, 2), padding=(2, 0), bias=False)
        self.dilated = nn.Conv2d(8, 12, 3, padding=2, dilation=2)
        self.grouped = nn.Conv2d(12, 8, 3, padding=1, groups=4, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.large = nn.Conv2d(8, 4, 5, padding=2)
        self.strided_pointwise = nn.Conv2d(4, 8, 1, stride=2)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = F.relu6(3 * self.depthwise(F.relu(self.first(x))))
        x = self.strided(F.relu(self.norm(self.pointwise(x))))  # two convolutions in a row, a bias between them
        x = self.rectangular(x)
        x = self.dilated(x)
        x = F.relu(self.norm2(self.grouped(x)))
        x = torch.add(x, F.relu(x), alpha=0.5)
        x = self.strided_pointwise(F.relu(self.large(x)))
        return self.fc(x.mean((2, 3)))


class OddNormalisations(nn.Module):
    """Batch norms whose neighbours are not the usual: no ReLU, a ReLU read twice, an output read before its ReLU, one
    module twice, a residual that is a pooling, two residuals: [N, 3, 6, 6] -> logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 8, 3, padding=1), *(nn.Conv2d(8, 8, 3, padding=1) for _ in range(5))])
        self.norms = nn.ModuleList([nn.BatchNorm2d(8, momentum=0.3) for _ in range(4)])
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.shortcut = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        a = self.norms[0](self.convs[0](x))  # read before and after its ReLU
        b = F.relu(self.norms[1](self.convs[1](F.relu(a)))) * 0.5 + a  # a scaled ReLU, then an add that no norm owns
        c = F.relu(self.norms[2](self.convs[2](b)) + self.pool(b))
        d = F.relu(self.norms[2](self.convs[3](c)) + c)  # the same norm again, and a residual of its own
        e = self.norms[3](self.convs[4](d)) + self.shortcut(c) + d
        f = self.convs[5](F.max_pool2d(e, 2))
        return self.fc((F.relu(f) - f * 0.1).mean((2, 3)))


class PreActivation(nn.Module):
    """Norm and ReLU before the convolutions, the residual added last: [N, 3, 5, 5] -> logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.stem(x)
        x = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x)))))) + x
        return self.fc(F.relu(self.bn3(x)).mean((2, 3)))


class Quotient(nn.Module):
    """Two activations divided: lanes past the batch hold 0 / 0. [N, 3, 5, 5] -> logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.above, self.below = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(3, 8, 1, bias=False)
        self.last, self.fc = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.fc(self.last(self.above(x) / self.below(x)).mean((2, 3)))


class OddActivations(nn.Module):
    """Clipped activations with and without a batch norm before them, residuals, dropouts of images and of features,
    pooling windows that overlap, and hidden linear layers: [N, 3, 9, 7] -> logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 8, 3, padding=1), *(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))])
        self.norms = nn.ModuleList([nn.BatchNorm2d(8) for _ in range(4)])
        self.drops = nn.ModuleList([nn.Dropout(0.2), nn.Dropout(0.5), nn.Dropout(0.3)])
        self.max_pool = nn.MaxPool2d(3, 2, 1)
        self.avg_pool = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.hidden, self.fc = nn.Linear(8 * 3 * 2, 12, bias=False), nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = F.relu6(4 * self.convs[0](x))  # no norm
        a = F.relu6(3 * self.norms[0](self.convs[1](x)) + x)
        b = self.drops[0](F.hardtanh(self.norms[1](self.convs[2](a)), 0, 0.5))
        c = torch.clamp(self.norms[2](self.convs[3](b)) + a, 0, 1)
        d = F.hardtanh(self.norms[3](self.convs[4](c)), -0.5, 0.75)
        e = self.avg_pool(self.drops[1](self.max_pool(d)))
        return self.fc(F.relu(self.hidden(self.drops[2](e.flatten(1)))))


class Dropout(nn.Module):
    """A dropout of images behind a clip, and a max-pool behind a batch norm: [N, 3, 5, 5] -> logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.drop, self.norm = nn.Dropout(0.2), nn.BatchNorm2d(8)
        self.pool, self.fc = nn.MaxPool2d(3, 2, 1), nn.Linear(8 * 9, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.drop(F.relu6(4 * self.stem(x)))
        return self.fc(self.pool(F.relu(self.norm(self.conv(x))) + x).flatten(1))


class LargeStem(nn.Module):
    """How ResNets for large images begin: a 7x7 convolution of stride 2, a max-pool of stride 2, and a block that
    halves once more beside a projection: [N, 3, 17, 17] -> logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(8)
        self.maxpool, self.block, self.fc = nn.MaxPool2d(3, 2, 1), BasicBlock(8, 16, 2), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.block(self.maxpool(F.relu(self.bn1(self.conv1(x)))))
        return self.fc(x.mean((2, 3)))


class OddPoolings(nn.Module):
    """Adaptive pooling that is plain pooling, the average of a pixel in many places, ceil_mode over whole windows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding="same", bias=False)
        self.conv3 = nn.Conv2d(8, 8, 1, padding_mode="reflect")
        self.halve, self.adapt = nn.MaxPool2d(3, 2, ceil_mode=True), nn.AdaptiveMaxPool2d((4, 1))
        self.whole, self.spread = nn.AvgPool2d((4, 3), ceil_mode=True), nn.AdaptiveAvgPool2d((2, 3))
        self.last = nn.Linear(8 * 6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.halve(F.threshold(self.conv1(x), 0, 0))
        x = self.conv2(x) + self.adapt(x)
        return self.last(self.spread(self.whole(self.conv3(x).relu())).flatten(1))


class ManyNormalisations(nn.Module):
    """Batch norms around every kind of convolution: strided, dilated, grouped, biased, read twice; with
    and without a ReLU, and with a residual that needs no gradient: [N, 3, 9, 7] -> logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(3, 3, 3, padding=1, bias=False),
                nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
                nn.Conv2d(8, 12, 1, bias=False),
                nn.Conv2d(12, 8, 3, padding=2, dilation=2, bias=False),
                nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
                nn.Conv2d(8, 12, (3, 2), stride=(2, 1), padding=(1, 1), groups=4, bias=False),
                nn.Conv2d(12, 8, 3, padding=1),
                nn.Conv2d(8, 8, 1, stride=2, bias=False),
                nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False),
            ]
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(conv.out_channels, momentum=0.2) for conv in self.convs])
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = F.relu6(self.norms[0](self.convs[0](x)) + x)
        x = F.relu(self.norms[1](self.convs[1](x)))
        x = self.norms[2](self.convs[2](x))
        x = F.hardtanh(self.norms[3](self.convs[3](x)), 0, 0.75)
        x = F.relu(self.norms[4](self.convs[4](x)))
        x = self.norms[5](self.convs[5](x))
        x = F.relu(self.norms[6](self.convs[6](x)))
        x = F.relu(self.norms[7](self.convs[7](x)) + self.norms[8](self.convs[8](x)))
        return self.fc(x.mean((2, 3)))


class SharedNormalisation(nn.Module):
    """One batch norm twice, each time in front of a convolution that pads rows and columns differently: [N, 3, 5, 6] ->
    logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8, momentum=0.3)
        self.tall = nn.Conv2d(8, 8, (3, 1), padding=(1, 0), bias=False)
        self.wide, self.fc = nn.Conv2d(8, 8, (1, 5), padding=(0, 2), bias=False), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.tall(F.relu(self.norm(self.stem(x))))
        x = self.wide(F.hardtanh(self.norm(x), 0, 0.5))
        return self.fc(x.mean((2, 3)))


class OtherInEvaluation(nn.Module):
    """One tensor feeds two convolutions in evaluation, and two tensors in training. [N, 3, 5, 5] -> logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 5, padding=2)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        y = x * 0.5 if self.training else x
        return self.fc((self.small(x) + self.large(y)).mean((2, 3)))
