"""Whether something else slows this machine's cores just now, by a loop that is always the same.

Where two tenants share a core, each slows the other, and kernels that live on loads more than those that live on
arithmetic: times taken meanwhile compare two mixtures. So a turn begins when the cores beat as fast as they ever did,
and counts when they still do at its end; see `bench.rounds`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import TypeVar

WAIT = "MEST_WAIT_FOR_CALM"
"""Environment variable: 0 lets every measurement begin at once and count as it is."""
LOOPS = 100_000
"""Of a beat: about a millisecond, longer than a timer's tick disturbs."""
MOST_CORES = 8
"""Cores that are looked at."""
SLOWED = 1.15
"""Times a beat's shortest length from which on a core is slowed."""
IDLE_S = 0.25
"""Within which the threads of a pool have stopped spinning after a call."""
LOOKS, LOOK_S = 25, 0.02
"""Looks at the cores by which their pace is known at first, and seconds between two looks."""

T = TypeVar("T")


def beats() -> dict[str, float]:
    """Milliseconds of a beat on each core this thread may use, the shorter of two; {} where no core can be chosen."""
    if not hasattr(os, "sched_getaffinity"):
        return {}
    allowed = os.sched_getaffinity(0)
    try:
        return {str(core): min(_beat(core), _beat(core)) for core in sorted(allowed)[-MOST_CORES:]}
    except OSError:  # a sandbox forbids it, or a core went away
        return {}
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, allowed)


def _beat(core: int) -> float:
    os.sched_setaffinity(0, {core})
    start = time.perf_counter()
    for _ in range(LOOPS):
        pass
    return 1e3 * (time.perf_counter() - start)


def slowed(found: Mapping[str, float], fastest: Mapping[str, float]) -> float:
    """How many times longer than its shortest beat the slowest core's is; 1.0 where nothing is known."""
    return max((ms / fastest[core] for core, ms in found.items() if core in fastest), default=1.0)


def calm(fastest: Mapping[str, float], wait: float) -> tuple[dict[str, float], float]:
    """The cores' beats as soon as none is slowed, or after `wait` seconds; and the seconds waited."""
    begin, found = time.monotonic(), beats()
    if slowed(found, fastest) < SLOWED:
        return found, 0.0
    while (waited := time.monotonic() - begin) < wait and slowed(found, fastest) >= SLOWED:
        time.sleep(LOOK_S)
        found = beats()
    return found, waited


def allowed(seconds: float) -> float:
    """Of so many seconds to wait for calm those that the user allows."""
    return 0.0 if os.environ.get(WAIT) == "0" else seconds


def first_look() -> dict[str, float]:
    """The shortest of each core's beats in a while."""
    fastest: dict[str, float] = {}
    for _ in range(LOOKS):
        learn(fastest, beats())
        time.sleep(LOOK_S)
    return fastest


def learn(fastest: dict[str, float], found: Mapping[str, float]) -> None:
    """Remembers beats that are shorter than those known."""
    for core, ms in found.items():
        fastest[core] = min(ms, fastest.get(core, ms))


@dataclass
class Pacer:
    """Measures in calm. patience: seconds in all that are still there to wait for it and to measure again."""

    patience: float = inf
    fastest: dict[str, float] = field(default_factory=dict)

    def takes(self, take: Callable[[], T], most: float = inf) -> list[T]:
        """What `take` gave, once and again while something else slowed a core, for `most` seconds more at most."""
        found: list[T] = []
        left = share = allowed(min(self.patience, most))
        if share <= 0:
            return [take()]  # whatever the cores do
        if not self.fastest:
            self.fastest = first_look()
        while True:
            before, waited = calm(self.fastest, left)
            begin = time.monotonic()
            found.append(take())
            left -= waited + (time.monotonic() - begin if len(found) > 1 else 0.0)
            after, _ = calm(self.fastest, IDLE_S)
            for seen in (before, after):
                learn(self.fastest, seen)
            if left <= 0 or max(slowed(before, self.fastest), slowed(after, self.fastest)) < SLOWED:
                self.patience -= share - left
                return found
