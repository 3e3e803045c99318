"""Trains with a compiled step: holds its state, swaps structures without compiling, writes and reads checkpoints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tvm

from mest_compiler.errors import ArtifactError, CheckpointError, MaskError, MestError, StructureError
from mest_compiler.kernels.geometry import ConvGeometry, Plane
from mest_compiler.kernels.indices import SparseConv, index_arrays
from mest_compiler.signature import MOMENTUM, PREDICT, RATE, STEP, UPDATE, Role, part_of
from mest_compiler.sparsity import mutation
from mest_compiler.sparsity.mutation import Change
from mest_compiler.sparsity.schemes import Scheme, Shape, get_scheme
from mest_compiler.sparsity.structure import Structure, from_units

from . import checkpoint
from .artifact import Artifact
from .remote_session import Place, RemoteSession
from .session import Session
from .step_seed import step_seed

Method = TypeVar("Method", bound=Callable[..., Any])


def _sparse_conv(layer: Mapping[str, Any]) -> SparseConv:
    """A sparse layer as the manifest holds it."""
    stored = dict(layer["geometry"])
    for key in ("x", "y", "dy", "dx"):
        stored[key] = Plane(**stored[key])
    for key in ("kernel", "stride", "padding", "dilation"):
        stored[key] = tuple(stored[key])
    return SparseConv(ConvGeometry(**stored), layer["scheme"], layer["capacity"])


def _asks(what: str) -> Callable[[Method], Method]:
    """Of a method that asks the device for something, called `what` in sentences about a device that fails."""

    def decorated(method: Method) -> Method:
        @wraps(method)
        def asking(self: Trainer, *args: Any, **options: Any) -> Any:
            with self.session.during(what):
                return method(self, *args, **options)

        return asking

    return decorated


class Trainer:
    """One network in training: parameters, running statistics, momenta and structures live on the device.

    A step of an artifact with micro-batches is PyTorch's gradient accumulation: the parts of a batch go through the
    network one after another, each with the running statistics updated and dropouts of its own, and the mean of their
    gradients makes one update.
    """

    def __init__(
        self, artifact: Artifact, threads: int | None = None, seed: int = 0, place: Place | None = None
    ) -> None:
        """Args: artifact: a compiled step. threads: None: as many as it was compiled for. seed: at least 0, draws what
        the dropouts of each step keep. place: a connection to where it shall run; None: this machine.

        Raises:
            ArtifactError: the artifact does not run on this machine, or its program takes other index arrays than its
                layers have. StructureError: a structure is not the layer's, or inconsistent.
        """
        self.artifact, self.manifest = artifact, artifact.manifest
        self.session = Session(artifact, threads) if place is None else RemoteSession(artifact, place)
        self.seed, self.steps = seed, 0
        self._fill()

    @_asks("the sending of weights and structures")
    def _fill(self) -> None:
        """Makes all tensors."""
        artifact = self.artifact
        self.dtype = np.dtype(self.manifest["dtype"])
        self.parameters, self.buffers = list(self.manifest["parameters"]), list(self.manifest["buffers"])
        layers = self.manifest["layers"]
        self.layers = {p: layers[p] for p in self.parameters if "capacity" in layers.get(p, ())}
        self.structures: dict[str, Structure] = {}
        # What the last call of the step handed out: loss, logits, then gradients in parameter order.
        self._gradients: Mapping[str, tvm.runtime.Tensor] | None = None
        self._tensors = {n: self.session.tensor(artifact.tensors[n]) for n in (*self.parameters, *self.buffers)}
        self._momenta = {p: self.session.tensor(np.zeros_like(artifact.tensors[p])) for p in self.parameters}
        self._index: dict[tuple[str, str], tvm.runtime.Tensor] = {}
        for name in self.layers:
            self._bind(name, artifact.structures[name])
        self._lr = self.session.tensor(np.zeros((), self.dtype))
        self._step_seed = self.session.tensor(np.zeros((), np.uint32))
        self._inputs = self._input_buffers()
        self._sums: dict[str, tvm.runtime.Tensor] = {}
        if len(self._inputs) > 1:
            self._sums = {p: self.session.tensor(np.zeros_like(artifact.tensors[p])) for p in self.parameters}
        # Micro-batches hand out the sums of all gradients, a whole batch only those that mutation needs.
        results = artifact.signature[STEP].result_places(Role.GRADIENT, Role.ACCUMULATOR)
        self._gradient_at = {p: results[p] for p in self.layers}
        self._loss_at, self._output_at = (
            next(iter(artifact.signature[STEP].result_places(role).values())) for role in (Role.LOSS, Role.OUTPUT)
        )
        flags = [self.session.tensor(np.asarray(flag, np.int32)) for flag in (1, 0)]
        self._step_args = [
            self._arguments(STEP, inputs, flags[min(number, 1)]) for number, inputs in enumerate(self._inputs)
        ]
        self._update_args = self._arguments(UPDATE) if self._sums else []
        self._predict_args = self._arguments(PREDICT, self._inputs[0])

    def _input_buffers(self) -> list[dict[str, tvm.runtime.Tensor]]:
        """Buffers of inputs and targets by name for each part of a batch."""
        taken = self.artifact.signature[STEP].of(Role.INPUT, Role.TARGET)
        return [
            {arg.name: self.session.tensor(np.zeros(arg.shape, arg.dtype)) for arg in taken}
            for _ in range(self.manifest["batch"] // self.manifest["micro_batch"])
        ]

    def _arguments(
        self,
        function: str,
        inputs: Mapping[str, tvm.runtime.Tensor] | None = None,
        first: tvm.runtime.Tensor | None = None,
    ) -> list[tvm.runtime.Tensor]:
        """What a function of the program takes. inputs: of the part of a batch; first: the flag of the first part."""
        slots = {part_of(name, MOMENTUM): tensor for name, tensor in self._momenta.items()}
        index = {part_of(*key): tensor for key, tensor in self._index.items()}
        held = {
            Role.PARAMETER: self._tensors, Role.FROZEN: self._tensors, Role.BUFFER: self._tensors, Role.SLOT: slots,
            Role.INPUT: inputs, Role.TARGET: inputs, Role.INDEX: index, Role.ACCUMULATOR: self._sums,
            Role.SEED: defaultdict(lambda: self._step_seed), Role.FIRST: defaultdict(lambda: first),
            Role.HYPER: {RATE: self._lr},
        }  # fmt: skip
        return [held[arg.role][arg.name] for arg in self.artifact.signature[function].arguments]

    def _check_forms(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """That a layer's index arrays are those the program declares: kernels take any length, and would read on."""
        found = {key: f"{array.dtype} [{len(array)}]" for key, array in arrays.items()}
        taken = (arg for function in self.artifact.signature.values() for arg in function.of(Role.INDEX))
        wanted = {arg.part: f"{arg.dtype} [{arg.shape[0]}]" for arg in taken if arg.owner == name}
        wrong = next((key for key in {**wanted, **found} if found.get(key) != wanted.get(key)), None)
        if wrong is not None:
            raise ArtifactError(
                f"Index array {wrong!r} of layer {name!r} is {found.get(wrong, 'not there')}, and the artifact's "
                f"program takes {wanted.get(wrong, 'none')}: compile it again."
            )

    def _bind(self, name: str, structure: Structure) -> None:
        """Index arrays of a layer for a structure, into the buffers that the program reads."""
        layer = self.layers[name]
        used = {d: (kernel["indexing"], kernel["knobs"]["groups"]) for d, kernel in layer["kernels"].items()}
        arrays = index_arrays(structure, _sparse_conv(layer), used)
        self._check_forms(name, arrays)
        for key, array in arrays.items():
            if (name, key) in self._index:
                self._index[name, key].copyfrom(array)
            else:
                self._index[name, key] = self.session.tensor(array)
        self.structures[name] = structure

    # ---- training
    @_asks("a training step")
    def step(self, x: np.ndarray, y: np.ndarray, lr: float) -> tuple[float, np.ndarray]:
        """One update on x [N, C, H, W] and y int64 [N], with N the artifact's batch.

        Returns (mean loss, logits [N, classes] before the update).

        Raises:
            ArtifactError: other shapes than the artifact's, or labels outside 0..classes-1.
        """
        shape = (self.manifest["batch"], *self.manifest["input_shape"])
        if x.shape != shape or y.shape != shape[:1]:
            raise ArtifactError(
                f"The artifact trains on x {list(shape)} and y [{shape[0]}], and got x {list(x.shape)} and y "
                f"{list(y.shape)}: compile it for that batch."
            )
        if y.dtype.kind not in "iu":
            raise ArtifactError(f"Labels are whole numbers, and got an array of {y.dtype}: convert it to int64.")
        if y.min() < 0 or y.max() >= self.manifest["classes"]:
            raise ArtifactError(
                f"Labels run from {y.min()} to {y.max()}, and the model has the classes 0 to "
                f"{self.manifest['classes'] - 1}."
            )
        part = self.manifest["micro_batch"]
        for number, inputs in enumerate(self._inputs):
            chosen = slice(number * part, (number + 1) * part)
            for tensor, given in zip(inputs.values(), (x, y), strict=True):
                tensor.copyfrom(np.asarray(given[chosen], tensor.dtype, order="C"))
        self._lr.copyfrom(np.asarray(lr, self.dtype))
        found = [(float(loss.numpy()), logits.numpy()) for loss, logits in self.run()]
        losses, logits = zip(*found, strict=True)
        return sum(losses) / len(losses), np.concatenate(logits)

    @_asks("a training step")
    def run(self) -> list[tuple[tvm.runtime.Tensor, tvm.runtime.Tensor]]:
        """One update on what the input buffers hold (for timing); (loss, logits) of each part as device tensors."""
        found, parts = [], len(self._step_args)
        for number, args in enumerate(self._step_args):
            if self.manifest["seeded"]:
                self._step_seed.copyfrom(np.asarray(step_seed(self.seed, self.steps * parts + number)))
            self._gradients = None  # or two steps' would take memory at the same time
            self.session["release"]()
            outputs = self.session[STEP](*args)
            self._gradients = self.session.chosen(outputs, self._gradient_at)
            found.append((outputs[self._loss_at], outputs[self._output_at]))
        if self._sums:
            self.session[UPDATE](*self._update_args)
        self.steps += 1
        return found

    @_asks("a prediction")
    def predict(self, x: np.ndarray) -> np.ndarray:
        """Logits [N, classes] in evaluation mode for any N >= 1 of x [N, C, H, W]; changes nothing.

        Raises:
            ArtifactError: examples of another shape.
        """
        batch, shape = self.manifest["micro_batch"], tuple(self.manifest["input_shape"])
        if x.ndim != 4 or x.shape[1:] != shape or len(x) < 1:
            raise ArtifactError(f"The artifact predicts examples of shape {list(shape)}, and got {list(x.shape)}.")
        found = []
        self.session["release"]()  # of the last step's logits
        for start in range(0, len(x), batch):
            part = x[start : start + batch]
            padded = np.zeros((batch, *shape), self.dtype)
            padded[: len(part)] = part
            next(iter(self._inputs[0].values())).copyfrom(padded)
            found.append(self.session[PREDICT](*self._predict_args).numpy()[: len(part)])
        return np.concatenate(found)

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> float:
        """Fraction of examples whose largest logit is their label."""
        return float(np.mean(self.predict(x).argmax(1) == y))

    # ---- structures
    def sparse_layers(self) -> dict[str, tuple[Scheme, Shape]]:
        """Scheme and weight shape (F, C, kh, kw) of the sparse layers, in the order of the parameters."""
        return {name: (get_scheme(layer["scheme"]), tuple(layer["shape"])) for name, layer in self.layers.items()}

    def masks(self) -> dict[str, np.ndarray]:
        """bool masks [F, C, kh, kw] of the sparse layers."""
        return {name: structure.to_mask() for name, structure in self.structures.items()}

    def kept_units(self) -> dict[str, np.ndarray]:
        """int32, ascending: ids of the units that each sparse layer keeps (see `sparsity.scheme`)."""
        return {name: structure.kept_units() for name, structure in self.structures.items()}

    @_asks("the fetching of gradients")
    def importance(self, coefficient: float) -> dict[str, np.ndarray]:
        """float64 [units] by layer, in the order of `kept_units`: Eq. 1 with the gradients of the last step.

        Raises:
            MestError: there was no step since the start, or since the last mutation or `load`.
        """
        if self._gradients is None:
            raise MestError("The importance of weights needs a gradient: train a step first.")
        found = {}
        for name, gradient in self._gradients.items():
            values = self._tensors[name].numpy(), gradient.numpy()
            found[name] = mutation.importance(*map(self.structures[name].by_unit, values), coefficient)
        return found

    @_asks("a mutation")
    def mutate(self, changes: Mapping[str, Change]) -> None:
        """Other units are kept from now on, without compiling; see `Change`. Layers not named stay as they are.

        Raises:
            MaskError: an unknown layer. StructureError: ids that no mask of the scheme keeps, or more than the
            capacity. Nothing is changed then.
        """
        new = {}
        for name, change in changes.items():  # all are checked before the first is changed
            new[name] = self._structure(name, change.kept)
        for name, structure in new.items():
            for tensor in (self._tensors[name], self._momenta[name]):
                moved = self.structures[name].remap(structure, tensor.numpy(), changes[name].survivors)
                tensor.copyfrom(moved)
            self._bind(name, structure)
        self._gradients = None

    def _structure(self, name: str, units: np.ndarray) -> Structure:
        """The structure of a layer that keeps these units, with the capacity that the program has room for."""
        layer, threads = self._layer(name), self.manifest["device"]["threads"]
        return from_units(units, tuple(layer["shape"]), layer["scheme"], layer["capacity"], threads)

    def _layer(self, name: str) -> Mapping[str, Any]:
        if name not in self.layers:
            raise MaskError(f"{name!r} is no sparse layer of this artifact.")
        return self.layers[name]

    def swap_structures(self, masks: Mapping[str, np.ndarray]) -> None:
        """As `mutate`, from bool masks [F, C, kh, kw].

        A unit that stays keeps value and momentum, one that is new starts at zero with zero momentum (a kernel with
        another pattern is another unit).

        Raises:
            MaskError: an unknown layer, or a mask of another shape or scheme.
            StructureError: more units than the capacity.
        """
        changes = {}
        for name, mask in masks.items():
            layer, mask = self._layer(name), np.asarray(mask)
            if list(mask.shape) != layer["shape"]:
                raise MaskError(f"The mask of {name!r} has shape {list(mask.shape)}, and the layer {layer['shape']}.")
            kept = get_scheme(layer["scheme"]).units_of(mask)
            changes[name] = Change(np.intersect1d(kept, self.structures[name].unit_ids()), kept)
        self.mutate(changes)

    # ---- state
    def _dense(self, name: str, values: np.ndarray) -> np.ndarray:
        if name not in self.structures:
            return values.copy()
        return self.structures[name].expand(values).reshape(self._shape(name))

    def _shape(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter as torch has it; a linear layer's structure has (F, C, 1, 1)."""
        return tuple(self.manifest["parameters"][name])

    @_asks("the fetching of weights")
    def state(self) -> dict[str, np.ndarray]:
        """Parameters and buffers by torch name, sparse weights with their zeros."""
        return {name: self._dense(name, tensor.numpy()) for name, tensor in self._tensors.items()}

    @_asks("the fetching of momenta")
    def momentum(self) -> dict[str, np.ndarray]:
        """Momenta by parameter name, like `state`."""
        return {name: self._dense(name, tensor.numpy()) for name, tensor in self._momenta.items()}

    def state_bytes(self) -> dict[str, int]:
        """Bytes of weights, gradients, momentum and indices that the training state takes."""
        weights = sum(int(np.prod(self._tensors[p].shape)) * self.dtype.itemsize for p in self.parameters)
        indices = sum(int(np.prod(t.shape)) * np.dtype(t.dtype).itemsize for t in self._index.values())
        return {"weights": weights, "gradients": weights, "momentum": weights, "indices": indices}

    @_asks("the fetching of weights")
    def to_artifact(self) -> Artifact:
        """The artifact with the weights and structures as they are now."""
        return self.artifact.with_state({n: t.numpy().copy() for n, t in self._tensors.items()}, self.structures)

    # ---- checkpoints
    def _identity(self) -> checkpoint.Identity:
        m, tensors = self.manifest, self._tensors
        forms = (
            {n: (str(tensors[n].dtype), shape) for n, shape in m[kind].items()} for kind in ("parameters", "buffers")
        )
        schemes = {name: layer["scheme"] for name, layer in self.layers.items()}
        return checkpoint.Identity(*forms, schemes, m["optimizer"])

    def _compact(self, tensors: Mapping[str, tvm.runtime.Tensor]) -> dict[str, np.ndarray]:
        """As a checkpoint has them: sparse ones in ascending order of unit ids."""
        found = {name: tensor.numpy() for name, tensor in tensors.items()}
        return found | {name: s.by_unit(found[name]) for name, s in self.structures.items() if name in found}

    @_asks("the fetching of a checkpoint")
    def save(self, path: str | Path, extra: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
        """Writes all state, `extra` (JSON values) and `arrays` to one file; whole or not at all.

        Every backend reads it (see `checkpoint`); for the same artifact a run goes on from it bit by bit.
        """
        content = checkpoint.Content(
            self._compact(self._tensors), self._compact(self._momenta), self.kept_units(), dict(extra), arrays or {},
            self.seed, self.steps,
        )  # fmt: skip
        checkpoint.write(path, content, self._identity())

    @_asks("the sending of a checkpoint")
    def load(self, path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Takes all state from a checkpoint of any backend; gives its `extra` and its `arrays`.

        Raises:
            CheckpointError: missing, damaged, of another network, optimiser or scheme, or with more units than this
                artifact has room for; nothing is changed then.
        """
        content = checkpoint.read(path, self._identity())
        try:
            new = {name: self._structure(name, content.units[name]) for name in self.layers}
        except StructureError as error:
            raise CheckpointError(f"Checkpoint {path} does not fit this artifact: {error}") from error
        filled = [
            {n: new[n].from_unit_values(a) if n in new else a for n, a in part.items()}
            for part in (content.state, content.momentum)
        ]
        for name, structure in new.items():
            self._bind(name, structure)
        for tensors, arrays in zip((self._tensors, self._momenta), filled, strict=True):
            for name, tensor in tensors.items():
                tensor.copyfrom(np.asarray(arrays[name], order="C"))
        self.seed, self.steps, self._gradients = content.seed, content.steps, None
        return content.extra, dict(content.arrays)
