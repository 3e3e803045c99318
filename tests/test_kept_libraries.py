"""The tests' cache of compiled steps: hit by the same step alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from mest_compiler.compile import compile_step
from mest_compiler.devices import CpuProfile
from mest_compiler.optimizers import Sgd
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.runtime.trainer import Trainer

from . import kept_libraries
from .whole_step.cases import unoptimised


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[object]:
    """What was built so far."""
    found: list[object] = []
    real = kept_libraries.build
    monkeypatch.setattr(kept_libraries, "build", lambda *of: found.append(of) or real(*of))
    kept_libraries.keep_libraries(tmp_path / "libraries", monkeypatch)
    monkeypatch.setattr(CpuProfile, "target", property(unoptimised))
    return found


def step(filters: int = 4, batch: int = 2, rule: Sgd | None = None, **more: object) -> Artifact:
    """A small one."""
    torch.manual_seed(len(more))
    model = nn.Sequential(nn.Conv2d(3, filters, 3), nn.Flatten(), nn.Linear(4 * filters, 10))
    return compile_step(
        model, input_shape=(3, 4, 4), batch=batch, optimizer=rule, measure=False, **({"threads": 1} | more)
    )


OTHERS: dict[str, Callable[[], Artifact]] = {
    "shape": lambda: step(filters=5), "batch": lambda: step(batch=3), "rule": lambda: step(rule=Sgd(0.5, 0.0, False)),
    "device": lambda: step(device="opencl", threads=None),
}  # fmt: skip


@pytest.mark.parametrize(
    "other", [pytest.param(OTHERS[o], marks=() if o in ("shape", "device") else pytest.mark.slow, id=o) for o in OTHERS]
)
def test_the_same_step_is_built_once(other: Callable[[], Artifact], built: list[object], tmp_path: Path) -> None:
    first = step()
    again = step()
    assert len(built) == 1 and first.library == again.library
    assert other().library != first.library and len(built) == 2
    x, y = torch.randn(2, 3, 4, 4).numpy(), torch.tensor([1, 2]).numpy()
    assert Trainer(first).step(x, y, 0.1)[0] == Trainer(again).step(x, y, 0.1)[0]


def test_weights_are_no_part_of_it(built: list[object]) -> None:
    first, again = step(), step(name="other weights")
    assert len(built) == 1 and first.library == again.library
    assert (first.tensors["0.weight"] != again.tensors["0.weight"]).any()


@pytest.mark.slow
def test_a_dump_looks_into_the_step_itself(built: list[object], tmp_path: Path) -> None:
    step(device="opencl", threads=None)
    step(device="opencl", threads=None, dump=tmp_path)
    assert len(built) == 2 and any((tmp_path / "kernels").glob("*.cl"))
