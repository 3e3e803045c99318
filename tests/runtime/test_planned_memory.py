"""The plan is what is allocated: training in a process whose every allocation is counted, against its plan."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mest_compiler import models
from mest_compiler.compile import compile_step
from mest_compiler.devices import CpuProfile
from mest_compiler.errors import MemoryLimitError
from mest_compiler.passes.fit_memory import host_bytes
from mest_compiler.passes.options import StepOptions
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.sparsity.profile import Profile

from ..whole_step.cases import unoptimised
from ..whole_step.traces import share_traces
from .counted import ACTIONS, ALIGNED, DEVICE, MAPPED, ORDINARY, Measured, built, measured, run

PAGE = 4096
"""Bytes of which TVM's pool, in which the arena and a step's results are, takes whole multiples."""
ROUNDING = 0.02
"""Part of the plan that rounding to pages may add at most."""
HOST_GROWTH = 1 << 16
"""Bytes that Python's own caches may take from one step to a later one."""
ALLOCATING, SIZE = Path(__file__).with_name("allocating.py"), 1 << 20  # and how much it allocates at a time
BATCH, INPUT = 32, (3, 32, 32)
PLAIN = StepOptions()
VARIANTS = {
    "small": ("block",), "resnet20": ("block", "dense", "60 %", "bfloat16", "micro-batches")
}  # fmt: skip
networks = pytest.mark.parametrize("network", ["small", pytest.param("resnet20", marks=pytest.mark.slow)])
LIMITS = {"small": 1, "resnet20": 5}
"""How many there are from below the plan without a limit to the smallest."""
NUMBERED = [
    pytest.param(network, number, marks=() if network == "small" else pytest.mark.slow)
    for network, count in LIMITS.items()
    for number in range(count)
]


class Small(nn.Module):
    """Batch norms, a residual, a dropout, a max-pool and many classes: [N, 3, 32, 32] -> logits [N, 500]."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 8, 3, padding=1), *(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))])
        self.norms = nn.ModuleList([nn.BatchNorm2d(8) for _ in range(3)])
        self.pool, self.drop, self.fc = nn.MaxPool2d(2), nn.Dropout(0.1), nn.Linear(8, 500)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(x))
            x = F.relu(y + x if number == 1 else y)
        return self.fc(self.drop(self.pool(x)).mean((2, 3)))


@cache
def compiled(network: str, scheme: str | None, options: StepOptions = PLAIN) -> Artifact:
    """A step, compiled once; without LLVM's optimiser, which allocates nothing of a step's."""
    torch.manual_seed(0)
    model = Small() if network == "small" else models.build(network, classes=10, in_channels=3, width=0.5)
    profile = Profile.uniform(scheme, 0.9) if scheme else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CpuProfile, "target", property(unoptimised))
        share_traces(patch, ("planned memory", network))
        return compile_step(
            model, input_shape=INPUT, batch=BATCH, profile=profile, measure=False, options=options
        )  # fmt: skip


def planned_peak(artifact: Artifact) -> int:
    """Bytes of the plan."""
    return artifact.manifest["memory"]["planned_peak"]


def host(artifact: Artifact) -> int:
    """Bytes of a limit that are left to the host."""
    return host_bytes(len(artifact.manifest["parameters"]))


@cache
def smallest(network: str) -> int:
    """Bytes of the smallest limit that a step can be compiled for."""
    with pytest.raises(MemoryLimitError) as caught:
        compiled(network, "block", StepOptions(memory_limit=1))
    return caught.value.smallest


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What counts."""
    return built(tmp_path_factory.mktemp("allocations"))


