"""Masked training in PyTorch, on a CPU or a CUDA GPU, alone or as one of several processes: dense arithmetic on masked
weights. The reference of the compiled step, and the way to train where there is a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mest_compiler.errors import DeviceError, MaskError, MestError
from mest_compiler.losses import CrossEntropy, Loss
from mest_compiler.losses.base import INPUT, TARGET, alone, named
from mest_compiler.losses.outputs import arguments_of, outputs_of
from mest_compiler.optimizers import Optimizer, Sgd
from mest_compiler.runtime import checkpoint
from mest_compiler.runtime.named_arrays import Arrays
from mest_compiler.runtime.step_seed import step_seed
from mest_compiler.sparsity import mutation
from mest_compiler.sparsity.methods import Need
from mest_compiler.sparsity.mutation import Change
from mest_compiler.sparsity.schemes import Scheme, Shape, get_scheme, kernel_shape
from mest_compiler.training.ranks import Ranks, SingleProcess

# Bounds the memory of activations; any number gives the same outputs up to rounding.
PREDICT_BATCH = 256


class TorchEngine:
    """Trains `model` with the weights outside the masks kept at zero (implements `TrainingEngine`).

    masks: parameter name -> bool array of the parameter's shape, True = kept (a linear layer's may be [F, C, 1, 1]), in
    any order; parameters without one are dense. schemes: of the masks, "unstructured" where none is named. Gradients of
    removed weights are cleared before the update, so the optimiser's slots of them stay zero too. optimizer: for all
    parameters that require a gradient, SGD where there is none. loss: of the outputs, cross-entropy where there is
    none. dtype: torch.float32 or torch.float64 (the tests' reference). device: "cpu", "cuda" or "cuda:N". seed: at
    least 0, draws what the dropouts of each step keep. ranks: the processes that train together, each on its share of
    every batch. The model itself is trained in place.

    Raises DeviceError where there is no such device, MaskError where the masks do not fit.
    """

    offers = frozenset({Need.IMPORTANCE})

    def __init__(
        self,
        model: nn.Module,
        masks: Mapping[str, np.ndarray] | None = None,
        schemes: Mapping[str, str] | None = None,
        *,
        optimizer: Optimizer | None = None,
        loss: Loss | None = None,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        seed: int = 0,
        ranks: Ranks | None = None,
    ) -> None:
        self.dtype, self.device, self.ranks = dtype, torch_device(device), ranks or SingleProcess()
        self.seed, self.steps, self.loss = seed, 0, loss or CrossEntropy()
        self.model = self.ranks.prepared(model.to(self.device, dtype))
        self._parallel = self.ranks.parallel(self.model)
        self._parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self._rule = optimizer or Sgd()
        self._optimizer = self._rule.torch(self._parameters.values())
        # Made here and not at the first step, so that a checkpoint has the same tensors whenever it is
        # written.
        self._reset_slots()
        self._schemes: dict[str, Scheme] = {}
        self._units: dict[str, np.ndarray] = {}
        self._removed: dict[str, torch.Tensor] = {}
        self._has_gradients = False
        masks = masks or {}
        for name in masks:
            self._shape(name)  # raises where the model has no such parameter
        for name in (name for name in self._parameters if name in masks):
            mask, shape = masks[name], self._shape(name)
            self._schemes[name] = get_scheme((schemes or {}).get(name, "unstructured"))
            if mask.dtype != np.bool_ or mask.shape not in (shape, tuple(self._parameters[name].shape)):
                raise MaskError(f"The mask of {name} is {mask.dtype} {mask.shape}, expected bool {shape}.")
            self._keep(name, self._schemes[name].units_of(mask.reshape(shape)))
        self._clear_removed()

    def _shape(self, name: str) -> Shape:
        """(F, C, kh, kw) of a sparse parameter; a linear layer's kernels are 1x1."""
        if name not in self._parameters:
            raise MaskError(f"There is a mask for {name}, which is no parameter of the model: remove or rename it.")
        return kernel_shape(self._parameters[name].shape)

    def _keep(self, name: str, units: np.ndarray) -> None:
        """Note which units of a layer are kept; changes no weight."""
        removed = torch.from_numpy(~self._schemes[name].mask_of(units, self._shape(name)))
        self._removed[name] = removed.reshape(self._parameters[name].shape).to(self.device)
        self._units[name] = units.astype(np.int32)

    @torch.no_grad()
    def _clear_removed(self) -> None:
        for name, removed in self._removed.items():
            parameter = self._parameters[name]
            # Filled and not multiplied: a product would keep signs of zero and NaNs.
            parameter.masked_fill_(removed, 0)
            for slot in self._rule.slots:
                self._slot(slot, name).masked_fill_(removed, 0)

    def _reset_slots(self) -> None:
        """Zeros, after as many steps as there were."""
        for parameter in self._parameters.values():
            self._optimizer.state[parameter].update(self._rule.torch_state(parameter, self.steps))

    def _slot(self, slot: str, name: str) -> torch.Tensor:
        return self._optimizer.state[self._parameters[name]][self._rule.torch_keys[slot]]

    # ---- training
    def step(self, x: Arrays, y: Arrays, lr: float) -> tuple[float, Arrays]:
        """One masked step; see `TrainingEngine.step`. Outputs have our dtype.

        Of several processes each gets its share of the batch, and its share's loss and outputs.
        """
        self.model.train()
        # What a model draws, in modules or functions, comes from the global generator: a resumed run draws the same.
        torch.manual_seed(int(step_seed(self.seed, self.steps)) + self.ranks.rank)
        self._optimizer.param_groups[0]["lr"] = lr
        self._optimizer.zero_grad(set_to_none=True)
        targets = {name: self._here(array) for name, array in named(y, TARGET).items()}
        with self.ranks.guarded():
            args, kwargs = arguments_of(self.model, {name: self._here(a) for name, a in named(x, INPUT).items()})
            outputs = outputs_of(self._parallel(*args, **kwargs))
            loss = self.loss.mean(outputs, targets)
            loss.backward()
        for name, removed in self._removed.items():
            gradient = self._parameters[name].grad
            if gradient is not None:
                gradient.masked_fill_(removed, 0)
        self._optimizer.step()
        self._clear_removed()
        self.steps += 1
        self._has_gradients = True
        return loss.item(), alone({name: output.detach().cpu().numpy() for name, output in outputs.items()})

    def _here(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    @torch.inference_mode()
    def predict(self, x: Arrays) -> Arrays:
        """Outputs [N, ...] in evaluation mode, in the engine's dtype."""
        self.model.eval()
        inputs, found = named(x, INPUT), []
        for start in range(0, len(next(iter(inputs.values()))), PREDICT_BATCH):
            part = {name: self._here(array[start : start + PREDICT_BATCH]) for name, array in inputs.items()}
            args, kwargs = arguments_of(self.model, part)
            found.append(outputs_of(self.model(*args, **kwargs)))
        return alone({name: torch.cat([part[name] for part in found]).cpu().numpy() for name in found[0]})

    # ---- structures
    def sparse_layers(self) -> dict[str, tuple[Scheme, Shape]]:
        """Scheme and weight shape (F, C, kh, kw) of the sparse layers, in the order of the parameters."""
        return {name: (scheme, self._shape(name)) for name, scheme in self._schemes.items()}

    def kept_units(self) -> dict[str, np.ndarray]:
        """int32, ascending: ids of the units that each sparse layer keeps."""
        return {name: units.copy() for name, units in self._units.items()}

    def _of_units(self, name: str, tensor: torch.Tensor) -> np.ndarray:
        """[units, unit_size] of a tensor of a parameter's shape: what is kept of it, in ascending order of ids."""
        places = self._schemes[name].weights_of(self._units[name], self._shape(name))
        flat = tensor.detach().reshape(-1)
        return flat[torch.from_numpy(places).to(self.device)].cpu().numpy()

    def importance(self, coefficient: float) -> dict[str, np.ndarray]:
        """float64 [units] by layer, in the order of `kept_units`: Eq. 1 with the gradients of the last step.

        Only the gradients of kept weights are read. MestError where there was no step since the start, a mutation or
        `load`.
        """
        if not self._has_gradients:
            raise MestError("The importance of weights needs a gradient: train a step first.")
        found = {}
        for name in self._schemes:
            parameter = self._parameters[name]
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            values = self._of_units(name, parameter), self._of_units(name, gradient)
            found[name] = mutation.importance(*values, coefficient)
        return found

    @torch.no_grad()
    def mutate(self, changes: Mapping[str, Change]) -> None:
        """Other units are kept from now on; see `Change`. Layers not named stay as they are."""
        for name in changes:
            if name not in self._schemes:
                raise MaskError(f"{name!r} is no sparse layer of this model.")
        for name, change in changes.items():
            # First only what survives, so that a unit drawn again right after its removal starts at zero too.
            for units in (change.survivors, change.kept):
                self._keep(name, units)
                self._clear_removed()
        self._has_gradients = False

    def masks(self) -> dict[str, np.ndarray]:
        """Copies of the masks (bool, True = kept) by parameter name."""
        return {name: (~removed).cpu().numpy() for name, removed in self._removed.items()}

    # ---- state
    def state(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers by their torch names."""
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.model.state_dict().items()}

    def slots(self) -> dict[str, dict[str, np.ndarray]]:
        """Copies of what the optimiser keeps: by slot, and then by parameter name."""
        return {
            slot: {name: self._slot(slot, name).cpu().numpy().copy() for name in self._parameters}
            for slot in self._rule.slots
        }

    def state_bytes(self) -> dict[str, int]:
        """Bytes of weights, gradients, the optimiser's slots and masks: all dense here, whatever the masks say."""
        weights = sum(p.numel() * p.element_size() for p in self._parameters.values())
        masks = sum(removed.numel() for removed in self._removed.values())
        slots = len(self._rule.slots) * weights
        return {"weights": weights, "gradients": weights, "optimizer": slots, "indices": masks}

    def _compact(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """As a checkpoint has them."""
        return {
            name: self._of_units(name, tensor) if name in self._schemes else tensor.detach().cpu().numpy()
            for name, tensor in tensors.items()
        }

    def _identity(self) -> checkpoint.Identity:
        forms = {
            name: (str(tensor.dtype).removeprefix("torch."), list(tensor.shape))
            for name, tensor in self.model.state_dict().items()
        }
        parameters = {name: forms.pop(name) for name in self._parameters}
        schemes = {name: scheme.name for name, scheme in self._schemes.items()}
        return checkpoint.Identity(parameters, forms, schemes, self._rule)

    def save(self, path: str | Path, extra: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
        """Write all state, `extra` (JSON values) and `arrays` to one file, which every engine reads."""
        content = checkpoint.Content(
            self._compact(self.model.state_dict()),
            {slot: self._compact({n: self._slot(slot, n) for n in self._parameters}) for slot in self._rule.slots},
            self.kept_units(), dict(extra), arrays or {}, self.seed, self.steps,
        )  # fmt: skip
        checkpoint.write(path, content, self._identity())

    @torch.no_grad()
    def load(self, path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Take all state from a checkpoint of any engine; returns its `extra` and `arrays`.

        A CheckpointError changes nothing.
        """
        content = checkpoint.read(path, self._identity())
        for name, units in content.units.items():
            self._keep(name, units)
        self.seed, self.steps, self._has_gradients = content.seed, content.steps, False
        self._reset_slots()
        own = [(self.model.state_dict(), content.dense_state)]
        for slot in self._rule.slots:
            tensors = {name: self._slot(slot, name) for name in self._parameters}
            own.append((tensors, partial(content.dense_slot, slot)))
        for tensors, stored in own:
            shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            for name, array in stored(shapes, str(path)).items():
                tensors[name].copy_(torch.from_numpy(array.copy()))  # what a file is read into may be read-only
        return content.extra, dict(content.arrays)


def torch_device(name: str) -> torch.device:
    """The device of this name.

    Raises:
        DeviceError: an unknown name, or a GPU where there is none.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"The torch backend has no device {name!r}: use cpu, cuda or cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"The torch backend has no device {name!r}: use cpu, cuda or cuda:N.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError("This machine has no CUDA GPU that PyTorch can use: train with --device cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"This machine has {torch.cuda.device_count()} CUDA GPUs, and {name!r} is not among them.")
    return device
