"""The batches of an epoch, in a random order, augmented, and prepared one ahead on a thread of their own."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from mest_compiler.errors import DataError
from mest_compiler.training.augment import augment
from mest_compiler.training.data import DataSet
from mest_compiler.training.streams import stream

Batch = tuple[np.ndarray, np.ndarray]
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


def epoch_batches(
    data: DataSet, batch: int, *, seed: int, epoch: int, first_step: int = 0, augmented: bool
) -> Generator[Batch, None, None]:
    """The batches (x float32 [batch, C, H, W], y int64 [batch]) of an epoch from `first_step` on, each
    prepared one ahead.

    The order depends on (seed, epoch) and the augmentation on (seed, epoch, step), so a run that resumes in
    the middle of an epoch sees the batches the uninterrupted run sees.
    """
    chosen = list(batches(len(data.train_y), batch, stream(seed, "order", epoch)))

    def prepare(step: int) -> Batch:
        x, y = data.train_x[chosen[step]], data.train_y[chosen[step]]
        if augmented and data.augmentation is not None:
            x = augment(x, stream(seed, "augment", epoch, step), data.augmentation, data.black)
        return x, y

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
