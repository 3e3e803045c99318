"""The frontend in one call: a torch module in, a training step in Relax out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from tvm import relax

from ..losses import CrossEntropy, Loss
from ..losses.base import INPUT
from ..signature import PREDICT, STEP, Role, TensorSpec
from .capture import CapturedGraph, capture_predict, capture_step, dtype_name
from .signing import signed
from .training_graph import TrainingGraph
from .translate import SEED_NAME, translate


def trace(
    model: nn.Module,
    inputs: torch.Tensor | Mapping[str, torch.Tensor],
    loss: Loss | None = None,
    in_parts: bool = False,
) -> TrainingGraph:
    """Trace one training step and one prediction of `model`, which is left as it is.

    Parameters
    ----------
    model : maps the inputs, by their names or else in order, to outputs; float32 or float64, every parameter used.
    Those with requires_grad=False are frozen.
    inputs : an example batch [N, ...] of each by name; only shapes and dtypes matter.
    loss : cross-entropy where there is none.
    in_parts : the step is one of several whose gradients are added up: it gives the loss's sum and its weight.

    Raises
    ------
    ModelError
        if the model cannot be traced, or uses an operator that has no converter (the error names it and its
        module).
    """
    inputs = {INPUT: inputs} if isinstance(inputs, torch.Tensor) else dict(inputs)
    loss = loss or CrossEntropy()
    predict = capture_predict(model, inputs)
    batch = len(next(iter(inputs.values())))
    outputs = {name: _of_example(node.meta["val"]) for (_, name), node in predict.results.items()}
    targets = {
        name: torch.zeros(batch, *spec.shape, dtype=getattr(torch, spec.dtype))
        for name, spec in loss.targets(outputs).items()
    }
    step = capture_step(model, inputs, targets, loss, in_parts)
    builder = relax.BlockBuilder()
    layers = translate(builder, STEP, step)
    translate(builder, PREDICT, predict)
    module = relax.transform.DeadCodeElimination([STEP, PREDICT])(builder.finalize())
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    seed = [(Role.SEED, SEED_NAME)] if layers.seeded else []
    return TrainingGraph(
        module=module,
        signature={
            STEP: signed(module[STEP], [*_arguments(step), *seed], [(*key, None) for key in step.results]),
            PREDICT: signed(module[PREDICT], _arguments(predict), [(*key, None) for key in predict.results]),
        },
        state={name: np.array(tensor.detach().cpu().numpy(), order="C") for name, tensor in tensors.items()},
        convolutions=layers.convolutions,
        linears=layers.linears,
    )


def _of_example(value: torch.Tensor) -> TensorSpec:
    return TensorSpec(tuple(int(n) for n in value.shape[1:]), dtype_name(value))


def _arguments(captured: CapturedGraph) -> list[tuple[Role, str]]:
    parts = {
        Role.PARAMETER: captured.parameters, Role.FROZEN: captured.frozen, Role.BUFFER: captured.buffers,
        Role.INPUT: captured.inputs, Role.TARGET: captured.targets,
    }  # fmt: skip
    return [(role, name) for role, names in parts.items() for name in names]
