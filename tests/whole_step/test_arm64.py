"""The artifact for a phone, byte for byte, on TVM's arm64 runtime: qemu runs the host part, PoCL for arm64 the kernels.

What this leaves open: Android's loader, and the phone's own OpenCL compiler.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from mest_compiler import compile as compiler
from mest_compiler.optimizers import Sgd
from mest_compiler.runtime.device_runtimes.opencl_facts import opencl_devices
from mest_compiler.runtime.remote import connection
from mest_compiler.runtime.remote.where import Where
from mest_compiler.runtime.trainer import Trainer
from mest_compiler.sparsity.profile import Profile

from . import arm64
from .cases import Case, model_of
from .training import MaskedTraining, check_single_steps

REQUEST_S = 1800
"""The first step compiles every kernel in an emulated compiler."""
SINGLE, STATE = 1e-4, 1e-2
"""Relative differences allowed between steps in float32 and in float64; of each parameter, see remotely.py."""
KERNELS = {"resnet20": 40, "pre-activation": 8}
RULE = Sgd(0.9, 5e-4, False)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with arm64.serving(arm64.machine(), tmp_path_factory.mktemp("arm64")) as address:
        yield address


@pytest.mark.parametrize(
    ("network", "scheme"), [("resnet20", "block"), ("pre-activation", "pattern"), ("pre-activation", "unstructured")]
)
def test_three_steps_are_pytorchs(server: str, network: str, scheme: str) -> None:
    case = Case(network, scheme, dtype="float32")
    artifact = compiler.compile_step(
        model_of(case), input_shape=case.shape, batch=4, profile=Profile.uniform(scheme, 0.7), device="galaxy-s20",
        optimizer=RULE, measure=False,
    )  # fmt: skip
    with connection.open(Where.of(server=server), request_s=REQUEST_S) as place:
        (device,) = opencl_devices(place)
        assert "aarch64" in device["version"]
        trainer = Trainer(artifact, host=place)
        reference = MaskedTraining(model_of(case).double(), trainer.masks(), RULE)
        check_single_steps(trainer, reference, case.shape, SINGLE)
        state = trainer.state()
        assert json.loads(place.function("mest.opencl.counts")(0))["built"] > KERNELS[network]
    for name, array in reference.state().items():
        error = np.abs(state[name] - array).max() / max(np.abs(array).max(), 1e-3)
        assert error <= STATE, (name, error)
