"""The processes that train one network together, each on its share of every batch; most often there is but one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np
from torch import nn


class Ranks(Protocol):
    """What the loop and the torch engine ask of a group of processes.

    rank: number of this process, from 0; rank 0 writes the run's files. size: how many there are.
    """

    rank: int
    size: int

    def local(self, device: str) -> str:
        """The device that this process trains on where a person asked for `device`."""
        ...

    def share(self, n: int) -> slice:
        """Which of the n examples of a batch are this process's; all shares are equally large."""
        ...

    def prepared(self, model: nn.Module) -> nn.Module:
        """The model with its batch norms taking their statistics over the whole batch."""
        ...

    def parallel(self, model: nn.Module) -> nn.Module:
        """A wrapper of the model whose backward pass averages gradients over all processes."""
        ...

    def gathered(self, loss: float, scores: np.ndarray, digest: int) -> tuple[float, np.ndarray]:
        """(mean loss, scores of the examples of the whole batch) from this process's share; scores: bool or float64.

        digest: of its masks; MestError where the processes' digests differ.
        """
        ...

    def total(self, part: float) -> float:
        """Sum over the processes."""
        ...

    def barrier(self) -> None:
        """Wait until all processes are here."""
        ...

    def guarded(self) -> AbstractContextManager[None]:
        """For code that talks to the other processes by itself, as a backward pass of `parallel`'s model does.

        DeviceError where one of them is lost.
        """
        ...

    def close(self) -> None:
        """The last call."""
        ...


class SingleProcess:
    """One process."""

    rank, size = 0, 1

    def local(self, device: str) -> str:
        """The device as it is."""
        return device

    def share(self, n: int) -> slice:
        """All."""
        return slice(0, n)

    def prepared(self, model: nn.Module) -> nn.Module:
        """The model as it is."""
        return model

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model as it is."""
        return model

    def gathered(self, loss: float, scores: np.ndarray, digest: int) -> tuple[float, np.ndarray]:
        """Both as they are."""
        return loss, scores

    def total(self, part: float) -> float:
        """The part."""
        return part

    def barrier(self) -> None:
        """Nobody to wait for."""

    def guarded(self) -> AbstractContextManager[None]:
        """Nobody to lose."""
        return nullcontext()

    def close(self) -> None:
        """Nothing to close."""
