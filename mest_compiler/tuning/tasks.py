"""What is tuned: one kernel of one convolution. Layers of one shape, scheme and capacity are one task."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import tvm

from mest_compiler.devices import Device
from mest_compiler.errors import DeviceError, TuningError
from mest_compiler.kernels.families import FAMILIES
from mest_compiler.kernels.problem import DIRECTIONS, LayerProblem
from mest_compiler.schedules.candidates import candidates, generator
from mest_compiler.schedules.choice import Choice

FACTS = "mest.task"
"""Attribute of a task's function that holds its `facts`, and what they begin with."""


class Layer(Protocol):
    """A layer of a compiled step, see `passes.tiling.state.LayerKernels`."""

    problem: LayerProblem
    choices: dict[str, Choice]


@dataclass(frozen=True)
class Task:
    """One kernel (by its name and its family) of a direction of a layer.

    Made by `task_of`, which leaves out what the kernel does not depend on.
    """

    direction: str
    kernel: str
    family: str
    problem: LayerProblem

    def default(self, device: Device) -> Choice:
        """The kernel with its default knobs."""
        return next(
            c
            for c in offered(self.direction, self.problem, device)
            if (c.kernel, c.family) == (self.kernel, self.family)
        )

    def space(self, device: Device) -> dict[str, list[int]]:
        """Knobs and the values to try, the default first."""
        return generator(device, self.family).space(self.direction, self.default(device), device, self.problem)

    def made(self, device: Device, knobs: Mapping[str, int], default: Choice | None = None) -> Choice:
        """The kernel with these knobs. default: `default(device)`, where it is there already.

        Raises:
            TuningError: the device's limits forbid it.
        """
        try:
            choice = (default or self.default(device)).with_knobs(**knobs)
        except DeviceError as error:
            raise TuningError(str(error)) from error
        reason = generator(device, self.family).refusal(self.direction, choice, device, self.problem)
        if reason is not None:
            raise TuningError(f"The candidate is beyond the limits of the device: {reason}.")
        return choice

    def allows(self, device: Device, knobs: Mapping[str, int], default: Choice | None = None) -> bool:
        """Whether the device's limits allow these knobs."""
        try:
            self.made(device, knobs, default)
        except TuningError:
            return False
        return True

    @cached_property
    def key(self) -> str:
        """All of it as JSON, by which it is found again."""
        said = {"direction": self.direction, "kernel": self.kernel, "indexing": self.family}
        said["layer"] = self.problem.to_json()
        return json.dumps(said, sort_keys=True)

    def __str__(self) -> str:
        g, sparse = self.problem.geometry, self.problem.sparse
        stride = f",s{g.stride[0]}" if g.stride != (1, 1) else ""
        grouped = f",g{g.groups}" if g.groups > 1 else ""
        kept = ""
        if sparse is not None:
            kept = f" {sparse.scheme} {1 - self.problem.kept:.3g}"
        kernel = f"{g.kernel[0]}" if g.kernel[0] == g.kernel[1] else f"{g.kernel[0]}x{g.kernel[1]}"
        shape = f"{g.channels},{g.filters},{kernel},{g.dx.height}x{g.dx.width}{stride}{grouped}"
        return f"{self.kernel} {shape}{kept}{' by rows of places' if self.family == 'taps' else ''}"


def task_of(direction: str, choice: Choice, problem: LayerProblem) -> Task:
    """The task that a kernel belongs to: without borders that only neighbours want, and without the sparsity of a layer
    whose zeros are kept."""
    geometry = problem.geometry
    g = replace(
        geometry,
        x=replace(geometry.x, border=geometry.needed_x_border),
        y=replace(geometry.y, border=0),
        dy=replace(geometry.dy, border=geometry.needed_dy_border),
        dx=replace(geometry.dx, border=0),
    )
    return Task(direction, choice.kernel, *FAMILIES[choice.family].tuned_as(replace(problem, geometry=g)))


def tasks_of(layers: Iterable[Layer], device: Device) -> dict[Task, float]:
    """Task -> how often a step runs it: every kernel in the running for each direction of the layers.

    A kernel that is not the probable one counts as half: it may be chosen yet.
    """
    found: Counter[Task] = Counter()
    for layer in layers:
        found.update(_of_directions(layer.choices, layer.problem, device))
    return {task: count / 2 for task, count in found.items()}


def tasks_of_layer(problem: LayerProblem, device: Device) -> dict[Task, float]:
    """The same of one layer with all its directions."""
    return {task: count / 2 for task, count in _of_directions(DIRECTIONS, problem, device).items()}


def _of_directions(directions: Iterable[str], problem: LayerProblem, device: Device) -> Counter[Task]:
    """Twice how often."""
    found: Counter[Task] = Counter()
    for direction in directions:
        for number, choice in enumerate(offered(direction, problem, device)):
            found[task_of(direction, choice, problem)] += 1 if number else 2
    return found


def offered(direction: str, problem: LayerProblem, device: Device) -> list[Choice]:
    """The kernels in the running, the probable one first."""
    return candidates(direction, device, problem)


def facts(task: Task, device: Device) -> str:
    """What a record of the task holds true for, as JSON: {"tvm", "device", "task"}."""
    said = {"tvm": tvm.__version__, "device": described(device), "task": json.loads(task.key)}
    return FACTS + " " + json.dumps(said, sort_keys=True)


def read_facts(text: str) -> dict[str, Any] | None:
    """What `facts` wrote, with the task as its `Task.key`; None for any other text."""
    if not text.startswith(FACTS + " "):
        return None
    said = json.loads(text.removeprefix(FACTS))
    return {**said, "task": json.dumps(said["task"], sort_keys=True)}


def described(device: Device) -> dict[str, Any]:
    """A device as records name it; without "hardware" where it is not known, as in records from before it was asked."""
    said = {"kind": device.kind, **asdict(device)}
    if not said.get("hardware"):
        said.pop("hardware", None)
    return json.loads(json.dumps(said))


def task_from(key: Mapping[str, Any]) -> Task:
    """The task of a parsed `Task.key`."""
    return Task(key["direction"], key["kernel"], key["indexing"], LayerProblem.from_json(key["layer"]))
