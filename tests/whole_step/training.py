"""PyTorch's masked training, which a compiled step has to agree with, and the comparison of the two."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from mest_compiler.losses import CrossEntropy, Loss
from mest_compiler.losses.base import alone, named
from mest_compiler.losses.outputs import outputs_of
from mest_compiler.optimizers import Optimizer
from mest_compiler.runtime.step_seed import step_seed
from mest_compiler.runtime.trainer import Trainer

from ..frontend.dropouts import seed_dropouts, with_reference_dropouts

LR, CLASSES = 0.1, 10
# Relative to the largest number of the tensor, and for tensors that are zero up to rounding (the bias in front of a
# batch norm) to this fraction of the largest number among all tensors of their kind.
TOLERANCE, FLOOR = 1e-9, 1e-3


Tensors = torch.Tensor | Mapping[str, torch.Tensor]


class MaskedTraining:
    """A copy of a model, trained by PyTorch itself; what masks remove stays zero, its gradient and slots too."""

    def __init__(
        self, model: nn.Module, masks: Mapping[str, np.ndarray], rule: Optimizer, loss: Loss | None = None
    ) -> None:
        self.model, self.loss = with_reference_dropouts(model), loss or CrossEntropy()
        self.seed, self.steps = 0, 0
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.rule, self.optimizer = rule, rule.torch(self.parameters.values())
        self.masks: dict[str, torch.Tensor] = {}
        self.mask(masks)

    def mask(self, masks: Mapping[str, np.ndarray]) -> None:
        """Keeps these weights from now on; removed ones lose value and slots, grown ones start at zero."""
        for name, mask in masks.items():
            old, new = self.masks.get(name), torch.from_numpy(mask)
            carried = new if old is None else new & old
            with torch.no_grad():
                self.parameters[name].mul_(carried)
                state = self.optimizer.state[self.parameters[name]]
                for key in set(self.rule.torch_keys.values()) & set(state):
                    state[key].mul_(carried)
            self.masks[name] = new

    def step(self, x: Tensors, y: torch.Tensor, lr: float = LR) -> tuple[float, np.ndarray]:
        """(loss, outputs) before the update; of a model of several inputs x holds all."""
        self.optimizer.param_groups[0]["lr"] = lr
        seed_dropouts(self.model, step_seed(self.seed, self.steps))
        self.steps += 1
        return self._updated([(x, y)])

    def step_in_parts(self, x: Tensors, y: torch.Tensor, lr: float, part: int) -> tuple[float, np.ndarray]:
        """The same with so many examples at a time, each with batch norms of its own; of models without dropouts."""
        self.optimizer.param_groups[0]["lr"] = lr
        places = range(0, len(y), part)
        cut = [{name: tensor[at : at + part] for name, tensor in named(x, "x").items()} for at in places]
        return self._updated(list(zip(cut, y.split(part), strict=True)))

    def _updated(self, parts: list[tuple[Tensors, torch.Tensor]]) -> tuple[float, np.ndarray]:
        self.optimizer.zero_grad()
        sums, weights, found = [], [], []
        for x, y in parts:
            outputs = outputs_of(self.model(*named(x, "x").values()))
            total, weight = self.loss.sums(outputs, {"y": y})
            sums.append(total)
            weights.append(weight)
            found.append({name: output.detach().numpy() for name, output in outputs.items()})
        loss = sum(sums) / sum(weights)
        loss.backward()
        for name, mask in self.masks.items():
            self.parameters[name].grad.mul_(mask)
        self.optimizer.step()
        return loss.item(), alone({name: np.concatenate([part[name] for part in found]) for name in found[0]})

    def predict(self, x: Tensors) -> np.ndarray:
        """Outputs in evaluation mode."""
        with torch.no_grad():
            return alone(
                {n: o.numpy() for n, o in outputs_of(copy.deepcopy(self.model).eval()(*named(x, "x").values())).items()}
            )

    def state(self) -> dict[str, np.ndarray]:
        """Parameters and buffers."""
        return {name: tensor.detach().numpy() for name, tensor in self.model.state_dict().items()}

    def slots(self) -> dict[str, dict[str, np.ndarray]]:
        """The optimiser's slots, and then by parameter name."""
        return {
            slot: {n: self.optimizer.state[p][key].numpy() for n, p in self.parameters.items()}
            for slot, key in self.rule.torch_keys.items()
        }


def batch(examples: int, shape: tuple[int, int, int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """float64 images [N, *shape] and labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, *shape, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, CLASSES, (examples,), generator=generator)


def check_equal(
    what: str, found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], tolerance: float = TOLERANCE
) -> None:
    """Fails unless both hold the same tensors up to rounding."""
    assert set(found) == set(wanted), what
    largest = max(np.abs(a).max() for a in wanted.values())
    for name, array in wanted.items():
        assert found[name].shape == array.shape, f"{what} of {name}"
        error = np.abs(found[name] - array).max() / max(np.abs(array).max(), FLOOR * largest, 1e-300)
        assert error <= tolerance, f"{what} of {name}: relative error {error}"


def check_single_steps(trainer: Trainer, reference: MaskedTraining, shape: tuple[int, int, int], rtol: float) -> None:
    """Trains a step in float32 and its reference in float64 three times, and compares loss and logits."""
    for seed in range(3):
        x, y = batch(trainer.manifest["batch"], shape, seed)
        loss, logits = trainer.step(x.numpy().astype(np.float32), y.numpy(), LR / 10)
        wanted, wanted_logits = reference.step(x, y, LR / 10)
        assert logits.shape == (trainer.manifest["batch"], CLASSES)
        assert abs(loss - wanted) <= rtol * abs(wanted)
        assert np.abs(logits - wanted_logits).max() <= rtol * np.abs(wanted_logits).max()


def check_steps(
    trainer: Trainer,
    reference: MaskedTraining,
    rule: Optimizer,
    shape: tuple[int, int, int],
    steps: int = 3,
    seed: int = 0,
) -> None:
    """Trains both and compares all there is after every step, then their predictions."""
    examples = trainer.manifest["batch"]
    for number in range(steps):
        x, y = batch(examples, shape, seed + number)
        lr = LR / (1 + number)  # the learning rate is a run-time input
        loss, logits = trainer.step(x.numpy(), y.numpy(), lr)
        wanted_loss, wanted_logits = reference.step(x, y, lr)
        assert abs(loss - wanted_loss) <= TOLERANCE * abs(wanted_loss)
        check_equal("logits", {"": logits}, {"": wanted_logits})
        check_equal("state", trainer.state(), reference.state())
        for slot in rule.slots:
            check_equal(slot, trainer.slots()[slot], reference.slots()[slot])
    state = trainer.state()
    x, _ = batch(examples + 2, shape, seed + 100)  # no multiple of the batch
    check_equal("prediction", {"": trainer.predict(x.numpy())}, {"": reference.predict(x)})
    for name, array in trainer.state().items():
        np.testing.assert_array_equal(array, state[name])  # a prediction changes nothing
