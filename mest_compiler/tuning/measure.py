"""The measuring side: a task's arguments on a device, what its kernel must give, and how long it takes.

Everything here runs in a worker's process, which a wrong candidate may take down.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import tvm

from mest_compiler.devices import Device, local_cpu
from mest_compiler.errors import DeviceError, DeviceLostError, TuningError
from mest_compiler.kernels.geometry import Plane
from mest_compiler.kernels.index_arrays import forms_of, index_arrays
from mest_compiler.linking import library_bytes
from mest_compiler.pace import Pacer
from mest_compiler.runtime.hosts import KernelHost, LocalHost
from mest_compiler.schedules.choice import Choice

from .definitions import definition
from .fastest import SEED, random_structure
from .layer_run import built
from .tasks import Task

LARGEST = 2
"""Of the whole numbers that tasks are run on: sums of their products are the same in any order, to the last bit."""


@dataclass(frozen=True)
class EvaluatorConfig:
    """How a candidate is timed: `repeats` means of `repeat_ms` each, and while their smallest ones are further apart
    than `spread`, after a pause as many again, `rounds` times at most. turns: of a last comparison. patience_s: that
    each time and each turn may wait on this machine until nothing else slows its cores (see `pace`)."""

    repeats: int = 3
    repeat_ms: int = 15
    spread: float = 0.02
    rounds: int = 4
    pause_s: float = 0.1
    turns: int = 9
    patience_s: float = 1.0


class Bench:
    """A task's arguments on a host, kept from candidate to candidate, and what its kernels must give."""

    def __init__(self, task: Task, device: Device, host: KernelHost) -> None:
        self.task, self.host, self.dev = task, host, host.device(device.kind)
        g, rng = task.problem.geometry, np.random.default_rng(SEED)
        sparse = task.problem.sparse
        self._structure = None if sparse is None else random_structure(sparse)

        def planes(count: int, plane: Plane) -> np.ndarray:
            values = np.zeros((g.tiles, count, plane.rows, plane.cols, g.lanes), g.dtype)
            b = plane.border
            inside = values[:, :, b : b + plane.height, b : b + plane.width]
            inside[...] = rng.integers(-LARGEST, LARGEST + 1, inside.shape, np.int8)
            return values.reshape(g.tiles, count * plane.size, g.lanes)

        x, dy = planes(g.channels, g.x), planes(g.filters, g.dy)
        weight = rng.integers(-LARGEST, LARGEST + 1, task.problem.held_shape, np.int8).astype(g.dtype)
        self._inputs = {"forward": (x, weight), "backward_data": (dy, weight), "backward_weight": (x, dy)}[
            task.direction
        ]
        rows = {"forward": g.filters * g.y.size, "backward_data": g.channels * g.dx.size}.get(task.direction)
        self._output = weight.shape if rows is None else (g.tiles, rows, g.lanes)
        self._sent = [self._tensor(array) for array in self._inputs]
        self._expected: np.ndarray | None = None

    def _tensor(self, array: np.ndarray) -> tvm.runtime.Tensor:
        return tvm.runtime.tensor(np.ascontiguousarray(array), self.dev)

    def _indices(self, groups: int, family: str) -> list[np.ndarray]:
        layer, direction = self.task.problem, self.task.direction
        if layer.sparse is None:
            return []
        used = family, groups
        arrays = index_arrays(self._structure, layer, {direction: used})
        return [arrays[name] for name in forms_of(layer, direction, used)]

    def arguments(self, choice: Choice) -> tuple[list[tvm.runtime.Tensor], tvm.runtime.Tensor]:
        """A kernel's arguments in order, and the one that it writes, which holds no number yet."""
        out = self._tensor(np.full(self._output, np.nan, self.task.problem.geometry.dtype))
        indices = [self._tensor(a) for a in self._indices(choice.knobs.groups, self.task.family)]
        if self.task.direction == "backward_weight":
            room = choice.workspace
            rest = [] if room is None else [self._tensor(np.full(room, np.nan, self.task.problem.geometry.dtype))]
            return [*self._sent, *indices, out, *rest], out
        return [*self._sent, *indices, out], out

    def expected(self) -> np.ndarray:
        """What the definition gives, run on this machine's CPU."""
        if self._expected is None:
            g, host = self.task.problem.geometry, local_cpu(1)
            module = tvm.IRModule({"main": definition(self.task).with_attr("global_symbol", "main")})
            out = tvm.runtime.tensor(np.full(self._output, np.nan, g.dtype))
            room = [np.zeros((int(np.prod(self._output)), g.lanes), g.dtype)]
            arrays = [*self._inputs, *self._indices(1, self.task.family)]
            inputs = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays]
            rest = [tvm.runtime.tensor(a) for a in room] if self.task.direction == "backward_weight" else []
            tvm.tirx.build(module, target=host.target)["main"](*inputs, out, *rest)
            self._expected = out.numpy()
        return self._expected

    def seconds(self, library: bytes, choice: Choice, config: EvaluatorConfig) -> list[float]:
        """Runs a candidate, compares all that it wrote with the definition, and times it.

        Raises:
            TuningError: it computes something else.
        """
        times = self.checked(library, choice)
        return settled(lambda: self.calmly(lambda: times(config.repeats, config.repeat_ms), config), config)

    def calmly(self, times: Callable[[], Sequence[float]], config: EvaluatorConfig) -> list[float]:
        """What `times` gives, on this machine once more while something else slows its cores; see `Pacer.takes`."""
        takes = _pacer.takes(times, config.patience_s) if isinstance(self.host, LocalHost) else [times()]
        return list(chain.from_iterable(takes))

    def checked(self, library: bytes, choice: Choice) -> Callable[[int, int], Sequence[float]]:
        """What times a candidate that is right: called with how many means of at least so many ms it is to take.

        Raises:
            TuningError: it computes something else.
        """
        module = self.host.load(library)
        args, out = self.arguments(choice)
        module["main"](*args)
        self.dev.sync()
        found, wanted = out.numpy(), self.expected()
        if not np.array_equal(found, wanted):
            with np.errstate(invalid="ignore"):
                wrong = np.count_nonzero(found != wanted)
            raise TuningError(f"The candidate is wrong in {wrong} of {wanted.size} numbers.")
        return lambda repeats, ms: (
            module.time_evaluator("main", self.dev, number=1, repeat=repeats, min_repeat_ms=ms)(*args).results
        )


