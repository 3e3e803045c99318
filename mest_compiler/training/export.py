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
from mest_compiler.losses.outputs import arguments_of, outputs_of
from mest_compiler.signature import TensorSpec
from mest_compiler.sparsity.masks import save_masks
from mest_compiler.sparsity.profile import LayerPlan, Profile
from mest_compiler.training.built_for import BuiltFor
from mest_compiler.training.data_arrays import ARRAYS
from mest_compiler.training.recipe import Recipe
from mest_compiler.training.run_folder import CHECKPOINT
from mest_compiler.training.run_reading import read_checkpoint

IMAGES, LOGITS = "images", "logits"
"""What the only input and output of a network for images are called in its ONNX file; those of others have the names
that their forward gives them."""
COMPARED = 3
"""Examples on which the ONNX file is compared with PyTorch; not the number that it is traced with."""
TOLERANCE = 1e-4
"""Largest difference from PyTorch, as a fraction of the largest output (or of 1)."""


@dataclass(frozen=True)
class Trained:
    """The network of a run as its checkpoint has it.

    model: on the CPU, in evaluation mode; masks: bool [F, C, kh, kw], True = kept, and schemes, of its sparse
    parameters by name; inputs: of an example, by name; epochs: finished ones.
    """

    recipe: Recipe
    model: nn.Module
    masks: Mapping[str, np.ndarray]
    schemes: Mapping[str, str]
    inputs: Mapping[str, TensorSpec]
    epochs: int

    @classmethod
    def of_run(cls, run_dir: Path) -> Trained:
        """The network of a run, finished or not; its data set is not needed.

        Raises:
            CheckpointError: no run, or a checkpoint that is damaged or does not fit the recipe's model. ModelError: the
                model cannot be built, such as one whose file is gone.
        """
        recipe, content = read_checkpoint(run_dir)
        source = str(run_dir / CHECKPOINT)
        built_for = BuiltFor.from_json(content.extra["network"], source)
        model = models.build(recipe.model, **built_for.sizes, width=recipe.width)
        shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        # Copied, because what a file is read into may be read-only.
        state = {n: torch.from_numpy(a.copy()) for n, a in content.dense_state(shapes, source).items()}
        model.to(next(tensor.dtype for tensor in state.values() if tensor.is_floating_point()))
        model.load_state_dict(state)
        masks = content.masks(shapes, source)
        return cls(recipe, model.eval(), masks, content.schemes, built_for.inputs, content.extra["position"]["epoch"])

    def examples(self, count: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Random inputs [count, ...] by name; whole numbers are zeros, since not all mean something."""
        dtype = next(self.model.parameters()).dtype
        found = {}
        for name, spec in self.inputs.items():
            shape = (count, *spec.shape)
            whole = np.dtype(spec.dtype).kind != "f"
            found[name] = (
                torch.zeros(shape, dtype=getattr(torch, spec.dtype))
                if whole
                else torch.from_numpy(rng.standard_normal(shape)).to(dtype)
            )
        return found

    def outputs(self, examples: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the network returns, by name."""
        args, kwargs = arguments_of(self.model, examples)
        with torch.inference_mode():
            return outputs_of(self.model(*args, **kwargs))

    def names(self) -> tuple[list[str], list[str]]:
        """Of inputs and outputs in an ONNX file, in the order of those here."""
        if self.recipe.data != ARRAYS:
            return [IMAGES], [LOGITS]
        return list(self.inputs), list(self.outputs(self.examples(1, np.random.default_rng(0))))

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
    """An ONNX file: its opset, its bytes, and its outputs' largest difference from PyTorch's on random examples."""

    opset: int
    bytes: int
    difference: float


def export_onnx(trained: Trained, path: Path, seed: int = 0) -> OnnxFacts:
    """Write the network in evaluation mode as ONNX, for any number of examples; checked before it is put in place.

    onnx's checker must accept it, and onnx's reference evaluator must agree with PyTorch on random examples, drawn with
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
    # Traced with two examples: one would be taken for a constant.
    args, kwargs = arguments_of(trained.model, trained.examples(2, np.random.default_rng(0)))
    batch, (inputs, outputs) = torch.export.Dim("batch"), trained.names()
    disabled, noise = logging.root.manager.disable, io.StringIO()
    # PyTorch names every package that it could have used, and prints its graphs where it fails.
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(noise), redirect_stderr(noise):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                trained.model,
                args,
                kwargs=kwargs,
                dynamo=True,
                dynamic_shapes={name: {0: batch} for name in kwargs} or ({0: batch},) * len(args),
                input_names=inputs,
                output_names=outputs,
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


def _difference(trained: Trained, data: bytes, seed: int) -> float:
    """Largest difference of the file's outputs from PyTorch's; ModelError when it is too large."""
    from onnx.reference import ReferenceEvaluator

    examples = trained.examples(COMPARED, np.random.default_rng(seed))
    expected = [output.numpy() for output in trained.outputs(examples).values()]
    (inputs, _), arrays = trained.names(), [tensor.numpy() for tensor in examples.values()]
    found = ReferenceEvaluator(data).run(None, dict(zip(inputs, arrays, strict=True)))
    shapes, wanted = ([list(array.shape) for array in some] for some in (found, expected))
    if shapes != wanted:
        raise ModelError(
            f"The exported {trained.recipe.model} answers {shapes} where PyTorch answers {wanted}: nothing was written."
        )
    difference = max(float(np.abs(ours - theirs).max()) for ours, theirs in zip(found, expected, strict=True))
    largest = TOLERANCE * max(1.0, *(float(np.abs(output).max()) for output in expected))
    if not difference <= largest:  # turns NaN away too
        raise ModelError(
            f"The exported {trained.recipe.model} differs from PyTorch by {difference:.2g} in onnx's reference "
            f"evaluator, more than {largest:.2g}: nothing was written."
        )
    return difference
