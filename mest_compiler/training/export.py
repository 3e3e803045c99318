"""What a run gives to others: the network that its checkpoint holds, as a state_dict for PyTorch and as ONNX.

The ONNX file's `metadata_props`, for whoever wants the masks or goes on with the run elsewhere:

    mest.version    of this package
    mest.epochs     finished epochs
    mest.recipe     the run's recipe, YAML
    mest.profile    a sparsity profile with every sparse layer's scheme and fraction of zeros, YAML, as --profile reads
    mest.masks      JSON: {parameter name: {"shape": [F, C, kh, kw], "bits": text}}; bits: the mask, 1 = kept, in C
                    order, packed by numpy.packbits (first weight in the highest bit) and written as base64

Parameters are the initializers of the same names, as they were trained: removed weights are zeros.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

from mest_compiler import models
from mest_compiler.errors import ModelError
from mest_compiler.files import write_bytes
from mest_compiler.sparsity.masks import save_masks
from mest_compiler.sparsity.profile import LayerPlan, Profile
from mest_compiler.training.recipe import Recipe
from mest_compiler.training.run_folder import CHECKPOINT
from mest_compiler.training.run_reading import read_checkpoint

INPUT, OUTPUT = "images", "logits"
COMPARED = 3
"""Images on which the ONNX file is compared with PyTorch; not the number that it is traced with."""
TOLERANCE = 1e-4
"""Largest difference from PyTorch, as a fraction of the largest logit (or of 1)."""


@dataclass(frozen=True)
class Trained:
    """The network of a run as its checkpoint has it.

    model: on the CPU, in evaluation mode; masks: bool [F, C, kh, kw], True = kept, and schemes, of its sparse
    parameters by name; input_shape: (C, H, W); epochs: finished ones.
    """

    recipe: Recipe
    model: nn.Module
    masks: Mapping[str, np.ndarray]
    schemes: Mapping[str, str]
    input_shape: tuple[int, int, int]
    epochs: int

    @classmethod
    def of_run(cls, run_dir: Path) -> Trained:
        """The network of a run, finished or not; its data set is not needed.

        Raises:
            CheckpointError: no run, or a checkpoint that is damaged or does not fit the recipe's model. ModelError: the
                model cannot be built, such as one whose file is gone.
        """
        recipe, content = read_checkpoint(run_dir)
        input_shape, classes = tuple(content.extra["network"]["input_shape"]), content.extra["network"]["classes"]
        model = models.build(recipe.model, classes=classes, in_channels=input_shape[0], width=recipe.width)
        shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        source = str(run_dir / CHECKPOINT)
        # Copied, because what a file is read into may be read-only.
        state = {n: torch.from_numpy(a.copy()) for n, a in content.dense_state(shapes, source).items()}
        model.to(next(tensor.dtype for tensor in state.values() if tensor.is_floating_point()))
        model.load_state_dict(state)
        masks = content.masks(shapes, source)
        return cls(recipe, model.eval(), masks, content.schemes, input_shape, content.extra["position"]["epoch"])

    @property
    def zeros(self) -> float:
        """Fraction of the sparse layers' weights that are removed; 0 without such layers."""
        whole = sum(mask.size for mask in self.masks.values())
        return 1 - sum(int(mask.sum()) for mask in self.masks.values()) / whole if whole else 0.0

    def profile(self) -> Profile | None:
        """Scheme and fraction of zeros of every sparse layer; None for a dense network."""
        plans = {n: LayerPlan(self.schemes[n], 1 - float(mask.mean())) for n, mask in self.masks.items()}
        if not plans:
            return None
        return Profile(LayerPlan(next(iter(plans.values())).scheme, 0.0), layers=plans)

    def metadata(self) -> dict[str, str]:
        """See the module's docstring; without profile and masks for a dense network."""
        said = {
            "mest.version": version("mest-compiler"),
            "mest.epochs": str(self.epochs),
            "mest.recipe": self.recipe.text(),
        }
        if self.masks:
            packed = {name: packed_mask(mask) for name, mask in self.masks.items()}
            said |= {"mest.profile": self.profile().dump(), "mest.masks": json.dumps(packed)}
        return said


def packed_mask(mask: np.ndarray) -> dict[str, object]:
    """A bool mask as JSON values; see the module's docstring."""
    bits = base64.b64encode(np.packbits(mask.reshape(-1)).tobytes()).decode("ascii")
    return {"shape": list(mask.shape), "bits": bits}


