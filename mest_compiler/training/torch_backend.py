"""A plain masked PyTorch backend, dense arithmetic on masked weights: the reference of the tests."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from mest_compiler.errors import CheckpointError, MaskError
from mest_compiler.training.whole_file import whole_file

FORM = "mest-torch-checkpoint-1"
# Bounds the memory of activations; any number gives the same logits up to rounding.
PREDICT_BATCH = 256


class TorchBackend:
    """Trains `model` by SGD with the weights outside the masks kept at zero (implements `Backend`).

    masks: parameter name -> bool array of the parameter's shape, True = kept; parameters without one are
    dense. Gradients of removed weights are cleared before the update, so their momentum stays zero too.
    momentum, nesterov, weight_decay: as in torch.optim.SGD, for all parameters. dtype: torch.float32 or
    torch.float64 (the tests' reference). The model itself is trained in place.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: Mapping[str, np.ndarray] | None = None,
        *,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 5e-4,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model = model.to(dtype)
        self.dtype = dtype
        self._parameters = dict(model.named_parameters())
        self._optimizer = torch.optim.SGD(
            self._parameters.values(), lr=0.0, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
        )
        # Made here and not at the first step, so that a checkpoint has the same tensors whenever it is
        # written.
        for parameter in self._parameters.values():
            self._optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        self._removed: dict[str, torch.Tensor] = {}
        self.set_masks(masks or {})

    def set_masks(self, masks: Mapping[str, np.ndarray]) -> None:
        """Replace all masks; removed weights and their momentum become zero, grown weights start at zero."""
        removed = {}
        for name, mask in masks.items():
            if name not in self._parameters:
                raise MaskError(f"there is a mask for {name}, which is no parameter of the model: remove or rename it")
            shape = tuple(self._parameters[name].shape)
            if mask.dtype != np.bool_ or mask.shape != shape:
                raise MaskError(f"the mask of {name} is {mask.dtype} {mask.shape}, expected bool {shape}")
            removed[name] = torch.from_numpy(~mask)
        self._removed = removed
        self._clear_removed()

    @torch.no_grad()
    def _clear_removed(self) -> None:
        for name, removed in self._removed.items():
            parameter = self._parameters[name]
            # Filled and not multiplied: a product would keep signs of zero and NaNs.
            parameter.masked_fill_(removed, 0)
            self._momentum_of(name).masked_fill_(removed, 0)

    def _momentum_of(self, name: str) -> torch.Tensor:
        return self._optimizer.state[self._parameters[name]]["momentum_buffer"]

    def step(self, x: np.ndarray, y: np.ndarray, lr: float) -> tuple[float, np.ndarray]:
        """One step of masked SGD on the mean cross-entropy; see `Backend.step`. Logits have our dtype."""
        self.model.train()
        self._optimizer.param_groups[0]["lr"] = lr
        self._optimizer.zero_grad(set_to_none=True)
        logits = self.model(torch.from_numpy(x).to(self.dtype))
        loss = nn.functional.cross_entropy(logits, torch.from_numpy(y))
        loss.backward()
        for name, removed in self._removed.items():
            gradient = self._parameters[name].grad
            if gradient is not None:
                gradient.masked_fill_(removed, 0)
        self._optimizer.step()
        self._clear_removed()
        return loss.item(), logits.detach().numpy()

    @torch.inference_mode()
    def predict(self, x: np.ndarray) -> np.ndarray:
        """Logits [N, classes] in evaluation mode, in the backend's dtype."""
        self.model.eval()
        parts = torch.from_numpy(x).split(PREDICT_BATCH)
        return torch.cat([self.model(part.to(self.dtype)) for part in parts]).numpy()

    def masks(self) -> dict[str, np.ndarray]:
        """Copies of the masks (bool, True = kept) by parameter name."""
        return {name: (~removed).numpy() for name, removed in self._removed.items()}

    def state(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers by their torch names."""
        return {name: tensor.detach().numpy().copy() for name, tensor in self.model.state_dict().items()}

    def momentum(self) -> dict[str, np.ndarray]:
        """Copies of the momentum by parameter name."""
        return {name: self._momentum_of(name).numpy().copy() for name in self._parameters}

    def _tensors(self) -> dict[str, torch.Tensor]:
        """All tensors of a checkpoint except the masks, by their names in the file; not copies."""
        state = {f"state/{name}": tensor.detach() for name, tensor in self.model.state_dict().items()}
        return state | {f"momentum/{name}": self._momentum_of(name) for name in self._parameters}

    def save(self, path: Path, extra: dict[str, Any]) -> None:
        """Write parameters, buffers, momentum and masks as safetensors, with `extra` in the metadata."""
        tensors = self._tensors() | {f"mask/{name}": ~removed for name, removed in self._removed.items()}
        metadata = {"form": FORM, "extra": json.dumps(extra)}
        with whole_file(path) as temporary:
            save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, temporary, metadata)

    @torch.no_grad()
    def load(self, path: Path) -> dict[str, Any]:
        """Take all that `save` wrote, masks too; returns `extra`. A CheckpointError changes nothing."""
        tensors, extra = _read(path)
        own = self._tensors()
        stored = {name: tensor for name, tensor in tensors.items() if not name.startswith("mask/")}
        different = sorted(own.keys() ^ stored.keys()) + [
            name
            for name in own.keys() & stored.keys()
            if own[name].shape != stored[name].shape or own[name].dtype != stored[name].dtype
        ]
        if different:
            raise CheckpointError(
                f"checkpoint {path} is of another model (for one, {different[0]} differs): build the model "
                "it was saved from"
            )
        try:
            self.set_masks({n.removeprefix("mask/"): t.numpy() for n, t in tensors.items() if n.startswith("mask/")})
        except MaskError as error:
            raise CheckpointError(f"checkpoint {path} is damaged ({error}): use another one") from None
        for name, tensor in stored.items():
            own[name].copy_(tensor)
        return extra


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}: start the run without resuming")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged ({error}): use another one") from None
    if metadata.get("form") != FORM:
        raise CheckpointError(f"{path} is no checkpoint of the PyTorch backend: name a file that it saved")
    try:
        return tensors, json.loads(metadata["extra"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged ({error}): use another one") from None
