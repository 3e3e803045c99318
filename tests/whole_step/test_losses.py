"""Whole steps under each loss, of networks with several inputs, outputs and frozen parameters, against PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mest_compiler.bench import compiled_network
from mest_compiler.bench.inputs import step_inputs
from mest_compiler.compile import compile_step
from mest_compiler.devices import CpuProfile
from mest_compiler.errors import ArtifactError, BenchError, MestError
from mest_compiler.losses import BceWithLogits, CallableLoss, CrossEntropy, Loss, Mse
from mest_compiler.optimizers import AdamW
from mest_compiler.passes.options import PLAIN, StepOptions
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.runtime.trainer import Trainer
from mest_compiler.signature import TensorSpec
from mest_compiler.sparsity.profile import Profile
from mest_compiler.training.torch_engine import TorchEngine

from ..runtime.states import all_state, check_same_bits
from .cases import unoptimised
from .test_optimizers import masks_of, mutated
from .training import MaskedTraining, check_equal

BATCH, LR, TOLERANCE, CLASSES = 6, 0.01, 1e-10, 4
INPUTS = {"image": (3, 7, 7), "more": (5,)}
RULE = AdamW()


class TwoBranches(nn.Module):
    """Two inputs; the second goes through a frozen branch. twice: two outputs, of which the first is a plane."""

    def __init__(self, twice: bool = False) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.branch = nn.Sequential(nn.Linear(5, 8), nn.ReLU()).requires_grad_(False)
        self.hidden, self.last, self.twice = nn.Linear(16, 12), nn.Linear(12, CLASSES), twice

    def forward(self, image: torch.Tensor, more: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """Logits, or planes beside them."""
        planes = torch.relu(self.body(torch.relu(self.norm(self.stem(image)))))
        features = torch.cat([planes.mean((2, 3)), self.branch(more)], 1)
        logits = self.last(torch.relu(self.hidden(features)))
        return {"planes": planes, "logits": logits} if self.twice else logits


def half_squared(planes: torch.Tensor, logits: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A loss of one's own over two outputs, whose weight is the targets' sum."""
    apart = logits - y
    return (apart * apart).sum() * 0.5 + (planes * planes).sum() * 0.01, y.sum()


