"""Peak memory of a PyTorch iteration by PyTorch's own profiler: what a compiled step's is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

Change = tuple[int, int, int]
"""Of the allocated memory: when (ns), the block's address, and its bytes, below 0 where it is given back."""


class Iteration(Protocol):
    """A network in training, with its batch; `run` is one iteration."""

    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    x: torch.Tensor
    y: torch.Tensor

    def run(self) -> None: ...


def peak_of(iteration: Iteration) -> dict[str, int]:
    """Bytes that a training iteration holds at its peak, by kind.

    Keys: weights (parameters and buffers), optimizer, data (the batch), all three held throughout; gradients (of the
    parameters that have theirs at the peak) and rest (activations, their gradients and workspace), by the profiler;
    peak, the sum of all. What a library takes from elsewhere than PyTorch's allocator is not in it.
    """
    iteration.run()  # the first one makes its state
    # What was taken before the profiler begins is not seen when it is given back, so no gradient may be there yet.
    iteration.optimizer.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        iteration.run()
    gradients, rest = split_peak(_changes(profiled))
    network = iteration.network
    states = iteration.optimizer.state.values()
    found = {
        "weights": _bytes([*network.parameters(), *network.buffers()]),
        "gradients": gradients,
        "optimizer": _bytes(value for state in states for value in state.values() if isinstance(value, torch.Tensor)),
        "data": _bytes([iteration.x, iteration.y]),
        "rest": rest,
    }
    return {**found, "peak": sum(found.values())}


def split_peak(changes: Sequence[Change]) -> tuple[int, int]:
    """Of the most bytes that were held at a time: those that still were in the end, which of an iteration are
    gradients, and the others."""
    live: dict[int, tuple[int, int]] = {}  # by address: number of the change, bytes
    at_peak: dict[int, tuple[int, int]] = {}
    held = highest = 0
    for number, (_, address, size) in enumerate(sorted(changes)):
        held += size
        if size > 0:
            live[address] = number, size
        else:
            live.pop(address, None)
        if held > highest:
            highest, at_peak = held, dict(live)
    stayed = sum(block[1] for address, block in at_peak.items() if live.get(address) == block)
    return stayed, highest - stayed


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _changes(profiled: profile) -> list[Change]:
    found, left = [], list(profiled.profiler.kineto_results.experimental_event_tree())
    while left:
        event = left.pop()
        left += event.children
        if event.tag == _EventType.Allocation:
            found.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
    return found
