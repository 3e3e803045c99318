"""Contestants timed in alternating rounds, so that what slows the machine for a while slows all of them
alike.

All processes are alive from the first to the last round; the one whose turn it is has the machine to itself,
since the others are blocked reading (no spinning threads of another pool, see worker.py). A turn during which
something else slowed a core (see pace.py) is taken again, whosever it was, within limits.
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mest_compiler import pace
from mest_compiler.bench.child import Child, Contestant
from mest_compiler.bench.machine import available_cores
from mest_compiler.errors import BenchError

FEW_S = 1e-6
"""Seconds of a turn that warms up and then runs once."""

MOST_WAIT_S = 5.0
"""That one turn waits for slowed cores, and is taken again, at most."""

FEWEST, FEWEST_SHARE = 3, 0.4
"""Rounds that count at least, calm or not; and of many rounds, the share of them: a median of few is one of luck."""

Progress = Callable[[int, int, str], None]
"""Called as (turns done, turns in all, name of the contestant whose turn comes next or ended last)."""


@dataclass(frozen=True)
class Limits:
    """How long things may take, in seconds; a turn lasts `turn` at least and `ask` at most. patience: what a turn may
    cost on average to wait for cores that something else slows, and to be taken again."""

    build: float = 900.0
    ask: float = 300.0
    turn: float = 0.15
    patience: float = 2.0


@dataclass(frozen=True)
class Timing:
    """Times of one contestant: a sample (ms, mean of the repeats of one turn) a round. Median and spread are those of
    the calm rounds, in which nothing else slowed a core (see pace.py), or of the fewest that count, those that were
    slowed the least.

    `extra`: "min_ms" (fastest single repeat of all), "repeats" (per round), "slowed" (per round: how
    many times longer a core's beat was than its shortest one), "again" (turns taken again), "build_s", "peak_rss_mb"
    (MiB), "result" (what the contestant's `result()` said) and "outputs" (path of its saved arrays or None).
    """

    samples: list[float]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def counted(self) -> list[float]:
        """The samples that count, ms: which ones they are is decided by the cores' beats, never by a sample."""
        return [ms for _, ms in self._counted()]

    @property
    def slowed(self) -> float:
        """How many times longer than its shortest one a core's beat was in the worst of the rounds that count."""
        return max(ratio for ratio, _ in self._counted())

    def _counted(self) -> list[tuple[float, float]]:
        found = sorted(zip(self.extra.get("slowed", [1.0] * len(self.samples)), self.samples, strict=True))
        fewest = max(FEWEST, round(FEWEST_SHARE * len(found)))
        return [one for number, one in enumerate(found) if number < fewest or one[0] < pace.SLOWED]

    @property
    def median(self) -> float:
        """Median of the counted samples, ms."""
        return statistics.median(self.counted)

    @property
    def spread(self) -> float:
        """Largest minus smallest counted sample, as a fraction of the median."""
        return (max(self.counted) - min(self.counted)) / self.median

    def to_json(self) -> dict[str, Any]:
        """All of it for a result file."""
        return {
            "median_ms": self.median,
            "spread": self.spread,
            "counted": len(self.counted),
            "samples_ms": self.samples,
            **self.extra,
        }


def interleave(
    contestants: Sequence[Contestant],
    rounds: int,
    progress: Progress | None = None,
    *,
    outputs: Path | None = None,
    limits: Limits | None = None,
) -> dict[str, Timing]:
    """Time `contestants` in `rounds` alternating rounds (forwards, backwards, forwards, ...); a Timing by
    name.

    With `outputs`, an existing folder, every contestant saves its arrays as `<name>.npz` there before it is
    timed, while its state is still the initial one. A contestant of one thread is bound to one core, the same
    for all of them.

    Raises BenchError for contestants that cannot be told apart or want more threads than there are cores, and
    for one that raises, dies or exceeds `limits`; all processes have ended when this returns or raises.
    """
    limits = limits or Limits()
    _check(contestants, rounds)
    samples: dict[str, list[dict[str, Any]]] = {contestant.name: [] for contestant in contestants}
    extra: dict[str, dict[str, Any]] = {}
    total = rounds * len(contestants)
    taker = _Taker(limits, total)
    with ExitStack() as stack:
        children = []
        for contestant in contestants:  # one after another: a compilation may need all cores and much memory
            child = stack.enter_context(Child(contestant, _core(contestant.threads)))
            extra[child.name] = {"build_s": child.wait_built(limits.build)}
            children.append(child)
        for child in children:
            extra[child.name]["outputs"] = _save_outputs(child, outputs, limits)
        for done, child in enumerate(turns(children, rounds)):
            if progress is not None:
                progress(done, total, child.name)
            samples[child.name].append(taker.turn(child))
        for child in children:
            extra[child.name] |= child.ask("result", limits.ask)
    if progress is not None:
        progress(total, total, children[-1].name)
    return {name: _timing(turns_of_one, extra[name]) for name, turns_of_one in samples.items()}


class _Taker:
    """Takes turns, and those again that something else slowed, while there is patience left."""

    def __init__(self, limits: Limits, turns: int) -> None:
        self._limits, self._left = limits, pace.allowed(limits.patience * turns)
        self._fastest = pace.first_look() if self._left else {}

    def turn(self, child: Child) -> dict[str, Any]:
        """A turn, of several the one that was slowed the least, with how often it was taken again."""
        found: list[dict[str, Any]] = []
        left = allowed = min(self._left, MOST_WAIT_S)
        while True:
            begin = time.monotonic()
            answer = child.ask(
                "turn", self._limits.ask + left, seconds=self._limits.turn, fastest=self._fastest, wait=left
            )
            left -= time.monotonic() - begin if found else answer["waited"]
            found.append(answer)
            for beats in answer["beats"]:
                pace.learn(self._fastest, beats)
            best = min(found, key=self._slowed)
            if left <= 0 or self._slowed(best) < pace.SLOWED:
                self._left = max(0.0, self._left - (allowed - left))
                return best | {"slowed": self._slowed(best), "again": len(found) - 1}

    def _slowed(self, answer: Mapping[str, Any]) -> float:
        return max(pace.slowed(beats, self._fastest) for beats in answer["beats"])


def run_alone(contestant: Contestant, limits: Limits | None = None) -> dict[str, Any]:
    """What a contestant says about itself (its `result`) after some runs that nobody times.

    Raises BenchError as `interleave`; its process has ended when this returns or raises.
    """
    limits = limits or Limits()
    _check([contestant], 1)
    with Child(contestant, _core(contestant.threads)) as child:
        child.wait_built(limits.build)
        child.ask("turn", limits.ask, seconds=FEW_S, fastest={}, wait=0.0)
        return child.ask("result", limits.ask)["result"]


def turns(children: Sequence[Any], rounds: int) -> list[Any]:
    """Who runs when: every round all of them, every other round in reverse."""
    return [child for number in range(rounds) for child in (children if number % 2 == 0 else children[::-1])]


def fastest(timings: Mapping[str, Timing], prefix: str) -> str:
    """Name of the contestant with the smallest median among those whose names begin with `prefix`."""
    names = [name for name in timings if name.startswith(prefix)]
    if not names:
        raise BenchError(f"no contestant's name begins with '{prefix}'; there are: {', '.join(timings) or 'none'}")
    return min(names, key=lambda name: timings[name].median)


def _check(contestants: Sequence[Contestant], rounds: int) -> None:
    names = [contestant.name for contestant in contestants]
    if not names or len(set(names)) < len(names):
        raise BenchError(f"contestants need names of their own, and these are: {', '.join(names) or 'none'}")
    if rounds < 1:
        raise BenchError(f"a comparison needs at least one round, not {rounds}")
    for contestant in contestants:
        if not 1 <= contestant.threads <= available_cores():
            raise BenchError(
                f"contestant '{contestant.name}' cannot have {contestant.threads} threads on "
                f"{available_cores()} available cores; choose a number between"
            )


def _core(threads: int) -> int | None:
    """The core of a contestant of one thread: the last one, since the first ones tend to serve interrupts."""
    if threads > 1 or not hasattr(os, "sched_getaffinity"):
        return None
    return max(os.sched_getaffinity(0))


def _save_outputs(child: Child, folder: Path | None, limits: Limits) -> str | None:
    if folder is None:
        return None
    path = str(folder.resolve() / f"{child.name}.npz")
    return path if child.ask("outputs", limits.ask, path=path)["saved"] else None


def _timing(turns_of_one: list[dict[str, Any]], extra: dict[str, Any]) -> Timing:
    return Timing(
        samples=[turn["mean_ms"] for turn in turns_of_one],
        extra={
            "min_ms": min(turn["min_ms"] for turn in turns_of_one),
            "repeats": [turn["repeats"] for turn in turns_of_one],
            "slowed": [turn["slowed"] for turn in turns_of_one],
            "again": sum(turn["again"] for turn in turns_of_one),
            **extra,
        },
    )