def mean_squared(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A mean over the examples."""
    return ((output - y) ** 2).mean()


@dataclass(frozen=True)
class Case:
    """A loss and what it is compared with."""

    loss: Loss
    targets: str = "numbers"
    twice: bool = False

    def target(self, rng: np.random.Generator) -> np.ndarray:
        """Of a batch."""
        if self.targets == "labels":
            labels = rng.integers(0, CLASSES, BATCH)
            if not self.loss.label_smoothing:
                labels[[0, 1, 4]] = -100  # so many do not count that the parts of a batch weigh differently
            return labels
        return rng.random((BATCH, CLASSES))


PARTS = StepOptions(micro_batch=2)
SPEC = {"y": TensorSpec((CLASSES,), "float64")}
CASES = {
    "mse": Case(Mse()),
    "bce": Case(BceWithLogits()),
    "ignored labels": Case(CrossEntropy(), "labels"),
    "smoothed labels": Case(CrossEntropy(0.2), "labels"),
    "callable of two outputs": Case(CallableLoss(half_squared, SPEC), twice=True),
    "callable mean": Case(CallableLoss(mean_squared, SPEC)),
}
QUICK = (
    ("mse", PLAIN), ("bce", PLAIN), ("ignored labels", PARTS), ("callable of two outputs", PARTS),
    ("callable mean", PLAIN),
)  # fmt: skip


def network(twice: bool, dtype: str = "float64") -> TwoBranches:
    """The same at every call."""
    torch.manual_seed(0)
    return TwoBranches(twice).to(getattr(torch, dtype))


def artifact(case: Case, options: StepOptions = PLAIN, device: str = "cpu", dtype: str = "float64") -> Artifact:
    """The step of a case; nobody may change it."""
    return _artifact(case, options, device, dtype)  # to a cache an argument that is left out is another call


@cache
def _artifact(case: Case, options: StepOptions, device: str, dtype: str) -> Artifact:
    layers = {
        "body.weight": {"scheme": "block", "sparsity": 0.5},
        "hidden.weight": {"scheme": "unstructured", "sparsity": 0.6},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CpuProfile, "target", property(unoptimised))
        return compile_step(
            network(case.twice, dtype), inputs={name: TensorSpec(shape, dtype) for name, shape in INPUTS.items()},
            batch=BATCH, profile=Profile.from_mapping({"scheme": "block", "sparsity": 0.0, "layers": layers}),
            loss=case.loss, optimizer=RULE, dtype=dtype, device=device, measure=False, options=options,
            threads=1 if device == "cpu" else None,
        )  # fmt: skip


def batch(case: Case, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Inputs and target."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal((BATCH, *shape)) for name, shape in INPUTS.items()}, case.target(rng)


def tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """As PyTorch has them."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def named(outputs: np.ndarray | Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Outputs by name."""
    return outputs if isinstance(outputs, Mapping) else {"": outputs}


# In parts: a loss that weighs its examples, and one that is the user's own. The whole steps of the other losses.
@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(name, options, id=f"{name}-{way}", marks=() if (name, options) in QUICK else pytest.mark.slow)
        for name in CASES
        for way, options in (("whole", PLAIN), ("parts", PARTS))
    ],
)
def test_steps_with_a_mutation_between(name: str, options: StepOptions) -> None:
    case = CASES[name]
    trainer = Trainer(artifact(case, options))
    reference = MaskedTraining(network(case.twice), masks_of(trainer), RULE, case.loss)
    frozen = {n: p.detach().numpy().copy() for n, p in network(case.twice).branch.named_parameters(prefix="branch")}
    for number in range(5):
        if number == 2:
            mutated(trainer, 1)
            reference.mask(masks_of(trainer))
        inputs, y = batch(case, number)
        loss, outputs = trainer.step(inputs, y, LR)
        part = options.micro_batch or BATCH
        wanted, wanted_outputs = reference.step_in_parts(tensors(inputs), torch.from_numpy(y), LR, part)
        check_equal("loss", {"": np.array(loss)}, {"": np.array(wanted)}, TOLERANCE)
        check_equal("outputs", named(outputs), named(wanted_outputs), TOLERANCE)
        check_equal("state", trainer.state(), reference.state(), TOLERANCE)
    for n, array in frozen.items():
        np.testing.assert_array_equal(trainer.state()[n], array)
    inputs, _ = batch(case, 9)
    check_equal("prediction", named(trainer.predict(inputs)), named(reference.predict(tensors(inputs))), TOLERANCE)


def test_nothing_is_computed_for_what_is_frozen() -> None:
    built = artifact(CASES["mse"])
    step = built.signature["step"]
    assert list(built.manifest["frozen"]) == ["branch.0.weight", "branch.0.bias"]
    assert not {arg.owner for arg in step.arguments if arg.role.value == "slot"} & set(built.manifest["frozen"])
    trained = sum(built.tensors[name].nbytes for name in built.manifest["parameters"])
    assert built.manifest["memory"]["planned"]["optimizer"] == 2 * trained
    (said,) = (layer for layer in built.manifest["done"]["layers"] if layer["name"] == "branch.0.weight")
    assert said["scheme"] == "dense" and said["why"] == "their weights are frozen"


def test_opencl() -> None:
    case = CASES["mse"]
    trainer = Trainer(artifact(case, device="opencl", dtype="float32"))
    reference = MaskedTraining(network(False), masks_of(trainer), RULE, case.loss)
    for number in range(3):
        inputs, y = batch(case, number)
        narrow = {name: array.astype(np.float32) for name, array in inputs.items()}
        loss, outputs = trainer.step(narrow, y.astype(np.float32), LR)
        wanted, wanted_outputs = reference.step(tensors(inputs), torch.from_numpy(y), LR)
        assert abs(loss - wanted) <= 1e-4 * abs(wanted)
        assert np.abs(outputs - wanted_outputs).max() <= 1e-3 * np.abs(wanted_outputs).max()
    for name, value in reference.state().items():  # see test_optimizers.test_opencl
        assert np.abs(trainer.state()[name] - value).mean() <= LR / 50, name


def test_a_checkpoint_goes_on_bit_by_bit(tmp_path: Path) -> None:
    case = CASES["callable of two outputs"]
    whole, parts = Trainer(artifact(case, PARTS)), Trainer(artifact(case, PARTS))
    for number in range(3):
        inputs, y = batch(case, number)
        whole.step(inputs, y, LR)
        if number == 1:
            parts.save(tmp_path / "c", {})
            parts = Trainer(artifact(case, PARTS))
            parts.load(tmp_path / "c")
        parts.step(inputs, y, LR)
    check_same_bits(all_state(parts), all_state(whole))


