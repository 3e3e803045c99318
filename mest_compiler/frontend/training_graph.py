"""What the frontend hands on: a training step and a prediction in Relax, and how their arguments are named in
the torch module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tvm

from ..signature import STEP, FunctionSignature, Role, StepSignature


@dataclass(frozen=True)
class Convolution:
    """One 2-d convolution of the network.

    name is its weight's name in the torch module, shape that weight's shape (F, C / groups, kh, kw); in_plane
    and out_plane are (height, width) of its input and output.
    """

    name: str
    shape: tuple[int, int, int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    in_plane: tuple[int, int]
    out_plane: tuple[int, int]


@dataclass(frozen=True)
class TrainingGraph:
    """A traced model: dense, in NCHW, without a decision about any device.

    Attributes
    ----------
    module : Relax functions, each one dataflow block whose output is the tuple it returns (predict: of its only
    output, where it is that):
        step(*parameters, *frozen, *buffers, *inputs [N, ...], *targets [N, ...], seed uint32 [] if `seeded`) ->
        (loss [], its weight [] in parts, *outputs [N, ...], a gradient per parameter, a new value per buffer),
        predict(*parameters, *frozen, *buffers, *inputs) -> outputs.
    signature : of both; no result of theirs is an argument's memory.
    state : copies of all parameters and buffers by torch name.
    convolutions : by the name of their weight, in the order in which the forward pass runs them.
    linears : shape (F, C) of the weights of linear layers by their name, in the order in which they run; a weight that
    something else reads too is not among them.
    """

    module: tvm.IRModule
    signature: StepSignature
    state: Mapping[str, np.ndarray]
    convolutions: Mapping[str, Convolution]
    linears: Mapping[str, tuple[int, int]]

    @property
    def step(self) -> FunctionSignature:
        """Signature of the training step."""
        return self.signature[STEP]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Torch names in argument order; gradients come in the same order."""
        return tuple(self.step.places(Role.PARAMETER))

    @property
    def buffers(self) -> tuple[str, ...]:
        """Torch names in argument order; new values come in the same order."""
        return tuple(self.step.places(Role.BUFFER))

    @property
    def seeded(self) -> bool:
        """Whether the step takes a seed, because it has a dropout; predictions never do."""
        return bool(self.step.of(Role.SEED))

    @property
    def frozen(self) -> tuple[str, ...]:
        """Torch names of the parameters that are not trained, in argument order."""
        return tuple(self.step.places(Role.FROZEN))

    @property
    def batch(self) -> int:
        """Number of examples N that both functions take."""
        return self.step.of(Role.INPUT)[0].shape[0]

    @property
    def dtype(self) -> str:
        """Of parameters and the loss: "float32" or "float64"."""
        return self.step.of(Role.PARAMETER)[0].dtype
