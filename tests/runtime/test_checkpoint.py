"""Checkpoints: a resumed run is the same run bit by bit, and nothing damaged or of another artifact is taken."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

from mest_compiler.errors import CheckpointError
from mest_compiler.optimizers import Sgd
from mest_compiler.runtime import checkpoint
from mest_compiler.runtime.trainer import Trainer

from ..whole_step.cases import Case, compiled
from ..whole_step.training import batch
from .states import all_state, check_same_bits
from .wrong_checkpoints import rewritten, wrong_contents

CASE = Case("pre-activation", "block")


@pytest.fixture
def trainer() -> Trainer:
    """A fresh one."""
    return Trainer(compiled(CASE).artifact)


def train(trainer: Trainer, first: int, count: int) -> list[tuple[float, bytes]]:
    """Steps on the batches numbered so; (loss, bytes of the logits) of each."""
    found = []
    for seed in range(first, first + count):
        x, y = batch(trainer.manifest["batch"], CASE.shape, seed)
        loss, logits = trainer.step(x.numpy(), y.numpy(), 0.1)
        found.append((loss, logits.tobytes()))
    return found


def thinned(masks: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Other masks of the same scheme: whole filter blocks' columns dropped at random."""
    rng = np.random.default_rng(seed)
    return {
        name: mask & np.repeat(rng.random((mask.shape[0] // 4, *mask.shape[1:])) < 0.8, 4, axis=0)
        for name, mask in masks.items()
    }


def test_a_resumed_run_is_the_same_run(trainer: Trainer, tmp_path: Path) -> None:
    train(trainer, 0, 3)
    trainer.swap_structures(thinned(trainer.masks(), 0))
    train(trainer, 3, 1)
    extra = {"epoch": 7, "seen": [1, 2.5, None], "name": "Bär"}
    trainer.save(tmp_path / "here", extra)
    state = all_state(trainer)
    resumed = Trainer(compiled(CASE).artifact)
    assert resumed.load(tmp_path / "here") == (extra, {})
    check_same_bits(all_state(resumed), state)
    assert train(resumed, 4, 3) == train(trainer, 4, 3)
    check_same_bits(all_state(resumed), all_state(trainer))
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_loading_goes_back_in_time(trainer: Trainer, tmp_path: Path) -> None:
    train(trainer, 0, 1)
    trainer.save(tmp_path / "here", {})
    state = all_state(trainer)
    first = train(trainer, 1, 2)
    trainer.swap_structures(thinned(trainer.masks(), 1))
    train(trainer, 3, 1)
    trainer.load(tmp_path / "here")
    check_same_bits(all_state(trainer), state)
    assert train(trainer, 1, 2) == first


@pytest.mark.parametrize(
    "other",
    [
        Case("pre-activation", "unstructured"),
        Case("pre-activation", "block", rule=Sgd(0.9, 5e-4, True)),
        Case("odd normalisations", "block"),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_artifact(trainer: Trainer, tmp_path: Path, other: Case) -> None:
    Trainer(compiled(other).artifact).save(tmp_path / "other", {})
    state = all_state(trainer)
    with pytest.raises(CheckpointError, match="of another model, optimiser or sparsity scheme"):
        trainer.load(tmp_path / "other")
    check_same_bits(all_state(trainer), state)


def test_one_flipped_byte(trainer: Trainer, tmp_path: Path) -> None:
    train(trainer, 0, 1)
    path = tmp_path / "here"
    trainer.save(path, {"epoch": 3})
    state, data = all_state(trainer), path.read_bytes()
    for place in np.linspace(0, len(data) - 1, 150).astype(int):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(CheckpointError):
            trainer.load(path)
    path.write_bytes(data[:-3])
    with pytest.raises(CheckpointError, match="is damaged"):
        trainer.load(path)
    check_same_bits(all_state(trainer), state)
    path.write_bytes(data)
    trainer.load(path)


def test_a_flipped_type(trainer: Trainer, tmp_path: Path) -> None:
    train(trainer, 0, 1)
    path = tmp_path / "here"
    trainer.save(path, {})
    data = path.read_bytes()
    header = data[8 : 8 + struct.unpack("<Q", data[:8])[0]]
    place = 8 + header.index(b'"state/bn1.weight":{"dtype":"F64"') + len(b'"state/bn1.weight":{"dtype":"')
    path.write_bytes(data[:place] + b"I" + data[place + 1 :])  # the same bits, taken for integers
    with pytest.raises(CheckpointError):
        trainer.load(path)


@pytest.mark.parametrize("scheme", ["block", "pattern"])
def test_tensors_that_do_not_fit_change_nothing(tmp_path: Path, scheme: str) -> None:
    trainer = Trainer(compiled(Case("pre-activation", scheme)).artifact)
    train(trainer, 0, 1)
    content = rewritten(trainer, tmp_path / "here")
    train(trainer, 1, 1)
    state = all_state(trainer)
    for what, wrong in wrong_contents(content, "conv1.weight", "stem.weight", "bn1.running_mean"):
        checkpoint.write(tmp_path / "wrong", wrong, trainer._identity())
        with pytest.raises(CheckpointError):
            trainer.load(tmp_path / "wrong")
            pytest.fail(f"taken: {what}")
    check_same_bits(all_state(trainer), state)
    assert trainer.steps == 2
    checkpoint.write(tmp_path / "right", content, trainer._identity())
    trainer.load(tmp_path / "right")
    assert trainer.steps == 1


def test_units_that_share_a_kernel(tmp_path: Path) -> None:
    """Two patterns in one kernel ascend and are in range, and are still no mask."""
    trainer = Trainer(compiled(Case("pre-activation", "pattern")).artifact)
    content = rewritten(trainer, tmp_path / "here")
    units = content.units["conv1.weight"].copy()
    units[1] = units[0] + (1 if units[0] % 8 < 7 else -1)
    wrong = replace(content, units={**content.units, "conv1.weight": np.sort(units)})
    checkpoint.write(tmp_path / "wrong", wrong, trainer._identity())
    with pytest.raises(CheckpointError, match=r"has wrong units of 'conv1\.weight'"):
        trainer.load(tmp_path / "wrong")


@pytest.mark.parametrize(
    "text", ["", "[1]", "{", '{"extra": {}}', "null", '{"extra": {}, "seed": "0", "steps": 0, "schemes": {}}']
)
def test_what_is_said_beside_the_tensors_may_be_damaged(trainer: Trainer, tmp_path: Path, text: str) -> None:
    content = rewritten(trainer, tmp_path / "here")
    arrays = content.tensors()
    metadata = {
        "form": checkpoint.FORM, "of": trainer._identity().digest(), "text": text,
        "sha256": checkpoint._digest(arrays, text),
    }  # fmt: skip
    safetensors.numpy.save_file(arrays, tmp_path / "wrong", metadata)
    for identity in (trainer._identity(), None):
        with pytest.raises(CheckpointError, match="is damaged"):
            checkpoint.read(tmp_path / "wrong", identity)


def test_files_that_are_no_checkpoint(trainer: Trainer, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no checkpoint at"):
        trainer.load(tmp_path / "nowhere")
    (tmp_path / "text").write_text("hello")
    for path in (tmp_path / "text", tmp_path):
        with pytest.raises(CheckpointError, match="is damaged"):
            trainer.load(path)


def test_a_place_that_cannot_be_written(trainer: Trainer, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    for name in ("taken", "nowhere/here"):
        with pytest.raises(CheckpointError, match="could not be written"):
            trainer.save(tmp_path / name, {})
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_checkpoint_of_the_form_before_is_read(trainer: Trainer, tmp_path: Path) -> None:
    """Form 2 kept the momentum as momentum/NAME, and said of the optimiser its settings alone."""
    train(trainer, 0, 2)
    trainer.save(tmp_path / "new", {"epoch": 1})
    with safe_open(tmp_path / "new", framework="numpy") as file:
        metadata = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    arrays = {name.replace("optimizer/momentum/", "momentum/"): array for name, array in arrays.items()}
    metadata |= {
        "form": checkpoint.FORM_2,
        "of": trainer._identity().digest(checkpoint.FORM_2),
        "sha256": checkpoint._digest(arrays, metadata["text"]),
    }
    safetensors.numpy.save_file(arrays, tmp_path / "old", metadata)
    before = all_state(trainer)
    train(trainer, 2, 1)
    assert trainer.load(tmp_path / "old") == ({"epoch": 1}, {})
    check_same_bits(all_state(trainer), before)
