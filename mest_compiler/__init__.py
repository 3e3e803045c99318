"""Compiles the whole sparse training step of a PyTorch model, and trains with it: the public names and nothing else."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Public name -> its module. They are imported when first used: `import mest_compiler` and `mest --help` stay quick.
_PUBLIC = {
    "Adam": "mest_compiler.optimizers",
    "AdamW": "mest_compiler.optimizers",
    "Artifact": "mest_compiler.runtime.artifact",
    "BceWithLogits": "mest_compiler.losses",
    "CallableLoss": "mest_compiler.losses",
    "CrossEntropy": "mest_compiler.losses",
    "MestError": "mest_compiler.errors",
    "Mse": "mest_compiler.losses",
    "Profile": "mest_compiler.sparsity.profile",
    "Sgd": "mest_compiler.optimizers",
    "TensorSpec": "mest_compiler.signature",
    "Trainer": "mest_compiler.runtime.trainer",
    "build_model": "mest_compiler.models",
    "compile_step": "mest_compiler.compile",
    "load_data": "mest_compiler.training.data",
    "load_masks": "mest_compiler.training.masks_file",
    "load_weights": "mest_compiler.training.weights_file",
    "magnitude_masks": "mest_compiler.sparsity.magnitude",
    "save_masks": "mest_compiler.sparsity.masks",
}
_NAMES = {"build_model": "build"}  # where the public name is not the module's own

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Imports a public name on its first use."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mest_compiler' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), _NAMES.get(name, name))


def __dir__() -> list[str]:
    return __all__
