"""PyTorch's dropouts with the masks of ours: what a compiled step with a dropout is compared with."""

from __future__ import annotations

import copy

import torch
from torch import nn

from mest_compiler.dropout_mask import keep


class ReferenceDropout(nn.Module):
    """Multiplies by the reference mask of (`seed`, layer), by 1 / (1 - p), in training only."""

    def __init__(self, p: float, layer: int) -> None:
        super().__init__()
        self.p, self.layer, self.seed = p, layer, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x of any shape, its elements numbered row by row."""
        if not self.training:
            return x
        return x * torch.from_numpy(keep(tuple(x.shape), self.seed, self.layer, self.p)) / (1 - self.p)


def with_reference_dropouts(model: nn.Module) -> nn.Module:
    """A copy whose nn.Dropout modules, numbered in the order in which they are registered, use the reference masks."""
    model = copy.deepcopy(model)
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Dropout)]
    for number, (name, module) in enumerate(layers):
        model.set_submodule(name, ReferenceDropout(module.p, number))
    return model.train()


def seed_dropouts(model: nn.Module, seed: int) -> None:
    """The next step of the copy is the one with this seed."""
    for module in model.modules():
        if isinstance(module, ReferenceDropout):
            module.seed = int(seed)
