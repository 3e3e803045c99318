"""Networks traced once a process: steps that differ in schemes, rule, options or device begin with the same graph."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from tvm_ffi import structural_hash

from mest_compiler import compile as compiler
from mest_compiler.frontend import TrainingGraph, trace
from mest_compiler.losses import Loss


@dataclass(frozen=True)
class _Traced:
    graph: TrainingGraph
    hash: int


_traced: dict[Hashable, _Traced] = {}


def share_traces(patch: pytest.MonkeyPatch, network: Hashable) -> None:
    """From now on `compile_step` traces once for each batch, dtype and loss. network: names the model, weights too."""

    def once(model: nn.Module, inputs: Mapping[str, torch.Tensor], loss: Loss, in_parts: bool) -> TrainingGraph:
        key = network, tuple((name, tuple(x.shape), x.dtype) for name, x in inputs.items()), loss, in_parts
        if key not in _traced:
            graph = trace(model, inputs, loss, in_parts)
            _traced[key] = _Traced(graph, structural_hash(graph.module))
        found = _traced[key]
        # or a step would not be what a user gets, who has each traced anew
        assert structural_hash(found.graph.module) == found.hash, "compiling a step changed its graph"
        return replace(found.graph, state={name: array.copy() for name, array in found.graph.state.items()})

    patch.setattr(compiler, "trace", once)
