"""The knobs that a search may try on OpenCL: the default first, only what a device allows, and each makes a kernel."""

from __future__ import annotations

import itertools

import pytest

from mest_compiler.devices.opencl import OpenClProfile
from mest_compiler.kernels.problem import DIRECTIONS, LayerProblem
from mest_compiler.schedules.candidates import candidates
from mest_compiler.tuning.search import untried
from mest_compiler.tuning.tasks import offered, task_of
from mest_compiler.tuning.trial_runner import TaskState

from ..convolutions import Conv
from ..sparse_layers import fitted
from .test_choose import VEC, layer_of

PHONE = OpenClProfile("a phone", work_group=256)
CONV = Conv(8, 8, (8, 8), batch=64)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("scheme", ["unstructured", "block", "pattern", "channel", "dense"])
def test_space(scheme: str, direction: str) -> None:
    layer = LayerProblem(CONV.geometry(VEC)) if scheme == "dense" else layer_of(fitted(CONV, scheme), scheme, 0.5)
    for choice in offered(direction, layer, PHONE):
        task = task_of(direction, choice, layer)
        space, default = task.space(PHONE), task.default(PHONE)
        assert len(space) >= 3
        assert {name: int(getattr(default.knobs, name)) for name in space} == {n: v[0] for n, v in space.items()}
        assert task.allows(PHONE, {name: values[0] for name, values in space.items()})
        drawn = [knobs for _, knobs in itertools.islice(untried(TaskState(task, None, space), PHONE, 0), 5)]
        assert len(drawn) == 5
        for knobs in drawn:
            assert task.made(PHONE, knobs).make() is not None


def test_what_limits_forbid() -> None:
    layer = layer_of(CONV, "block", 0.5)
    for direction, knobs in (
        ("forward", {"rows": 4, "cols": 8}),
        ("forward", {"tiles": 16, "parts": 16}),
        ("backward_weight", {"rows": 16, "shares": 16}),
        ("backward_weight", {"entries": 12}),
    ):
        task = task_of(direction, candidates(direction, PHONE, layer)[0], layer)
        assert not task.allows(PHONE, knobs), (direction, knobs)
