"""Several processes that train one network, started by torchrun: gloo between CPUs, NCCL between GPUs."""

from __future__ import annotations

import gc
import inspect
import os
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from weakref import WeakSet

import numpy as np
import torch
import torch.distributed as dist

# Not used here, but DistributedDataParallel's constructor imports it. Its functions keep for ever, as a default
# argument, the default group of the time of the import: `close` could not end one that was there by then.
import torch.distributed.nn.functional
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mest_compiler.errors import DeviceError, MestError, ModelError
from mest_compiler.training.global_batch_norm import with_global_batch_norm
from mest_compiler.training.ranks import Ranks, SingleProcess
from mest_compiler.training.torch_engine import torch_device

# Longer than the first process needs for its evaluation or its checkpoint while the others wait.
TIMEOUT_S = 600.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# Running statistics are equal everywhere as they are, so no step sends them. torch 2.13 has another name for that, and
# warns of the old one.
_BUFFERS_STAY = (
    {"forward_sync_buffers": False}
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else {"broadcast_buffers": False}
)


def ranks_of_environment(device: str = "cpu", timeout_s: float = TIMEOUT_S) -> Ranks:
    """The processes that torchrun started, this one among them; `SingleProcess` where there is but one.

    To be closed at the end. device, timeout_s and errors: see `Processes.from_environment`.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return SingleProcess()
    return Processes.from_environment(device, timeout_s)


class Processes:
    """torch.distributed's default process group (implements `Ranks`).

    All processes make the same calls in the same order. A call whose peers are gone, or do not answer within the
    group's timeout, raises DeviceError; of NCCL's calls only those that wait on the host can, for the others NCCL's
    own watchdog ends the process.
    """

    def __init__(self, device: torch.device) -> None:
        """Of the group that is initialised, with this process's tensors on `device`."""
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._device = device
        self._wrappers: WeakSet[_Averaged] = WeakSet()

    @classmethod
    def from_environment(cls, device: str = "cpu", timeout_s: float = TIMEOUT_S) -> Processes:
        """Join the group that torchrun's environment variables describe; returns when all processes have joined.

        device: "cpu", or "cuda" for the GPU whose number is the process's own on its machine (LOCAL_RANK). timeout_s:
        seconds, for joining and for every later call.

        Raises:
            MestError: the variables are not all there, or no numbers.
            DeviceError: no such device, or not all processes joined in time.
        """
        rank, size, local_rank = _numbers(os.environ)
        own = torch_device(_own_device(device, local_rank))
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        if own.type == "cuda":
            torch.cuda.set_device(own)
        elif os.environ["MASTER_ADDR"] in _LOOPBACK and "lo" in (name for _, name in socket.if_nameindex()):
            # Or gloo would listen on the network although all processes are on this machine.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        try:
            dist.init_process_group(
                "nccl" if own.type == "cuda" else "gloo",
                timeout=timedelta(seconds=timeout_s),
                device_id=own if own.type == "cuda" else None,
            )
        except (RuntimeError, ValueError) as error:
            raise DeviceError(
                f"process {rank} of {size} found not all others at {address} within {timeout_s:g} s "
                f"({_first_line(error)}): start all of them together with torchrun"
            ) from error
        return cls(own)

    def local(self, device: str) -> str:
        """Where this process computes."""
        return str(self._device)

    def share(self, n: int) -> slice:
        """This process's part of n examples: contiguous, in order of rank.

        MestError where the parts cannot be equal.
        """
        if n % self.size:
            raise MestError(
                f"batch {n} cannot be shared out to {self.size} processes: choose a multiple of {self.size}, or "
                "another number of processes"
            )
        part = n // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def prepared(self, model: nn.Module) -> nn.Module:
        """The same model, its batch norms turned into `GlobalBatchNorm`s."""
        return with_global_batch_norm(model)

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model in DistributedDataParallel, with the first process's parameters."""
        device_ids = [self._device.index] if self._device.type == "cuda" else None
        with self.guarded():
            # Gradients that are views of what is sent take no second memory.
            wrapper = _Averaged(
                DistributedDataParallel(model, device_ids=device_ids, gradient_as_bucket_view=True, **_BUFFERS_STAY)
            )
        self._wrappers.add(wrapper)
        return wrapper

    def gathered(self, loss: float, scores: np.ndarray, digest: int) -> tuple[float, np.ndarray]:
        """(mean of the losses, all `scores` in order of rank) in one exchange.

        scores: bool or float64, equally long in all processes; digest: below 2**63. MestError, in all processes alike,
        where the digests differ.
        """
        head = np.array([loss]).tobytes() + np.array([digest], np.int64).tobytes()
        own = torch.frombuffer(bytearray(head + scores.tobytes()), dtype=torch.uint8).to(self._device)
        every = [torch.empty_like(own) for _ in range(self.size)]
        with self.guarded():
            dist.all_gather(every, own)
            rows = torch.stack(every).cpu().numpy()
        losses = np.ascontiguousarray(rows[:, :8]).view(np.float64)[:, 0]
        digests = np.ascontiguousarray(rows[:, 8:16]).view(np.int64)[:, 0]
        different = [str(rank) for rank in np.flatnonzero(digests != digests[0])]
        if different:
            raise MestError(
                f"the processes no longer hold the same masks: process {', '.join(different)} differs from process 0; "
                "resume all of them from the last checkpoint"
            )
        return float(losses.mean()), np.ascontiguousarray(rows[:, 16:]).view(scores.dtype).reshape(-1)

    def total(self, part: float) -> float:
        """Sum over the processes, in float64."""
        summed = torch.tensor(part, dtype=torch.float64, device=self._device)
        with self.guarded():
            dist.all_reduce(summed)
            return summed.item()

    def barrier(self) -> None:
        """Wait until all processes are here."""
        # A sum that the host reads is complete no earlier than that, with every backend.
        self.total(0.0)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn what torch raises within, when an exchange fails, into a sentence."""
        try:
            yield
        except RuntimeError as error:
            if "Expected to have finished reduction" in str(error):
                raise ModelError(
                    "the loss does not depend on all parameters of the model, which several processes cannot train: "
                    "remove or freeze those without a gradient, or train in one process"
                ) from error
            # gloo's own errors have no class, only the path of the source file that raised them.
            if isinstance(error, dist.DistError) or "gloo/" in str(error):
                raise DeviceError(
                    f"process {self.rank} of {self.size} lost another one ({_first_line(error)}): see what that one "
                    "said, then resume from the last checkpoint"
                ) from error
            raise

    def close(self) -> None:
        """Leave the group and end its threads; nothing else may be called after, nor what `parallel` returned.

        A thread of gloo's lets go of an exchange's tensors some time after those who waited for the exchange go on, and
        takes the interpreter's lock for that. Where the interpreter is ending then, the process aborts ("terminate
        called without an active exception"). It is the group's destructor that ends the threads, and not
        destroy_process_group: nobody may refer to the group any more.
        """
        if not dist.is_initialized():
            return
        for wrapper in self._wrappers:
            wrapper.wrapped = None
        _clear_frames(sys.exc_info()[1])
        # Cycles of garbage may refer to DistributedDataParallel; what its constructor imports leaves some. It has to go
        # before the group: the threads are waited for where the last reference is dropped, and only where that is one
        # of Python's can they take the interpreter's lock meanwhile.
        gc.collect()
        dist.destroy_process_group()


class _Averaged(nn.Module):
    """A model in DistributedDataParallel, which can be taken away from whoever still holds this."""

    def __init__(self, wrapped: DistributedDataParallel) -> None:
        super().__init__()
        self.wrapped: DistributedDataParallel | None = wrapped

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> object:
        """What the model makes of its inputs."""
        return self.wrapped(*inputs, **named)


def _clear_frames(error: BaseException | None) -> None:
    """Forget the local variables of the calls that an error has left, the process group among them."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _numbers(environment: Mapping[str, str]) -> tuple[int, int, int]:
    """(RANK, WORLD_SIZE, LOCAL_RANK)."""
    missing = [name for name in _NEEDED if name not in environment]
    if missing:
        raise MestError(
            f"WORLD_SIZE is set and {', '.join(missing)} is not: start several processes with torchrun, or unset "
            "WORLD_SIZE for one"
        )
    found = []
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        if not environment[name].isdecimal():
            raise MestError(f"{name} is {environment[name]!r} and no number: start several processes with torchrun")
        found.append(int(environment[name]))
    rank, size, local_rank = found
    if rank >= size:
        raise MestError(f"RANK is {rank}, not below WORLD_SIZE {size}: start several processes with torchrun")
    return rank, size, local_rank


def _own_device(device: str, local_rank: int) -> str:
    if device.startswith("cuda:"):
        raise DeviceError(f"several processes cannot all train on {device}: say cuda, and each takes a GPU of its own")
    return f"cuda:{local_rank}" if device == "cuda" else device


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".:")
