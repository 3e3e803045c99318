"""The kernels that were chosen for a layer of a step, and what they take and hold."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mest_compiler.kernels.index_arrays import forms_of, index_forms
from mest_compiler.kernels.indices.layer import IndexArraySpec
from mest_compiler.kernels.problem import LayerProblem
from mest_compiler.schedules.choice import Choice


@dataclass
class LayerKernels:
    """One layer as compiled: what its kernels compute, and the kernel of each direction that the step has."""

    problem: LayerProblem
    choices: dict[str, Choice] = field(default_factory=dict)
    functions: dict[str, str] = field(default_factory=dict)  # direction -> name of its function in the module

    @property
    def used(self) -> dict[str, tuple[str, int]]:
        """How each direction's kernel finds its weights, as `index_arrays` takes it."""
        return {direction: choice.used for direction, choice in self.choices.items()}

    def forms(self) -> dict[str, IndexArraySpec]:
        """The index arrays that the kernels of a sparse layer take at run time."""
        return index_forms(self.problem, self.used) if self.problem.sparse is not None else {}

    def state_bytes(self, slots: int) -> dict[str, int]:
        """What a training state holds of the layer: {"weights", "gradients", "optimizer", "indices"}. slots: tensors
        that the optimiser keeps of a weight."""
        values = self.problem.held * np.dtype(self.problem.geometry.dtype).itemsize
        indices = sum(form.length * np.dtype(form.dtype).itemsize for form in self.forms().values())
        return {"weights": values, "gradients": values, "optimizer": slots * values, "indices": indices}

    @property
    def forward_flops(self) -> float:
        """Multiplications and additions of a forward convolution."""
        return 2.0 * self.problem.forward_multiplications

    def forms_of(self, direction: str) -> dict[str, IndexArraySpec]:
        """Those of them that one direction's kernel takes, in argument order."""
        if self.problem.sparse is None:
            return {}
        return forms_of(self.problem, direction, self.choices[direction].used)
