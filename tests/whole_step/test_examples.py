"""The worked examples of docs/architecture.md compute what they say: compiled steps against PyTorch in float64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from mest_compiler.compile import compile_step
from mest_compiler.devices import CpuProfile
from mest_compiler.errors import MestError, ModelError
from mest_compiler.frontend.converters import CONVERTERS
from mest_compiler.losses import LOSSES, Loss
from mest_compiler.optimizers import OPTIMIZERS, Optimizer, Sgd
from mest_compiler.runtime.trainer import Trainer
from mest_compiler.sparsity.profile import Profile
from mest_compiler.sparsity.schemes import SCHEMES
from mest_compiler.training.torch_engine import TorchEngine

from ..examples import example
from .cases import unoptimised
from .test_optimizers import SHAPE, masks_of, mutated
from .test_optimizers import network as small
from .traces import share_traces
from .training import CLASSES, MaskedTraining, batch, check_equal

BATCH, LR, TOLERANCE = 6, 0.01, 1e-10


class Lion(torch.optim.Optimizer):
    """Algorithm 2 of the paper, in the paper's order."""

    def __init__(self, parameters, betas: tuple[float, float], decay: float) -> None:
        super().__init__(parameters, {"lr": 0.0})
        self.betas, self.decay = betas, decay

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """Of every parameter."""
        lr, (b1, b2) = self.param_groups[0]["lr"], self.betas
        for p in self.param_groups[0]["params"]:
            m = self.state[p].setdefault("m", torch.zeros_like(p))
            moved = torch.sign(torch.lerp(p.grad, m, b1))
            p.sub_(lr * (moved + self.decay * p))
            m.copy_(torch.lerp(p.grad, m, b2))


def focal(logits: torch.Tensor, labels: torch.Tensor, gamma: float) -> torch.Tensor:
    """Mean, from the labels' own probabilities."""
    p = logits.softmax(1).gather(1, labels[:, None])
    return -((1 - p) ** gamma * p.log()).mean()


