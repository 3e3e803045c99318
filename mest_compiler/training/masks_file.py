"""Files of masks: ours, and those that other pruning scripts leave."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mest_compiler.errors import MaskError
from mest_compiler.sparsity.masks import Masks, Plan, Shapes, checked_masks
from mest_compiler.training.weights_file import MASK, WEIGHT, Taken, is_mask, named_tensors

MASK_FILE = "Mask file"
_OF_NUMPY = (torch.float16, torch.float32, torch.float64)


def load_masks(path: str | Path, plan: Plan | None, shapes: Shapes) -> Masks:
    """Masks of a file that torch.save, numpy.savez or safetensors wrote, in network order.

    The file holds tensors of any dtype whose values are exactly 0 or 1 (1 = kept), by the name of a parameter or of its
    module, or by those that torch.nn.utils.prune gives to masks beside weights. It decides which units are kept, and so
    the ratio; arguments as of `checked_masks`.

    Raises:
        MaskError: the file cannot be read, is of another model, or holds other values; see `checked_masks`.
    """
    return read_masks(path, plan, shapes)[0]


def read_masks(path: str | Path, plan: Plan | None, shapes: Shapes) -> tuple[Masks, Taken]:
    """As `load_masks`, with what was made of the file."""
    tensors, taken = named_tensors(path, shapes, MASK_FILE, MaskError)
    renamed, left = list(taken.renamed), list(taken.left)
    if beside := {name.removesuffix(MASK): name for name in tensors if name.endswith(MASK)}:
        left += [name for name in tensors if name not in beside.values()]
        tensors = {name: tensors[own] for name, own in beside.items()}
        renamed.append(f"{len(tensors)} without {MASK!r}")
    if modules := [name for name in tensors if name not in shapes and name + WEIGHT in shapes]:
        tensors = {name + WEIGHT if name in modules else name: tensor for name, tensor in tensors.items()}
        renamed.append(f"{len(modules)} with {WEIGHT!r}")
    # Scripts that mask all parameters keep biases and norms whole, as they are here.
    whole = [name for name, tensor in tensors.items() if name not in shapes and tensor.dim() < 2 and _whole(tensor)]
    found = {name: _array(path, name, tensor) for name, tensor in tensors.items() if name not in whole}
    if not found:
        raise MaskError(f"{MASK_FILE} {path} has no mask of a layer that can be sparse: give another one.")
    return checked_masks(found, plan, shapes, path), replace(taken, renamed=tuple(renamed), left=(*left, *whole))


def _whole(mask: torch.Tensor) -> bool:
    return is_mask(mask) and bool((mask == 1).all())


def _array(path: str | Path, name: str, tensor: torch.Tensor) -> np.ndarray:
    """As NumPy has it; what NumPy does not know (bfloat16) through float32, which keeps every value."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise MaskError(f"{MASK_FILE} {path}: {name!r} is no plain tensor of numbers: convert it before saving.")
    known = tensor.dtype.is_complex or not tensor.is_floating_point() or tensor.dtype in _OF_NUMPY
    return (tensor if known else tensor.float()).numpy()
