"""The batches of an epoch, in a random order, augmented, and prepared one ahead on a thread of their own."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mest_compiler.errors import DataError
from mest_compiler.training.data import DataSet
from mest_compiler.training.streams import stream

T = TypeVar("T")


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

    ids: int64 [batch], numbers of all its examples in the training set; x: float32 [share, C, H, W] and y: int64
    [share], those of this process's share, which is all of them in a single process.
    """

    ids: np.ndarray
    x: np.ndarray
    y: np.ndarray


def epoch_batches(
    data: DataSet,
    batch: int,
    *,
    active: np.ndarray,
    share: slice,
    seed: int,
    epoch: int,
    first_step: int = 0,
    augmented: bool,
) -> Generator[Batch, None, None]:
    """The batches of an epoch over the examples `active` (numbers, int64) from `first_step` on, prepared one ahead.

    The order depends on (seed, epoch) and the augmentation on (seed, epoch, step), so a run that resumes in
    the middle of an epoch sees the batches the uninterrupted run sees, and the shares of several processes make up the
    batch that a single one sees.
    """
    chosen = [active[places] for places in batches(len(active), batch, stream(seed, "order", epoch))]

    def prepare(step: int) -> Batch:
        ids = chosen[step]
        rng = stream(seed, "augment", epoch, step) if augmented else None
        return Batch(ids, data.train_images(ids, rng, share), data.train_y[ids[share]])

    return one_ahead(prepare, range(first_step, len(chosen)))


def one_ahead(make: Callable[[int], T], steps: range) -> Generator[T, None, None]:
    """Yield make(step) for every step, while a thread makes the next; errors in `make` are raised here."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="mest-batches") as pool:
        pending = [pool.submit(make, step) for step in steps[:1]]
        for following in range(1, len(steps) + 1):
            made = pending.pop().result()
            if following < len(steps):
                pending.append(pool.submit(make, steps[following]))
            yield made
