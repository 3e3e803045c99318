"""PyTorch's dense training iteration of a whole network: the opponents of a compiled sparse step.

Which memory format is fastest differs by machine and network, so both run and the faster one counts. SGD is
the fused one, as someone who wants PyTorch to be fast would choose it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from mest_compiler.bench.child import Contestant
from mest_compiler.bench.inputs import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, network_inputs
from mest_compiler.bench.torch_memory import peak_of
from mest_compiler.models import build
from mest_compiler.sparsity.schemes import kernel_shape
from mest_compiler.training.masks_file import load_masks
from mest_compiler.training.weights_file import load_weights


@dataclass(frozen=True)
class NetworkCase:
    """A network and its batch, JSON-able through `asdict`.

    `model` is a name from models/ or "file.py:callable"; `masks` the path of a mask file, None for a network
    without zeros; the weights come from `seed` as well, so every process builds the same network, or from the file
    `weights`, where under the key `weights_key`.
    """

    model: str
    classes: int
    input_shape: tuple[int, int, int]
    batch: int
    seed: int
    width: float = 1
    masks: str | None = None
    weights: str | None = None
    weights_key: str | None = None

    def network(self) -> torch.nn.Module:
        """The model in training mode, its masked weights set to zero."""
        sizes = {"classes": self.classes, "in_channels": self.input_shape[0], "width": self.width}
        network = build(self.model, **sizes, seed=self.seed)
        if self.weights is not None:
            load_weights(network, self.weights, self.weights_key)
        _set_zeros(network, self.masks)
        return network.train()

    def inputs(self) -> tuple[np.ndarray, np.ndarray]:
        """x float32 [N, C, H, W] and labels int64 [N]."""
        return network_inputs(tuple(self.input_shape), classes=self.classes, batch=self.batch, seed=self.seed)


def contestants(case: NetworkCase, *, threads: int) -> list[Contestant]:
    """One contestant a factory of `FACTORIES`, named torch_<factory>."""
    return [
        Contestant(f"torch_{factory.__name__}", f"{__name__}:{factory.__name__}", asdict(case), threads)
        for factory in FACTORIES
    ]


class NetworkIteration:
    """zero_grad, forward, cross-entropy, backward and SGD update of one batch that stays the same."""

    def __init__(self, memory_format: torch.memory_format, case: Mapping[str, Any]) -> None:
        described = NetworkCase(**case)
        x, y = described.inputs()
        self.network = described.network().to(memory_format=memory_format)
        self.x = torch.from_numpy(x).contiguous(memory_format=memory_format)
        self.y = torch.from_numpy(y)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY, fused=True
        )

    def run(self) -> None:
        """One iteration."""
        self._iterate()

    def outputs(self, path: Path) -> None:
        """Run one iteration and save its loss [] and logits [N, classes], float32, as .npz."""
        loss, logits = self._iterate()
        np.savez(path, loss=loss.detach().numpy(), logits=logits.detach().numpy())

    def result(self) -> dict[str, Any]:
        """Bytes of the training state (weights, gradients and momentum), and of all memory at the peak of an iteration,
        see `torch_memory.peak_of`."""
        weights = sum(parameter.nbytes for parameter in self.network.parameters())
        return {"state_bytes": 3 * weights, "bytes": peak_of(self)}

    def _iterate(self) -> tuple[torch.Tensor, torch.Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.network(self.x)
        loss = cross_entropy(logits, self.y)
        loss.backward()
        self.optimizer.step()
        return loss, logits


def nchw(**case: Any) -> NetworkIteration:
    """NCHW tensors."""
    return NetworkIteration(torch.contiguous_format, case)


def channels_last(**case: Any) -> NetworkIteration:
    """Channels-last tensors."""
    return NetworkIteration(torch.channels_last, case)


FACTORIES = (nchw, channels_last)


def _set_zeros(network: torch.nn.Module, masks: str | None) -> None:
    if masks is None:
        return
    parameters = dict(network.named_parameters())
    shapes = {name: kernel_shape(p.shape) for name, p in parameters.items() if p.dim() in (2, 4)}
    with torch.no_grad():
        for name, mask in load_masks(Path(masks), None, shapes).items():
            parameters[name].mul_(torch.from_numpy(mask).reshape(parameters[name].shape))
