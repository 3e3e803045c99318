"""How a step may be computed in less memory or fewer passes over it; its results stay the same, where not said."""

from __future__ import annotations

from dataclasses import dataclass

OWN, TVM = "own", "tvm"
"""Whose schedules a step has."""


@dataclass(frozen=True)
class StepOptions:
    """Options of the passes.

    memory_limit: bytes that the planned peak of all training memory, and what the host needs beside it, must stay
        under; None: no limit. What is computed again, and where that is not enough the micro-batch, follow from it.
    micro_batch: examples that go through the network at a time, a divisor of the batch; their gradients are summed
        before the update, and batch norm takes its statistics over them, as in PyTorch's gradient accumulation. None:
        the batch, or what the limit leaves.
    stored: dtype in which activations lie in memory, rounded, while all arithmetic stays float32. "bfloat16", on CPUs:
        as they wait for backward; "float16", on OpenCL devices: from the kernel that computes them on; "float32", or
        None: as they are computed.
    forward_sums: take batch norm's sums where a convolution writes its output. backward_sums: those of its backward
        where backward-data writes its gradient.
    weight_gradients: they compute batch norm's output again from its input, so that it need not wait.
    forward_inputs: with that, forward convolutions compute it too where nothing else reads it, and it is never written.
    schedules: "own", or "tvm": the dense step on NCHW as TVM itself schedules it (fused, dlight), a bench's opponent.
    """

    memory_limit: int | None = None
    micro_batch: int | None = None
    stored: str | None = None
    forward_sums: bool = False
    backward_sums: bool = False
    weight_gradients: bool = True
    forward_inputs: bool = True
    schedules: str = OWN


PLAIN = StepOptions()
"""What is taken where nothing is asked for."""
