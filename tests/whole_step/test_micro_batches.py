"""A step in micro-batches agrees in float64 with PyTorch's gradient accumulation: every number there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mest_compiler import models
from mest_compiler.bench import compiled_network
from mest_compiler.compile import compile_step
from mest_compiler.devices import CpuProfile
from mest_compiler.errors import ArtifactError, MestError, ModelError
from mest_compiler.losses import CrossEntropy
from mest_compiler.optimizers import Sgd
from mest_compiler.passes.options import PLAIN, StepOptions
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.runtime.step_seed import step_seed
from mest_compiler.runtime.trainer import Trainer
from mest_compiler.signature import Role
from mest_compiler.sparsity.profile import LayerPlan, Profile
from mest_compiler.sparsity.starting_masks import random_masks

from ..frontend.dropouts import seed_dropouts
from ..runtime.states import all_state, check_same_bits
from .cases import _OWN, RULE, SHAPES, WIDTHS, unoptimised
from .traces import share_traces
from .training import CLASSES, TOLERANCE, MaskedTraining, batch, check_equal, check_steps

BATCH = 12
NESTEROV = Sgd(0.9, 5e-4, True)
SCHEMES = ("unstructured", "block", "block:1x4", "block:8x1", "block:4x4", "pattern", "channel", "filter")


@dataclass(frozen=True)
class Case:
    """A step of BATCH examples in parts of `part`; scheme None: dense."""

    network: str
    scheme: str | None
    part: int
    rule: Sgd = RULE
    smoothing: float = 0.0
    optimised: bool = False
    options: StepOptions = PLAIN

    @property
    def parts(self) -> int:
        """How many parts a batch has."""
        return BATCH // self.part


@cache
def model_of(network: str) -> nn.Module:
    """The network in float64; nobody may change it."""
    torch.manual_seed(0)
    if network in _OWN:
        return _OWN[network]().double()
    return models.build(network, classes=CLASSES, in_channels=3, width=WIDTHS[network]).double()


@cache
def compiled(case: Case) -> Artifact:
    """Compiles a case once a session, most of them without LLVM's optimiser; nobody may change what this returns."""
    with pytest.MonkeyPatch.context() as patch:
        if not case.optimised:
            patch.setattr(CpuProfile, "target", property(unoptimised))
        share_traces(patch, (case.network, 0, "float64"))
        return compile_step(
            model_of(case.network), input_shape=SHAPES[case.network], batch=BATCH,
            profile=Profile(LayerPlan(case.scheme, 0.7), "dense") if case.scheme else None, optimizer=case.rule,
            loss=CrossEntropy(case.smoothing), dtype="float64", measure=False,
            options=replace(case.options, micro_batch=case.part),
        )  # fmt: skip


class Accumulation(MaskedTraining):
    """PyTorch's gradient accumulation: a backward of loss / parts for each part of a batch, then one update."""

    def __init__(self, case: Case, masks: Mapping[str, np.ndarray]) -> None:
        super().__init__(model_of(case.network), masks, case.rule)
        self.parts, self.smoothing = case.parts, case.smoothing

    def step(self, x: torch.Tensor, y: torch.Tensor, lr: float = 0.1) -> tuple[float, np.ndarray]:
        """(mean loss, logits in order) before the update."""
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.zero_grad()
        losses, logits = [], []
        for number, (images, labels) in enumerate(zip(x.chunk(self.parts), y.chunk(self.parts), strict=True)):
            seed_dropouts(self.model, step_seed(self.seed, self.steps * self.parts + number))
            logits.append(self.model(images))
            losses.append(F.cross_entropy(logits[-1], labels, label_smoothing=self.smoothing))
            (losses[-1] / self.parts).backward()
        for name, mask in self.masks.items():
            self.parameters[name].grad.mul_(mask)
        self.optimizer.step()
        self.steps += 1
        return torch.stack(losses).mean().item(), torch.cat(logits).detach().numpy()


