"""Whole steps are compiled without LLVM's optimiser, which takes two thirds of the time and is none of this project's."""

from collections.abc import Iterator

import pytest
import torch
import tvm

from mest_compiler.devices import CpuProfile


def unoptimised(profile: CpuProfile) -> tvm.target.Target:
    """A profile's target, unoptimised."""
    return tvm.target.Target({"kind": "llvm", "mcpu": profile.mcpu, "opt-level": 0})


@pytest.fixture(autouse=True)
def _quick_compiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if "optimised" not in request.fixturenames:
        monkeypatch.setattr(CpuProfile, "target", property(unoptimised))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two thread pools on the same cores slow each other down
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def optimised() -> None:
    """A test that asks for this compiles as users do."""
