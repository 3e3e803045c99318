"""The frontend in one call: a torch module in, a training step in Relax out."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from tvm import relax

from ..signature import PREDICT, STEP, FunctionSignature, Role
from .capture import CapturedGraph, capture_predict, capture_step
from .signing import signed
from .training_graph import TrainingGraph
from .translate import INPUT_NAMES, SEED_NAME, translate

OUTPUT_NAME, LOSS_NAME = "output", "loss"


def trace(model: nn.Module, x: torch.Tensor, y: torch.Tensor, label_smoothing: float = 0.0) -> TrainingGraph:
    """Trace one training step and one prediction of `model`, which is left as it is.

    Parameters
    ----------
    model : maps x to logits [N, classes]; float32 or float64, every parameter trainable and used.
    x : an example batch [N, ...] of the model's dtype; its values do not matter.
    y : labels int64 [N]; their values do not matter.
    label_smoothing : of the loss, as in cross_entropy.

    Raises
    ------
    ModelError
        if the model cannot be traced, or uses an operator that has no converter (the error names it and its
        module).
    """
    step, predict = capture_step(model, x, y, label_smoothing), capture_predict(model, x)
    builder = relax.BlockBuilder()
    layers = translate(builder, STEP, step)
    translate(builder, PREDICT, predict)
    module = relax.transform.DeadCodeElimination([STEP, PREDICT])(builder.finalize())
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return TrainingGraph(
        module=module,
        signature={
            STEP: _step(module[STEP], step, layers.seeded),
            PREDICT: signed(module[PREDICT], _state(predict), [(Role.OUTPUT, OUTPUT_NAME, None)]),
        },
        state={name: np.array(tensor.detach().cpu().numpy(), order="C") for name, tensor in tensors.items()},
        convolutions=layers.convolutions,
        linears=layers.linears,
    )


def _step(function: relax.Function, captured: CapturedGraph, seeded: bool) -> FunctionSignature:
    arguments = [*_state(captured), (Role.TARGET, INPUT_NAMES[1]), *([(Role.SEED, SEED_NAME)] if seeded else [])]
    results = [
        (Role.LOSS, LOSS_NAME, None),
        (Role.OUTPUT, OUTPUT_NAME, None),
        *((Role.GRADIENT, name, None) for name in captured.parameters),
        *((Role.BUFFER, name, None) for name in captured.buffers),
    ]
    return signed(function, arguments, results)


def _state(captured: CapturedGraph) -> list[tuple[Role, str]]:
    """What both functions take: the model's state, and x."""
    return [
        *((Role.PARAMETER, name) for name in captured.parameters),
        *((Role.BUFFER, name) for name in captured.buffers),
        (Role.INPUT, INPUT_NAMES[0]),
    ]
