"""Networks whose layers have equal shapes and different schemes and ratios, every kernel of theirs forced in turn.

Whatever is shared between layers of one shape (generated code, keys, workspaces, index arrays) shows here if it depends
on more than the shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from mest_compiler.compile import compile_step
from mest_compiler.devices import CpuProfile
from mest_compiler.kernels.problem import LayerProblem
from mest_compiler.optimizers import Sgd
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.runtime.trainer import Trainer
from mest_compiler.schedules.choice import Choice
from mest_compiler.sparsity.profile import LayerPlan, Profile

from .cases import unoptimised
from .training import CLASSES, MaskedTraining, batch, check_steps

OF_LINEARS = ("unstructured", "block", "block:1x4")
OF_CONVOLUTIONS = (*OF_LINEARS, "channel", "filter")
RATIOS = (0.3, 0.5, 0.6, 0.75)
HEADROOM = 0.1
PATTERN = 0.7
CHANNELS = 8
"""Few shapes and ratios make many layers alike, which is the point; and what drivers cache of kernels is of use."""
FP32 = 2e-3
"""Of a tensor's norm: what three steps of rounding in float32, and a ReLU that they flip, may come to."""


@dataclass(frozen=True)
class Network:
    """Convolutions of one shape in a row and linear layers of one shape behind them, all from 8 channels to 8.

    convs, linears: (scheme, ratio) of each; first: of the convolution in front, of another shape. norm, relu: whether
    each convolution is followed by one. turn: of the kernels that can compute a layer, the one of this number, counted
    round; mixed: layers begin the count one after the other. headroom: as `compile_step` has it.
    """

    kernel: int
    plane: tuple[int, int]
    convs: tuple[tuple[str, float], ...]
    linears: tuple[tuple[str, float], ...]
    first: tuple[str, float] | None
    norm: bool
    relu: bool
    rule: Sgd
    headroom: float
    turn: int
    mixed: bool
    examples: int = 5

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one example."""
        return 3, *self.plane

    def model(self) -> nn.Module:
        """float64, with the same weights every time."""
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Conv2d(3, CHANNELS, 3, padding=1)]
        for _ in self.convs:
            layers.append(nn.Conv2d(CHANNELS, CHANNELS, self.kernel, padding=self.kernel // 2))
            if self.norm:
                # A removed filter's plane is constant: normalised it is the bias alone, at 0 of which rounding would
                # decide about a ReLU, and its rounding is divided by the root of epsilon.
                layers.append(nn.BatchNorm2d(CHANNELS, eps=0.1))
                nn.init.normal_(layers[-1].bias)
            layers += [nn.ReLU()] * self.relu
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        layers += [nn.Linear(CHANNELS, CHANNELS) for _ in self.linears]
        return nn.Sequential(*layers, nn.Linear(CHANNELS, CLASSES)).double()

    def profile(self) -> Profile:
        """The schemes and ratios by parameter name."""
        names = [n for n, p in self.model().named_parameters() if p.dim() in (2, 4)]
        plans = [self.first, *self.convs, *self.linears]
        layers = {name: LayerPlan(*plan) for name, plan in zip(names, plans, strict=False) if plan is not None}
        return Profile(LayerPlan("unstructured", 0.0), layers=layers)

    def pick(self) -> _Turn:
        """Forces the kernels."""
        return _Turn(self.turn, self.mixed)


class _Turn:
    """A `Pick` that takes the kernel of a number."""

    def __init__(self, turn: int, mixed: bool) -> None:
        self._turn, self._mixed, self._calls = turn, mixed, 0

    def __call__(self, direction: str, layer: LayerProblem, found: Sequence[Choice]) -> Choice:
        self._calls += self._mixed
        return found[(self._turn + self._calls) % len(found)]


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Small ones, whose schemes fit their layers."""
    kernel = draw(st.sampled_from((3, 3, 1)))

    def plans(schemes: Sequence[str], least: int, most: int) -> tuple[tuple[str, float], ...]:
        plan = st.tuples(st.sampled_from(schemes), st.sampled_from(RATIOS))
        # A pattern keeps 4 of 9 weights at most, with headroom too.
        found = draw(st.lists(plan, min_size=least, max_size=most))
        return tuple((scheme, max(ratio, PATTERN) if scheme == "pattern" else ratio) for scheme, ratio in found)

    first = draw(st.none() | st.tuples(st.sampled_from(("unstructured", "filter", "pattern")), st.just(PATTERN)))
    return Network(
        kernel, draw(st.sampled_from(((4, 4), (5, 3)))), plans((*OF_CONVOLUTIONS, *["pattern"] * (kernel == 3)), 2, 4),
        plans(OF_LINEARS, 0, 3), first,
        draw(st.booleans()), draw(st.booleans()),
        draw(st.sampled_from((Sgd(0.9, 5e-4, False), Sgd(0.9, 0.0, True), Sgd(0.0, 1e-3, False)))),
        draw(st.sampled_from((0.0, 0.0, HEADROOM))), draw(st.integers(0, 2)), draw(st.booleans()),
    )  # fmt: skip


def check_on_cpu(network: Network) -> None:
    """Three steps in float64 agree with PyTorch's in every number."""
    model = network.model()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CpuProfile, "target", property(unoptimised))
        trainer = Trainer(_compiled(network, model, "cpu", "float64"))
    check_steps(trainer, _reference(network, model, trainer), network.rule, network.shape)


def check_on_opencl(network: Network) -> None:
    """Three steps in float32 agree with PyTorch's in float64 within what rounding may come to."""
    model = network.model()
    trainer = Trainer(_compiled(network, network.model().float(), "opencl", "float32"))
    reference = _reference(network, model, trainer)
    for seed in range(3):
        x, y = batch(network.examples, network.shape, seed)
        loss, logits = trainer.step(x.numpy().astype(np.float32), y.numpy(), 0.05)
        wanted, wanted_logits = reference.step(x, y, 0.05)
        _close("loss", np.array(loss), np.array(wanted))
        _close("logits", logits, wanted_logits)
        for name, value in reference.state().items():
            _close(name, trainer.state()[name], value)
        for slot in network.rule.slots:
            largest = max(np.linalg.norm(value) for value in reference.slots()[slot].values())
            for name, value in reference.slots()[slot].items():
                _close(f"{slot} of {name}", trainer.slots()[slot][name], value, largest)


def _reference(network: Network, model: nn.Module, trainer: Trainer) -> MaskedTraining:
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    masks = {name: mask.reshape(shapes[name]) for name, mask in trainer.masks().items()}
    return MaskedTraining(model, masks, network.rule)


def _close(what: str, found: np.ndarray, wanted: np.ndarray, largest: float = 0.0) -> None:
    error = np.linalg.norm((found - wanted).ravel()) / max(np.linalg.norm(wanted.ravel()), 0.05 * largest, 1e-3)
    assert error <= FP32, f"{what}: relative error {error}"


def _compiled(network: Network, model: nn.Module, device: str, dtype: str) -> Artifact:
    return compile_step(
        model, input_shape=network.shape, batch=network.examples, profile=network.profile(), optimizer=network.rule,
        headroom=network.headroom, device=device, dtype=dtype, measure=False, pick=network.pick(),
    )  # fmt: skip