def settled(times: object, config: EvaluatorConfig) -> list[float]:
    """The smallest of all times that `times()` gives, as many as it gives at once: what disturbs only adds."""
    found: list[float] = []
    for number in range(config.rounds):
        if number:
            time.sleep(config.pause_s)
        found = sorted([*found, *times()])
        kept = found[: config.repeats]
        if kept[-1] <= kept[0] * (1 + config.spread):
            break
    return kept


Opener = Callable[[], KernelHost]
"""Opens a host in the process that measures there, once."""

_pacer = Pacer()
_benches: dict[tuple[str, str], Bench] = {}
_hosts: list[KernelHost] = []  # one: a worker measures on one host


def begin() -> None:
    """A worker's first errand: Ctrl-C is for the process that it works for, which then ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def measure(
    task: Task, device: Device, knobs: Mapping[str, int], library: str, opener: Opener | None, config: EvaluatorConfig
) -> list[float]:
    """Seconds of a candidate whose library lies in a file: a worker's errand. opener: None: of this process.

    Raises:
        TuningError: the candidate is wrong, or the host refused it. DeviceLostError: the host went away meanwhile;
            the next errand opens it again. DeviceError: it cannot be opened.
    """
    with _bench(task, device, opener) as bench:
        return bench.seconds(Path(library).read_bytes(), task.made(device, knobs), config)


def compare(
    task: Task, device: Device, knobs: Sequence[Mapping[str, int]], libraries: Sequence[str], opener: Opener | None,
    config: EvaluatorConfig,
) -> list[list[float]]:  # fmt: skip
    """Seconds of some candidates, taken in turns, as many each as `config.turns`: a worker's errand; raises as
    `measure` does."""
    with _bench(task, device, opener) as bench:
        timed = [
            bench.checked(Path(library).read_bytes(), task.made(device, some))
            for some, library in zip(knobs, libraries, strict=True)
        ]
        found: list[list[float]] = [[] for _ in timed]
        for _ in range(config.turns):
            turn = bench.calmly(lambda: [times(1, config.repeat_ms)[0] for times in timed], config)
            for seconds, one in zip(found, turn[-len(timed) :], strict=True):
                seconds.append(one)
        return found


@contextmanager
def _bench(task: Task, device: Device, opener: Opener | None) -> Iterator[Bench]:
    host = _host(device, opener)
    try:
        with host.during("the measurement of a candidate"):
            yield _kept(task, device, host)
    except DeviceLostError:
        _hosts.clear()
        _benches.clear()
        raise
    except DeviceError as error:  # the host is well
        raise TuningError(str(error)) from error


def _host(device: Device, opener: Opener | None) -> KernelHost:
    if not _hosts:
        try:
            _hosts.append(LocalHost(device) if opener is None else opener())
        except DeviceError as error:
            raise DeviceError(str(error)) from error  # not a lost one: nothing was measured yet
    return _hosts[0]


def _kept(task: Task, device: Device, host: KernelHost) -> Bench:
    key = task.key, repr(device)
    if key not in _benches:
        _benches.clear()  # one task's arguments are held at a time
        _benches[key] = Bench(task, device, host)
    return _benches[key]


def build(task: Task, device: Device, knobs: Mapping[str, int], library: str) -> None:
    """Builds a candidate's library into a file: a worker's errand.

    Raises:
        TuningError: the device's limits forbid it. DeviceError: they forbid what was generated, or it cannot be linked.
    """
    made = built(task.made(device, knobs).make(), device)
    Path(library).write_bytes(library_bytes(made, device))