def unpacked_mask(packed: Mapping[str, object]) -> np.ndarray:
    """The bool mask that `packed_mask` made JSON of."""
    shape = tuple(packed["shape"])
    bits = np.frombuffer(base64.b64decode(packed["bits"]), np.uint8)
    return np.unpackbits(bits, count=int(np.prod(shape))).astype(np.bool_).reshape(shape)


def masks_path(path: Path) -> Path:
    """Where the masks go beside a state_dict: net.masks.safetensors for net.safetensors."""
    return path.with_suffix(".masks.safetensors")


def export_torch(trained: Trained, path: Path) -> None:
    """Write the state_dict as safetensors, zeros included, and the masks to `masks_path`; each whole or not at all.

    `model.load_state_dict(safetensors.torch.load_file(path))` takes the weights. A dense network has no masks, and an
    earlier export's are removed.

    Raises:
        MaskError, OSError: a file cannot be written.
    """
    # Copies: tied parameters share memory, which a safetensors file cannot.
    state = {name: tensor.detach().clone().contiguous() for name, tensor in trained.model.state_dict().items()}
    metadata = {key: text for key, text in trained.metadata().items() if key != "mest.masks"}
    if trained.masks:
        save_masks(masks_path(path), trained.masks)
    else:
        masks_path(path).unlink(missing_ok=True)
    write_bytes(path, safetensors.torch.save(state, metadata))


@dataclass(frozen=True)
class OnnxFacts:
    """An ONNX file: its opset, its bytes, and the largest difference of its logits from PyTorch's on random images."""

    opset: int
    bytes: int
    difference: float


def export_onnx(trained: Trained, path: Path, seed: int = 0) -> OnnxFacts:
    """Write the network in evaluation mode as ONNX, for any number of images; checked before it is put in place.

    onnx's checker must accept it, and onnx's reference evaluator must agree with PyTorch on random images, drawn with
    `seed`, up to TOLERANCE.

    Raises:
        ModelError: the exporter or the checker refuses the model, or the file computes something else.
        OSError: it cannot be written.
    """
    import onnx

    proto = _converted(trained)
    onnx.helper.set_model_props(proto, trained.metadata())
    data = proto.SerializeToString()
    try:
        onnx.checker.check_model(data, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"onnx's checker refuses the exported {trained.recipe.model}: {error}") from error
    difference = _difference(trained, data, seed)
    write_bytes(path, data)
    (opset,) = (entry.version for entry in proto.opset_import if not entry.domain)
    return OnnxFacts(opset, len(data), difference)


def _converted(trained: Trained):
    """The network as an onnx.ModelProto, with the weights as they are: nothing folded, nothing renamed."""
    # Traced with two images: one would be taken for a constant.
    example = torch.zeros(2, *trained.input_shape, dtype=_dtype(trained.model))
    disabled, noise = logging.root.manager.disable, io.StringIO()
    # PyTorch names every package that it could have used, and prints its graphs where it fails.
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(noise), redirect_stderr(noise):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                trained.model,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                optimize=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        raise ModelError(
            f"PyTorch's ONNX exporter cannot convert {trained.recipe.model} ({reason}): write it so that "
            "torch.export.export takes it."
        ) from error
    finally:
        logging.disable(disabled)
    return program.model_proto


def _dtype(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype


def _difference(trained: Trained, data: bytes, seed: int) -> float:
    """Largest difference of the file's logits from PyTorch's; ModelError when it is too large."""
    from onnx.reference import ReferenceEvaluator

    drawn = np.random.default_rng(seed).standard_normal((COMPARED, *trained.input_shape))
    x = torch.from_numpy(drawn).to(_dtype(trained.model))
    with torch.inference_mode():
        expected = trained.model(x).numpy()
    (found,) = ReferenceEvaluator(data).run(None, {INPUT: x.numpy()})
    if found.shape != expected.shape:
        raise ModelError(
            f"The exported {trained.recipe.model} answers {list(found.shape)} where PyTorch answers "
            f"{list(expected.shape)}: nothing was written."
        )
    difference = float(np.abs(found - expected).max())
    largest = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if not difference <= largest:  # turns NaN away too
        raise ModelError(
            f"The exported {trained.recipe.model} differs from PyTorch by {difference:.2g} in onnx's reference "
            f"evaluator, more than {largest:.2g}: nothing was written."
        )
    return difference