def both(case: Case) -> tuple[Trainer, Accumulation]:
    """A compiled step and PyTorch's at the same start."""
    trainer = Trainer(compiled(case))
    return trainer, Accumulation(case, trainer.masks())


def train(trainer: Trainer, case: Case, first: int, count: int) -> list[tuple[float, bytes]]:
    """Steps on the batches numbered so; (loss, bytes of the logits) of each."""
    found = []
    for seed in range(first, first + count):
        x, y = batch(BATCH, SHAPES[case.network], seed)
        loss, logits = trainer.step(x.numpy(), y.numpy(), 0.1)
        found.append((loss, logits.tobytes()))
    return found


CASES = [
    Case("dropout", "unstructured", 3, NESTEROV, 0.1),  # and parts that fill no tile
    *(Case("pre-activation", scheme, (3, 4, 1, 2, 6)[i % 5]) for i, scheme in enumerate(SCHEMES)),
]
QUICK = ("unstructured", "block", "channel")  # the other forms of kernels are among `REWRITTEN`
DROPOUT, SMALL, BLOCK, CHANNEL = CASES[0], CASES[1], CASES[2], CASES[-2]
SUMS = StepOptions(forward_sums=True, backward_sums=True)
REWRITTEN = [
    Case("pre-activation", "pattern", 3, options=StepOptions(forward_inputs=False)),
    Case("pre-activation", "block:4x4", 4, options=SUMS),
    Case("pre-activation", "channel", 6, options=replace(SUMS, forward_inputs=False)),
    Case("pre-activation", None, 2, options=StepOptions(weight_gradients=False)),
]


