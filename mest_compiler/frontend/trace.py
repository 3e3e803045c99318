"""The frontend in one call: a torch module in, a training step in Relax out."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from tvm import relax

from .capture import capture_predict, capture_step, dtype_name
from .training_graph import TrainingGraph
from .translate import translate


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
    layers = translate(builder, "step", step)
    translate(builder, "predict", predict)
    module = relax.transform.DeadCodeElimination(["step", "predict"])(builder.finalize())
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    logits = step.results[1].meta["val"]
    return TrainingGraph(
        module=module,
        parameters=tuple(step.parameters),
        buffers=tuple(step.buffers),
        state={name: np.array(tensor.detach().cpu().numpy(), order="C") for name, tensor in tensors.items()},
        convolutions=layers.convolutions,
        linears=layers.linears,
        seeded=layers.seeded,
        classes=int(logits.shape[1]),
        batch=int(x.shape[0]),
        input_shape=tuple(int(n) for n in x.shape[1:]),
        dtype=dtype_name(x),
    )