@pytest.mark.parametrize(("name", "options"), [("mse", PLAIN), ("bce", PLAIN), ("ignored labels", PARTS)])
def test_what_a_loss_calls_right(name: str, options: StepOptions, tmp_path: Path) -> None:
    case = CASES[name]
    trainer = Trainer(Artifact.load(artifact(case, options).save(tmp_path / "step")))
    inputs, y = batch(case, 0)
    output = trainer.predict(inputs)
    wanted = {
        "mse": lambda: ((output - y) ** 2).mean(),
        "bce": lambda: ((output > 0) == (y > 0.5)).mean(),
        "ignored labels": lambda: (output.argmax(1) == y).mean(),
    }[name]()
    assert trainer.evaluate(inputs, y) == pytest.approx(wanted)


def test_a_loss_of_ones_own_is_no_part_of_an_artifact(tmp_path: Path) -> None:
    case = CASES["callable mean"]
    loaded = Artifact.load(artifact(case).save(tmp_path / "step"))
    inputs, y = batch(case, 0)
    assert Trainer(loaded).step(inputs, y, LR)[0] > 0  # the program holds it
    with pytest.raises(MestError, match="is a function of one's own, which it does not hold: give it to Trainer"):
        Trainer(loaded).evaluate(inputs, y)


def test_wrong_examples() -> None:
    trainer, (inputs, y) = Trainer(artifact(CASES["mse"])), batch(CASES["mse"], 0)
    with pytest.raises(ArtifactError, match="takes the inputs image, more, and got image"):
        trainer.step({"image": inputs["image"]}, y, LR)
    with pytest.raises(ArtifactError, match=r"takes more of shape \[6, 5\], and got \[6, 4\]"):
        trainer.step({**inputs, "more": inputs["more"][:, :4]}, y, LR)
    with pytest.raises(ArtifactError, match=r"takes y of shape \[6, 4\], and got \[5, 4\]"):
        trainer.step(inputs, y[:5], LR)
    with pytest.raises(ArtifactError, match=r"Targets run from -0.* to .*, and a binary cross-entropy takes"):
        Trainer(artifact(CASES["bce"])).step(inputs, y - 1, LR)


def test_inputs_go_by_their_names() -> None:
    """Whatever order they are said and given in, in PyTorch's engine too."""
    case, (inputs, y) = CASES["mse"], batch(CASES["mse"], 0)
    turned = dict(reversed(inputs.items()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CpuProfile, "target", property(unoptimised))
        other = compile_step(
            network(False), inputs={name: TensorSpec(INPUTS[name], "float64") for name in turned}, batch=BATCH,
            loss=case.loss, optimizer=RULE, dtype="float64", measure=False, threads=1,
        )  # fmt: skip
    engine = TorchEngine(network(False), optimizer=RULE, loss=case.loss, dtype=torch.float64)
    wanted = engine.step(inputs, y, LR)[0]
    again = TorchEngine(network(False), optimizer=RULE, loss=case.loss, dtype=torch.float64)
    assert again.step(turned, y, LR)[0] == wanted
    np.testing.assert_array_equal(again.predict(turned), engine.predict(inputs))
    for given in (inputs, turned):
        assert Trainer(other).step(given, y, LR)[0] == pytest.approx(wanted, rel=TOLERANCE)


def test_a_bench_of_such_a_step(tmp_path: Path) -> None:
    two = "callable of two outputs"
    for name, options, outputs in (("mse", PLAIN, ["logits"]), (two, PARTS, ["planes", "logits"])):
        path = artifact(CASES[name], options).save(tmp_path / name)
        contestant = compiled_network.step(str(path), seed=0, threads=1)
        contestant.outputs(tmp_path / "outputs.npz")
        found = np.load(tmp_path / "outputs.npz")
        assert np.isfinite(found["loss"]) and set(found) == {"loss", *outputs}


def test_a_step_of_words_is_not_timed() -> None:
    manifest = {"batch": 2, "classes": None, "inputs": {"words": [[5], "int64"]}, "targets": {}}
    with pytest.raises(BenchError, match="takes int64 as 'words', and which of them mean something is not known"):
        step_inputs(manifest, 0)