@cache
def options(network: str) -> dict[str, tuple[str | None, StepOptions]]:
    """Scheme and options of every step that is trained, by name."""
    free = compiled(network, "block", PLAIN)
    largest = planned_peak(free)
    limits = np.linspace(largest + host(free), smallest(network), LIMITS[network] + 1)[1:]
    variants = {
        "block": PLAIN, "dense": PLAIN, "bfloat16": StepOptions(stored="bfloat16"),
        "60 %": StepOptions(memory_limit=int(0.6 * largest) + host(free)),
        "micro-batches": StepOptions(micro_batch=BATCH // 4),
    }  # fmt: skip
    variants = {name: variants[name] for name in VARIANTS[network]}
    variants |= {f"limit {number}": StepOptions(memory_limit=round(limit)) for number, limit in enumerate(limits)}
    return {name: (None if name == "dense" else "block", chosen) for name, chosen in variants.items()}


@pytest.fixture(scope="module")
def trained(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Measured]]:
    """Gives what training each step of a network took, by name."""

    @cache
    def train(network: str) -> dict[str, Measured]:
        folder = tmp_path_factory.mktemp("steps")
        steps = {name: compiled(network, *how) for name, how in options(network).items()}
        paths = [step.save(folder / str(number)) for number, step in enumerate(steps.values())]
        return dict(zip(steps, measured(library, paths), strict=True))

    return train


def rounding(artifact: Artifact) -> int:
    """Bytes that whole pages may add: to the arena, the loss, the logits, and each sparse layer's gradient."""
    sparse = sum("capacity" in layer for layer in artifact.manifest["layers"].values())
    added = PAGE * (3 + sparse)
    assert added <= ROUNDING * planned_peak(artifact), "use a larger step: rounding would hide what is too much"
    return added


@pytest.mark.parametrize(
    ("network", "name"),
    [
        *(("small", name) for name in VARIANTS["small"]),
        *(pytest.param("resnet20", name, marks=pytest.mark.slow) for name in VARIANTS["resnet20"]),
    ],
)
def test_what_is_allocated_was_planned(network: str, name: str, trained: Callable[[str], dict[str, Measured]]) -> None:
    artifact, found = compiled(network, *options(network)[name]), trained(network)[name]
    assert 0.98 * planned_peak(artifact) <= found.device_peak <= planned_peak(artifact) + rounding(artifact)
    second, mutation = ACTIONS.index("step") + 1, ACTIONS.index("mutate")
    assert len(set(found.device[second:])) == 1, f"bytes after {ACTIONS}: {found.device}"
    for steps in (found.host[second : second + 2], found.host[mutation + 1 :]):  # a mutation may take other structures
        assert max(steps) - min(steps) <= HOST_GROWTH


@pytest.mark.parametrize(("network", "number"), NUMBERED)
def test_limits_hold(network: str, number: int, trained: Callable[[str], dict[str, Measured]]) -> None:
    name = f"limit {number}"
    scheme, chosen = options(network)[name]
    artifact = compiled(network, scheme, chosen)
    assert planned_peak(artifact) <= chosen.memory_limit - host(artifact)
    assert trained(network)[name].device_peak <= chosen.memory_limit - host(artifact)


@networks
def test_the_plan_is_the_sum_of_its_parts(network: str) -> None:
    for name, how in options(network).items():
        memory = compiled(network, *how).manifest["memory"]
        assert sum(memory["planned"].values()) == memory["planned_peak"], name


def test_no_step_fits_below_the_smallest_limit() -> None:
    with pytest.raises(MemoryLimitError, match=r"takes at least .* more than the limit of") as caught:
        compiled("small", "block", StepOptions(memory_limit=smallest("small") - 1))
    assert caught.value.smallest == smallest("small")


def test_every_way_to_allocate_is_counted(library: Path) -> None:
    lines = [list(map(int, line.split())) for line in run(library, [ALLOCATING]).splitlines()]
    assert {line[0] for line in lines} == {DEVICE, ALIGNED, ORDINARY, MAPPED}
    for kind, grown, peak, left, *blocks in lines:
        slack = 1 << 14 if kind == ORDINARY else 0  # usable bytes, and Python's own objects meanwhile
        assert SIZE <= grown <= SIZE + slack and grown <= peak <= grown + slack and abs(left) <= slack
        assert kind == ORDINARY or blocks == [1, 0]
