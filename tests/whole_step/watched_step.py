"""A whole ResNet-20 step on the OpenCL device that is there, compared with PyTorch: what runs under Oclgrind.

`python -m tests.whole_step.watched_step SCHEME [FAULT]` from the repository's folder prints "right"; FAULT "too far"
lets an index array point out of its activation, "no barriers" lets no work-item wait for another.
"""

from __future__ import annotations

import sys

import numpy as np

from mest_compiler.runtime.trainer import Trainer

from ..schedules.opencl.oclgrind import plant, right
from ..schedules.opencl.watched_passes import FAULTS
from .cases import Case, compiled
from .training import LR, MaskedTraining, batch

LAYER = "layer2.0.conv2.weight"
SINGLE = 1e-5
TOO_FAR = 60000


def main(scheme: str, fault: str = "") -> None:
    """One step, checked."""
    if fault in FAULTS:
        plant(FAULTS[fault])
    case = Case("resnet20", scheme, dtype="float32", device="opencl")
    built = compiled(case)
    trainer = Trainer(built.artifact)
    if fault == "too far":
        name = next(array for layer, array in trainer._index if layer == LAYER and array.endswith("offset"))
        offsets = trainer._index[LAYER, name]
        offsets.copyfrom(np.full(offsets.shape, TOO_FAR, str(offsets.dtype)))
    reference = MaskedTraining(built.model.double(), trainer.masks(), case.rule)
    x, y = batch(case.batch, case.shape, 0)
    loss, logits = trainer.step(x.numpy().astype(np.float32), y.numpy(), LR)
    wanted, wanted_logits = reference.step(x, y, LR)
    assert abs(loss - wanted) <= SINGLE * abs(wanted)
    assert np.abs(logits - wanted_logits).max() <= SINGLE * np.abs(wanted_logits).max()
    for name, array in reference.state().items():
        found = trainer.state()[name]
        assert np.abs(found - array).max() <= 1e-3 * max(np.abs(array).max(), 1e-3), name


if __name__ == "__main__":
    main(*sys.argv[1:])
    right()
