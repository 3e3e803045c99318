"""The batches of an epoch, in a random order, augmented, and prepared some ahead on a thread of their own."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mest_compiler.errors import DataError
from mest_compiler.training.examples import Examples
from mest_compiler.training.streams import stream

T = TypeVar("T")

# Enough to ride over a batch that takes long to load; each one more is memory for another batch.
AHEAD = 3


def steps_per_epoch(n: int, batch: int) -> int:
    """How many whole batches `n` examples make; DataError when there is not even one."""
    if n < batch:
        raise DataError(f"the training set has {n} examples, fewer than one batch of {batch}: choose a smaller batch")
    return n // batch


def batches(n: int, batch: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Index arrays (int64 [batch]) that visit `n` examples in a random order, in whole batches only."""
    order = rng.permutation(n)
    for step in range(steps_per_epoch(n, batch)):
        yield order[step * batch : (step + 1) * batch]


@dataclass(frozen=True)
class Batch:
    """One step's examples.

    ids: int64 [batch], numbers of all its examples in the training set; inputs, targets: [share, ...] by name, those of
    this process's share, which is all of them in a single process.
    """

    ids: np.ndarray
    inputs: Mapping[str, np.ndarray]
    targets: Mapping[str, np.ndarray]


def epoch_batches(
    data: Examples,
    batch: int,
    *,
    active: np.ndarray,
    share: slice,
    seed: int,
    epoch: int,
    first_step: int = 0,
    augmented: bool,
) -> Generator[Batch, None, None]:
    """The batches of an epoch over the examples `active` (numbers, int64) from `first_step` on, prepared ahead.

    The order depends on (seed, epoch) and the augmentation on (seed, epoch, step), so a run that resumes in
    the middle of an epoch sees the batches the uninterrupted run sees, and the shares of several processes make up the
    batch that a single one sees.
    """
    chosen = [active[places] for places in batches(len(active), batch, stream(seed, "order", epoch))]

    def prepare(step: int) -> Batch:
        ids = chosen[step]
        rng = stream(seed, "augment", epoch, step) if augmented else None
        return Batch(ids, data.train_inputs(ids, rng, share), data.train_targets(ids[share]))

    return made_ahead(prepare, range(first_step, len(chosen)))


def made_ahead(make: Callable[[int], T], steps: range) -> Generator[T, None, None]:
    """Yield make(step) for every step, in order, while a thread makes the next AHEAD ones.

    An error in `make` is raised here, at its step. Closing the generator waits for the one that is being made and
    drops the others.
    """
    # One thread: it keeps the order, and data that are slow to load spread a batch over threads themselves.
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mest-batches")
    try:
        pending = deque(pool.submit(make, step) for step in steps[:AHEAD])
        for following in range(AHEAD, AHEAD + len(steps)):
            made = pending.popleft().result()
            if following < len(steps):
                pending.append(pool.submit(make, steps[following]))
            yield made
    finally:
        pool.shutdown(cancel_futures=True)