def trainer_of(
    model: nn.Module, rule: Optimizer, loss: Loss | None = None, profile: Profile | None = None, device: str = "cpu",
    name: str = "optimisers",
) -> Trainer:  # fmt: skip
    """The step of a model that goes by this name, compiled now."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CpuProfile, "target", property(unoptimised))
        share_traces(patch, (name, "float64"))
        artifact = compile_step(
            model, input_shape=SHAPE, batch=BATCH, profile=profile, optimizer=rule, loss=loss, dtype="float64",
            measure=False, device=device, threads=1 if device == "cpu" else None,
        )  # fmt: skip
    return Trainer(artifact)


def test_a_new_optimiser_trains_as_its_paper_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMIZERS, "lion", example("lion").Lion)
    layers = {"3.weight": {"scheme": "block", "sparsity": 0.5}, "7.weight": {"scheme": "unstructured", "sparsity": 0.6}}
    profile = Profile.from_mapping({"scheme": "block", "sparsity": 0.0, "layers": layers})
    rule = OPTIMIZERS["lion"](betas=(0.8, 0.9), weight_decay=0.1)
    trainer = trainer_of(small(), rule, profile=profile)
    torch_steps = MaskedTraining(small(), masks_of(trainer), rule)
    torch_steps.optimizer = Lion(torch_steps.parameters.values(), rule.betas, rule.weight_decay)
    # PyTorch's engine makes its own from the kernels' formula
    engine = TorchEngine(small(), masks_of(trainer), optimizer=rule, dtype=torch.float64)
    for number in range(6):
        if number == 3:
            mutated(trainer, 0)
            torch_steps.mask(masks_of(trainer))
        x, y = batch(BATCH, SHAPE, number)
        loss, _ = trainer.step(x.numpy(), y.numpy(), LR / (1 + number))
        wanted, _ = torch_steps.step(x, y, LR / (1 + number))
        check_equal("loss", {"": np.array(loss)}, {"": np.array(wanted)}, TOLERANCE)
        check_equal("state", trainer.state(), torch_steps.state(), TOLERANCE)
        check_equal("m", trainer.slots()["m"], torch_steps.slots()["m"], TOLERANCE)
        if number < 3:
            engine.step(x.numpy(), y.numpy(), LR / (1 + number))
            check_equal("backend", engine.state(), torch_steps.state(), TOLERANCE)
            check_equal("backend", engine.slots()["m"], torch_steps.slots()["m"], TOLERANCE)


def test_a_new_loss_is_differentiated_with_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, "focal", example("focal").Focal)
    loss = LOSSES["focal"](gamma=1.5)
    trainer, model = trainer_of(small(), Sgd(), loss), small()
    optimizer = Sgd().torch(model.parameters())
    optimizer.param_groups[0]["lr"] = LR
    for number in range(3):
        x, y = batch(BATCH, SHAPE, number)
        found, _ = trainer.step(x.numpy(), y.numpy(), LR)
        optimizer.zero_grad()
        wanted = focal(model(x), y, loss.gamma)
        wanted.backward()
        optimizer.step()
        check_equal("loss", {"": np.array(found)}, {"": wanted.detach().numpy()}, TOLERANCE)
        check_equal("state", trainer.state(), {n: t.detach().numpy() for n, t in model.state_dict().items()}, TOLERANCE)
    with pytest.raises(MestError, match=r"gamma of a focal loss is at least 1, not 0\.5"):
        LOSSES["focal"](0.5)


@pytest.mark.parametrize("device", ["cpu", "opencl"])
def test_a_new_scheme_runs_without_kernels_of_its_own(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    scheme = example("kernels").Kernels()
    monkeypatch.setitem(SCHEMES, scheme.name, scheme)
    trainer = trainer_of(small(), Sgd(0.9), profile=Profile.uniform(scheme.name, 0.5), device=device)
    assert {one["indexing"] for one in trainer.manifest["layers"]["3.weight"]["kernels"].values()} == {"zeros"}
    torch_steps = MaskedTraining(small(), masks_of(trainer), Sgd(0.9))
    for number in range(4):
        if number == 2:
            mutated(trainer, 0)
            torch_steps.mask(masks_of(trainer))
        x, y = batch(BATCH, SHAPE, number)
        loss, _ = trainer.step(x.numpy(), y.numpy(), LR)
        wanted, _ = torch_steps.step(x, y, LR)
        check_equal("loss", {"": np.array(loss)}, {"": np.array(wanted)}, TOLERANCE)
        check_equal("state", trainer.state(), torch_steps.state(), TOLERANCE)


def silu_network() -> nn.Module:
    """SiLU on images and on features."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 3, padding=1), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 12), nn.SiLU(), nn.Linear(12, CLASSES),
    ).double()  # fmt: skip


@pytest.fixture
def converters() -> Iterator[None]:
    """CONVERTERS, put right afterwards."""
    before = dict(CONVERTERS)
    yield
    CONVERTERS.clear()
    CONVERTERS.update(before)


def test_a_new_operator_has_its_gradient(converters: None) -> None:
    with pytest.raises(ModelError, match=r"aten\.silu\.default .* has no converter"):
        trainer_of(silu_network(), Sgd(), name="silu")
    example("silu")
    trainer = trainer_of(silu_network(), Sgd(), name="silu")
    torch_steps = MaskedTraining(silu_network(), {}, Sgd())
    for number in range(3):
        x, y = batch(BATCH, SHAPE, number)
        loss, logits = trainer.step(x.numpy(), y.numpy(), LR)
        wanted, wanted_logits = torch_steps.step(x, y, LR)
        check_equal("loss", {"": np.array(loss)}, {"": np.array(wanted)}, TOLERANCE)
        check_equal("logits", {"": logits}, {"": wanted_logits}, TOLERANCE)
        check_equal("state", trainer.state(), torch_steps.state(), TOLERANCE)
