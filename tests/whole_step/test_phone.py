"""What is compiled for a phone: an arm64 library that Android's linker takes by itself, and OpenCL C that computes the
right numbers where it can be run here (its limits are checked whenever a step is built, see passes.check_limits)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mest_compiler import compile as compiler
from mest_compiler.devices import get_device
from mest_compiler.errors import ArtifactError, ProfileError
from mest_compiler.optimizers import Sgd
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.runtime.trainer import Trainer
from mest_compiler.sparsity.automatic import Automatic

from .cases import Case, model_of
from .elf import needed, readelf, undefined
from .phones import PHONE, built
from .training import MaskedTraining, check_single_steps

CASE = Case("pre-activation", "block", dtype="float32")
LARGER = Case("resnet20", "block", dtype="float32")
SINGLE = 1e-4


def test_auto_is_for_devices_of_this_machine() -> None:
    with pytest.raises(ProfileError, match="'auto' measures kernels here, and galaxy-s20 is no part of this machine"):
        compiler.compile_step(
            model_of(CASE), input_shape=CASE.shape, batch=4, profile=Automatic(0.7), device=PHONE
        )  # fmt: skip


@pytest.fixture(scope="module")
def phone() -> Iterator[tuple[Artifact, set[str]]]:
    yield built(get_device(PHONE), model_of(CASE), CASE.shape)


def test_android_loads_the_library(phone: tuple[Artifact, set[str]], tmp_path: Path) -> None:
    library = tmp_path / "library.so"
    library.write_bytes(phone[0].library)
    header = readelf(library, "--file-header")
    assert "AArch64" in header and "DYN (Shared object file)" in header
    assert not needed(library) and not undefined(library)  # so nothing that has to be found anywhere
    assert "TEXTREL" not in readelf(library, "--dynamic")
    loads = [line.split() for line in readelf(library, "--wide", "--program-headers").splitlines() if " LOAD " in line]
    assert loads and all(int(fields[-1], 16) >= 16384 for fields in loads)


def test_the_artifact_says_where_it_runs(phone: tuple[Artifact, set[str]]) -> None:
    device = phone[0].manifest["device"]
    assert (device["name"], device["kind"], device["host"]) == (PHONE, "opencl", "aarch64-linux-android")
    with pytest.raises(ArtifactError, match="for galaxy-s20 with the host aarch64-linux-android, which is not"):
        Trainer(phone[0])


@pytest.mark.slow
def test_the_same_kernels_train_here() -> None:
    """This machine's driver takes the very source that the phone gets, and three steps of it are PyTorch's."""
    _, wanted = built(get_device(PHONE), model_of(LARGER), LARGER.shape)
    here, source = built(replace(get_device(PHONE), host=None), model_of(LARGER), LARGER.shape)
    assert source == wanted
    assert sum(text.count("__kernel void") for text in source) > 40
    assert not any("double" in text for text in source)
    trainer = Trainer(here)
    reference = MaskedTraining(model_of(LARGER).double(), trainer.masks(), Sgd(0.9, 5e-4, False))
    check_single_steps(trainer, reference, LARGER.shape, SINGLE)
