"""Whole steps under each optimiser against PyTorch's own: sparse and dense layers, with mutation between, in parts,
from a checkpoint, on both devices."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mest_compiler.compile import compile_step
from mest_compiler.devices import CpuProfile
from mest_compiler.optimizers import Adam, AdamW, Optimizer, Sgd
from mest_compiler.passes.options import PLAIN, StepOptions
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.runtime.trainer import Trainer
from mest_compiler.sparsity.profile import Profile
from mest_compiler.sparsity.schemes import get_scheme

from ..runtime.states import all_state, check_same_bits
from .cases import unoptimised
from .traces import share_traces
from .training import CLASSES, MaskedTraining, batch, check_equal

SHAPE, BATCH, LR, TOLERANCE = (3, 7, 7), 6, 0.01, 1e-10
RULES = (Adam(), Adam((0.8, 0.95), 1e-6, 1e-2), AdamW(), AdamW((0.9, 0.99), 1e-8, 0.3), Sgd(0, 1e-2), Sgd(0, 0))
PARTS = StepOptions(micro_batch=2)
QUICK_PARTS = (RULES[3], RULES[4])
"""An AdamW and an SGD whose gradients are accumulated; the others differ in settings alone."""
QUICK_WHOLE = (RULES[0], RULES[1], RULES[5])
"""Those that are not quick in parts; AdamW is in tests/whole_step/test_losses.py too, on OpenCL as well."""


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    """Two convolutions, of which the second is sparse, and two linear layers, of which the first is."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, CLASSES),
    ).to(dtype)  # fmt: skip


def artifact(rule: Optimizer, options: StepOptions = PLAIN, device: str = "cpu", dtype: str = "float64") -> Artifact:
    """The network's step; nobody may change it."""
    return _artifact(rule, options, device, dtype)  # to a cache an argument that is left out is another call


@cache
def _artifact(rule: Optimizer, options: StepOptions, device: str, dtype: str) -> Artifact:
    layers = {"3.weight": {"scheme": "block", "sparsity": 0.5}, "7.weight": {"scheme": "unstructured", "sparsity": 0.6}}
    profile = Profile.from_mapping({"scheme": "block", "sparsity": 0.0, "layers": layers})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CpuProfile, "target", property(unoptimised))
        share_traces(patch, ("optimisers", dtype))
        return compile_step(
            network(getattr(torch, dtype)), input_shape=SHAPE, batch=BATCH, profile=profile, optimizer=rule,
            dtype=dtype, device=device, measure=False, options=options, threads=1 if device == "cpu" else None,
        )  # fmt: skip


def reference(trainer: Trainer, rule: Optimizer) -> MaskedTraining:
    """The same in PyTorch."""
    return MaskedTraining(network(), masks_of(trainer), rule)


def masks_of(trainer: Trainer) -> dict[str, np.ndarray]:
    """As PyTorch's parameters are shaped."""
    return {name: mask.reshape(trainer.manifest["parameters"][name]) for name, mask in trainer.masks().items()}


def mutated(trainer: Trainer, seed: int) -> None:
    """As many other units as each layer keeps."""
    masks = {}
    for number, (name, (scheme, shape)) in enumerate(trainer.sparse_layers().items()):
        rng = np.random.default_rng(seed + number)
        units = np.sort(rng.permutation(scheme.units(shape))[: len(trainer.kept_units()[name])])
        masks[name] = get_scheme(scheme.name).mask_of(units, shape)
    trainer.swap_structures(masks)


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        *(
            pytest.param(rule, PLAIN, id=f"{rule}-whole", marks=() if rule in QUICK_WHOLE else pytest.mark.slow)
            for rule in RULES
        ),
        *(
            pytest.param(rule, PARTS, id=f"{rule}-parts", marks=() if rule in QUICK_PARTS else pytest.mark.slow)
            for rule in RULES
        ),
    ],
)
def test_steps_with_a_mutation_between(rule: Optimizer, options: StepOptions) -> None:
    trainer = Trainer(artifact(rule, options))
    torch_steps = reference(trainer, rule)
    for number in range(6):
        if number == 3:
            mutated(trainer, 0)
            torch_steps.mask(masks_of(trainer))
        x, y = batch(BATCH, SHAPE, number)
        rate = LR / (1 + number)
        loss, logits = trainer.step(x.numpy(), y.numpy(), rate)
        if options is PLAIN:
            wanted, wanted_logits = torch_steps.step(x, y, rate)
        else:  # what PyTorch calls gradient accumulation, with a batch norm of each part
            wanted, wanted_logits = torch_steps.step_in_parts(x, y, rate, options.micro_batch)
        check_equal("loss", {"": np.array(loss)}, {"": np.array(wanted)}, TOLERANCE)
        check_equal("logits", {"": logits}, {"": wanted_logits}, TOLERANCE)
        check_equal("state", trainer.state(), torch_steps.state(), TOLERANCE)
        assert set(trainer.slots()) == set(rule.slots)
        for slot in rule.slots:
            check_equal(slot, trainer.slots()[slot], torch_steps.slots()[slot], TOLERANCE)


@pytest.mark.slow  # test_losses has AdamW there
@pytest.mark.parametrize("rule", [Adam(), AdamW()], ids=str)
def test_opencl(rule: Optimizer) -> None:
    trainer = Trainer(artifact(rule, device="opencl", dtype="float32"))
    torch_steps = reference(trainer, rule)
    for number in range(3):
        x, y = batch(BATCH, SHAPE, number)
        loss, _ = trainer.step(x.numpy().astype(np.float32), y.numpy(), LR)
        wanted, _ = torch_steps.step(x, y, LR)
        assert abs(loss - wanted) <= 1e-4 * abs(wanted)
    for name, value in torch_steps.state().items():
        # Adam divides by the root of what may be rounding alone: a few weights move otherwise, by a step at most
        assert np.abs(trainer.state()[name] - value).mean() <= LR / 50, name


@pytest.mark.parametrize("rule", [RULES[3], RULES[4]], ids=str)
def test_a_checkpoint_goes_on_bit_by_bit(rule: Optimizer, tmp_path: Path) -> None:
    whole, parts = Trainer(artifact(rule, PARTS)), Trainer(artifact(rule, PARTS))
    for number in range(4):
        x, y = batch(BATCH, SHAPE, number)
        whole.step(x.numpy(), y.numpy(), LR)
        if number == 2:
            parts.save(tmp_path / "c", {})
            parts = Trainer(artifact(rule, PARTS))
            parts.load(tmp_path / "c")
        parts.step(x.numpy(), y.numpy(), LR)
    check_same_bits(all_state(parts), all_state(whole))


@pytest.mark.parametrize("rule", [*QUICK_PARTS, *QUICK_WHOLE], ids=str)
def test_bytes_of_the_state(rule: Optimizer) -> None:
    built = artifact(rule, PARTS if rule in QUICK_PARTS else PLAIN)
    weights = sum(built.tensors[name].nbytes for name in built.manifest["parameters"])
    planned = built.manifest["memory"]["planned"]
    assert planned["optimizer"] == Trainer(built).state_bytes()["optimizer"] == len(rule.slots) * weights
    for layer in built.manifest["layers"].values():
        assert layer["bytes"]["optimizer"] == len(rule.slots) * layer["bytes"]["weights"]