@pytest.mark.parametrize(
    "case",
    [
        *(c if c.scheme in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CASES),
        *REWRITTEN[:2],
        *(pytest.param(c, marks=pytest.mark.slow) for c in REWRITTEN[2:]),
        pytest.param(Case("odd activations", "unstructured", 3, NESTEROV, 0.1), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_three_steps(case: Case) -> None:
    check_steps(*both(case), case.rule, SHAPES[case.network])


@pytest.mark.slow
@pytest.mark.parametrize("case", [*REWRITTEN, replace(REWRITTEN[0], scheme="filter")], ids=str)
def test_other_networks_with_these_options(case: Case) -> None:
    case = replace(case, network="many normalisations", part=4)
    check_steps(*both(case), case.rule, SHAPES[case.network])


UNFIT = {
    # numbers of filters that are no multiple of 8
    ("resnet20", "block:8x1"), ("odd convolutions", "block:8x1"),
    # Without weights a filter leaves a plane of its bias: normalised that is zero up to rounding, and the ReLU after it
    # asks for the sign. The same with a whole batch.
    ("odd normalisations", "filter"), ("odd activations", "filter"),
}  # fmt: skip
# Not parts of 1: batch norm over the four pixels of ResNet-20's last planes multiplies rounding by 1e5.
SWEEP = [
    Case(network, scheme, (2, 3, 4, 6)[(i + k) % 4], NESTEROV, 0.1)
    for i, network in enumerate(("resnet20", "odd convolutions", "odd normalisations", "odd activations"))
    for k, scheme in enumerate((None, *SCHEMES))
    if (network, scheme) not in UNFIT
]


@pytest.mark.slow
@pytest.mark.parametrize("case", SWEEP, ids=str)
def test_every_network_and_scheme(case: Case) -> None:
    check_steps(*both(case), case.rule, SHAPES[case.network])


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_as_users_compile_it(scheme: str) -> None:
    case = Case("pre-activation", scheme, 3, optimised=True)
    check_steps(*both(case), case.rule, SHAPES[case.network])


@pytest.mark.parametrize("case", [SMALL, CHANNEL], ids=str)
def test_mutations_in_between(case: Case) -> None:
    trainer, reference = both(case)
    check_steps(trainer, reference, case.rule, SHAPES[case.network], steps=2)
    layers = trainer.sparse_layers()
    for round_, sparsity in enumerate((0.7, 0.9, 0.7)):  # with fewer weights the rest of the sums is left as it was
        plan = {name: LayerPlan(scheme.name, sparsity) for name, (scheme, _) in layers.items()}
        masks = random_masks(plan, {name: shape for name, (_, shape) in layers.items()}, round_)
        reference.mask(masks)
        trainer.swap_structures(masks)
        with pytest.raises(MestError, match="needs a gradient"):
            trainer.importance(1.0)
        check_steps(trainer, reference, case.rule, SHAPES[case.network], steps=2, seed=10 * (round_ + 1))


@pytest.mark.parametrize("case", [SMALL, DROPOUT], ids=str)
def test_importance_reads_the_whole_batch(case: Case) -> None:
    trainer, reference = both(case)
    x, y = batch(BATCH, SHAPES[case.network], 0)
    trainer.step(x.numpy(), y.numpy(), 0.1)
    reference.step(x, y)
    found = trainer.importance(100.0)
    assert set(found) == set(trainer.problems) == set(reference.masks)
    for name, structure in trainer.structures.items():
        weight = reference.parameters[name]
        wanted = (weight.detach().abs() + 100 * weight.grad.abs()).numpy().reshape(structure.spec.shape)
        values = structure.by_unit(structure.compact(wanted)).sum(axis=1)
        np.testing.assert_allclose(found[name], values, rtol=TOLERANCE)


def test_runs_of_the_input_buffers_are_steps() -> None:
    here, there = Trainer(compiled(DROPOUT)), Trainer(compiled(DROPOUT))
    x, y = batch(BATCH, SHAPES[DROPOUT.network], 0)
    for trainer in (here, there):
        trainer.step(x.numpy(), y.numpy(), 0.1)
    parts = here.run()
    loss, logits = there.step(x.numpy(), y.numpy(), 0.1)
    weights = [float(part[Role.WEIGHT].numpy()) for part in parts]
    assert weights == [DROPOUT.part] * DROPOUT.parts
    assert sum(float(part[Role.LOSS].numpy()) for part in parts) / BATCH == pytest.approx(loss, rel=1e-14)
    outputs = [part[Role.OUTPUT]["output"].numpy() for part in parts]
    np.testing.assert_array_equal(np.concatenate(outputs), logits)
    check_same_bits(all_state(here), all_state(there))


def test_a_bench_times_whole_batches(tmp_path: Path) -> None:
    path = compiled(SMALL).save(tmp_path / "step")
    contestant = compiled_network.profiled_step(str(path), seed=0, threads=1)
    contestant.outputs(tmp_path / "outputs.npz")
    assert np.load(tmp_path / "outputs.npz")["logits"].shape == (BATCH, CLASSES)
    contestant.run()
    assert contestant.trainer.steps == 2
    calls = {name: kernel["calls"] for name, kernel in contestant.result()["kernel_ms"].items()}
    assert calls["tile_in"] == SMALL.parts  # of the images
    assert calls["sgd_compact"] == len(contestant.trainer.problems)  # a layer's weights once


def test_a_resumed_run_is_the_same_run(tmp_path: Path) -> None:
    trainer = Trainer(compiled(DROPOUT), seed=5)
    train(trainer, DROPOUT, 0, 2)
    trainer.save(tmp_path / "here", {"epoch": 1})
    resumed = Trainer(compiled(DROPOUT))
    assert resumed.load(tmp_path / "here") == ({"epoch": 1}, {})
    with pytest.raises(MestError, match="needs a gradient"):
        resumed.importance(1.0)
    assert train(resumed, DROPOUT, 2, 2) == train(trainer, DROPOUT, 2, 2)
    check_same_bits(all_state(resumed), all_state(trainer))


def test_every_part_drops_others() -> None:
    trainer = Trainer(compiled(DROPOUT))
    x, y = batch(DROPOUT.part, SHAPES[DROPOUT.network], 0)
    x, y = x.repeat(DROPOUT.parts, 1, 1, 1), y.repeat(DROPOUT.parts)
    _, logits = trainer.step(x.numpy(), y.numpy(), 0.0)
    assert len({part.tobytes() for part in np.split(logits, DROPOUT.parts)}) == DROPOUT.parts


@pytest.mark.parametrize("name", ["step", "step.zip"])
def test_an_artifact_and_its_copy_on_disk_train_alike(name: str, tmp_path: Path) -> None:
    artifact = compiled(SMALL)
    loaded = Artifact.load(artifact.save(tmp_path / name))
    assert (loaded.manifest["batch"], loaded.manifest["micro_batch"]) == (BATCH, SMALL.part)
    here, there = Trainer(artifact), Trainer(loaded)
    assert train(here, SMALL, 0, 2) == train(there, SMALL, 0, 2)
    check_same_bits(all_state(here), all_state(there))


@pytest.mark.parametrize("case", [DROPOUT, BLOCK], ids=str)
@pytest.mark.parametrize("examples", [1, 3, 4, 7, BATCH, BATCH + 1])
def test_prediction_of_any_number_of_examples(case: Case, examples: int) -> None:
    trainer, reference = both(case)
    x, y = batch(BATCH, SHAPES[case.network], 0)
    trainer.step(x.numpy(), y.numpy(), 0.1)
    reference.step(x, y)
    x, _ = batch(examples, SHAPES[case.network], 1)
    check_equal("prediction", {"": trainer.predict(x.numpy())}, {"": reference.predict(x)})


@pytest.mark.parametrize("part", range(SMALL.parts))
def test_a_loss_that_is_no_number_shows_and_leaves_nothing_behind(part: int, tmp_path: Path) -> None:
    trainer, same = Trainer(compiled(SMALL)), Trainer(compiled(SMALL))
    trainer.save(tmp_path / "before", {})
    x, y = batch(BATCH, SHAPES[SMALL.network], 0)
    x[part * SMALL.part] = np.nan
    assert np.isnan(trainer.step(x.numpy(), y.numpy(), 0.1)[0])
    trainer.load(tmp_path / "before")  # the sums of gradients hold NaN, and the next step does not read them
    assert train(trainer, SMALL, 1, 2) == train(same, SMALL, 1, 2)
    check_same_bits(all_state(trainer), all_state(same))


def test_a_part_that_is_the_batch_is_a_whole_step(tmp_path: Path) -> None:
    artifact = compiled(Case(BLOCK.network, BLOCK.scheme, BATCH))
    assert artifact.manifest["micro_batch"] == artifact.manifest["batch"] == BATCH
    assert set(artifact.manifest["signature"]) == {"step", "predict"}
    whole, parts = Trainer(artifact), Trainer(compiled(BLOCK))
    assert whole.state_bytes() == parts.state_bytes()
    train(parts, BLOCK, 0, 2)
    parts.save(tmp_path / "parts", {})
    whole.load(tmp_path / "parts")  # the sums are no state
    check_same_bits(all_state(whole), all_state(parts))


@pytest.mark.parametrize("part", [-4, 0, 5, 8, 24])
def test_parts_that_do_not_make_up_the_batch(part: int) -> None:
    with pytest.raises(ModelError, match=rf"A batch of 12 .* of {part}: use a divisor .*1, 2, 3, 4, 6, 12"):
        compiled(Case("pre-activation", None, part))


def test_a_step_takes_the_whole_batch() -> None:
    trainer = Trainer(compiled(SMALL))
    x, y = batch(BATCH, SHAPES[SMALL.network], 0)
    with pytest.raises(ArtifactError, match=r"takes x of shape \[12, 3, 5, 5\], and got \[1, 3, 5, 5\]"):
        trainer.step(x[:1].numpy(), y[:1].numpy(), 0.1)
