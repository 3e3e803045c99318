"""Trains with a compiled step: holds its state, swaps structures without compiling, writes and reads checkpoints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from mest_compiler.errors import CheckpointError, MaskError, MestError, StructureError
from mest_compiler.kernels.index_arrays import index_arrays
from mest_compiler.kernels.problem import LayerProblem
from mest_compiler.losses import LOSSES, Loss, loss_of
from mest_compiler.optimizers import optimizer_of
from mest_compiler.signature import HYPER, PREDICT, STEP, UPDATE, WEIGHT, Role, part_of
from mest_compiler.sparsity import mutation
from mest_compiler.sparsity.layer_spec import SparseLayerSpec
from mest_compiler.sparsity.methods import Need
from mest_compiler.sparsity.schemes import Scheme, Shape
from mest_compiler.sparsity.structure import Structure, from_units

from . import checkpoint
from .artifact import Artifact
from .asking import asks
from .compiled_layers import check_forms
from .hosts import StepHost
from .named_arrays import Arrays, NamedArrays
from .remote_session import RemoteSession
from .session import Session
from .step_seed import step_seed


class Trainer:
    """One network in training: parameters, running statistics, the optimiser's slots and structures live on the device.

    A step of an artifact with micro-batches is PyTorch's gradient accumulation: the parts of a batch go through the
    network one after another, each with the running statistics updated and dropouts of its own, and the gradient of the
    loss over them all makes one update.
    """

    offers = frozenset({Need.IMPORTANCE})

    def __init__(
        self, artifact: Artifact, threads: int | None = None, seed: int = 0, host: StepHost | None = None,
        loss: Loss | None = None,
    ) -> None:  # fmt: skip
        """Args: artifact: a compiled step. threads: None: as many as it was compiled for. seed: at least 0, draws what
        the dropouts of each step keep. host: a connection to where it shall run; None: this machine.
        loss: where it is a function of one's own, which no artifact holds: for `evaluate`.

        Raises:
            ArtifactError: the artifact does not run on this machine, or its program takes other index arrays than its
                layers have. StructureError: a structure is not the layer's, or inconsistent.
        """
        self.artifact, self.manifest = artifact, artifact.manifest
        self.session = Session(artifact, threads) if host is None else RemoteSession(artifact, host)
        self.seed, self.steps, self.loss = seed, 0, loss
        self._fill()

    @asks("the sending of weights and structures")
    def _fill(self) -> None:
        """Makes all tensors."""
        artifact = self.artifact
        self.dtype = np.dtype(self.manifest["dtype"])
        self.parameters, self.buffers = list(self.manifest["parameters"]), list(self.manifest["buffers"])
        layers = self.manifest["layers"]
        sparse = (p for p in self.parameters if "capacity" in layers.get(p, ()))
        self.problems = {p: LayerProblem.from_json(layers[p]) for p in sparse}
        self.structures: dict[str, Structure] = {}
        # What the last call of the step handed out: loss, logits, then gradients in parameter order.
        self._gradients: Mapping[str, tvm.runtime.Tensor] | None = None
        held = (*self.parameters, *self.manifest["frozen"], *self.buffers)
        self._tensors = {name: self.session.tensor(artifact.tensors[name]) for name in held}
        facts = self.manifest["optimizer"]
        self.optimizer = optimizer_of(facts["name"], facts)
        if self.loss is None and self.manifest["loss"]["name"] in LOSSES:
            self.loss = loss_of(self.manifest["loss"]["name"], self.manifest["loss"])
        self.arrays = NamedArrays(self.manifest)
        self._slots = {
            part_of(p, slot): self.session.tensor(np.zeros_like(artifact.tensors[p]))
            for slot in self.optimizer.slots
            for p in self.parameters
        }
        self._index: dict[tuple[str, str], tvm.runtime.Tensor] = {}
        for name in self.problems:
            self._bind(name, artifact.structures[name])
        self._hyper = self.session.tensor(np.zeros(len(self.optimizer.hypers), self.dtype))
        self._hyper_values: tuple[float, ...] = ()
        self._lr = 0.0
        self._step_seed = self.session.tensor(np.zeros((), np.uint32))
        self._inputs = self._input_buffers()
        self._sums: dict[str, tvm.runtime.Tensor] = {}
        if len(self._inputs) > 1:
            self._sums = {p: self.session.tensor(np.zeros_like(artifact.tensors[p])) for p in self.parameters}
            self._sums[WEIGHT] = self.session.tensor(np.zeros((), self.dtype))
        # Micro-batches hand out the sums of all gradients, a whole batch only those that mutation needs.
        results = artifact.signature[STEP].result_places(Role.GRADIENT, Role.ACCUMULATOR)
        self._gradient_at = {p: results[p] for p in self.problems}
        step = artifact.signature[STEP]
        self._handed_out = {role: step.result_places(role) for role in (Role.LOSS, Role.WEIGHT, Role.OUTPUT)}
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
        held: dict[Role, Mapping[str, tvm.runtime.Tensor]] = {
            **dict.fromkeys((Role.PARAMETER, Role.FROZEN, Role.BUFFER), self._tensors),
            **dict.fromkeys((Role.INPUT, Role.TARGET), inputs),
            Role.INDEX: {part_of(*key): tensor for key, tensor in self._index.items()},
            Role.SLOT: self._slots,
            Role.ACCUMULATOR: self._sums,
            Role.HYPER: {HYPER: self._hyper},
            Role.SEED: defaultdict(lambda: self._step_seed),
            Role.FIRST: defaultdict(lambda: first),
        }
        return [held[arg.role][arg.name] for arg in self.artifact.signature[function].arguments]

    def _bind(self, name: str, structure: Structure) -> None:
        """Index arrays of a layer for a structure, into the buffers that the program reads."""
        kernels = self.manifest["layers"][name]["kernels"]
        used = {d: (kernel["indexing"], kernel["knobs"]["groups"]) for d, kernel in kernels.items()}
        arrays = index_arrays(structure, self.problems[name], used)
        check_forms(self.artifact.signature, name, arrays)
        for key, array in arrays.items():
            if (name, key) in self._index:
                self._index[name, key].copyfrom(array)
            else:
                self._index[name, key] = self.session.tensor(array)
        self.structures[name] = structure

    # ---- training
    @asks("a training step")
    def step(self, x: Arrays, y: Arrays, lr: float) -> tuple[float, Arrays]:
        """One update on inputs x [N, ...] and targets y [N, ...], with N the artifact's batch.

        Each is an array where the model has one, or arrays by name. Returns (loss, outputs [N, ...] before the update),
        the latter likewise.

        Raises:
            ArtifactError: other names or shapes than the artifact's, or targets that the loss does not take.
        """
        batch, part = self.manifest["batch"], self.manifest["micro_batch"]
        inputs, targets = self.arrays.taken("inputs", x, batch), self.arrays.taken("targets", y, batch)
        if self.loss is not None:
            self.loss.check(targets, self.arrays.outputs)
        for number, buffers in enumerate(self._inputs):
            chosen = slice(number * part, (number + 1) * part)
            for name, array in {**inputs, **targets}.items():
                buffers[name].copyfrom(np.asarray(array[chosen], str(buffers[name].dtype), order="C"))
        self._lr = lr
        found = self.run()
        total = sum(float(one[Role.LOSS].numpy()) for one in found)
        weight = sum(float(one[Role.WEIGHT].numpy()) if Role.WEIGHT in one else 1.0 for one in found)
        parts = zip(*([one[Role.OUTPUT][name].numpy() for name in self.arrays.outputs] for one in found), strict=True)
        return total / weight, self.arrays.given([np.concatenate(part) for part in parts])

    @asks("a training step")
    def run(self) -> list[dict[Role, Any]]:
        """One update on what the input buffers hold, at the last rate (for timing). Of each part its loss, the loss's
        weight and the outputs by name, as device tensors; a whole batch's loss is divided by its weight already."""
        found, parts = [], len(self._step_args)
        values = self.optimizer.hyper_values(self.steps + 1, self._lr)
        if values != self._hyper_values:  # SGD's are the same in every step, and a copy is a message over RPC
            self._hyper.copyfrom(np.asarray(values, self.dtype))
            self._hyper_values = values
        for number, args in enumerate(self._step_args):
            if self.manifest["seeded"]:
                self._step_seed.copyfrom(np.asarray(step_seed(self.seed, self.steps * parts + number)))
            self._gradients = None  # or two steps' would take memory at the same time
            self.session["release"]()
            outputs = self.session[STEP](*args)
            self._gradients = self.session.chosen(outputs, self._gradient_at)
            one = {role: {name: outputs[at] for name, at in p.items()} for role, p in self._handed_out.items()}
            scalars = {role: next(iter(one[role].values())) for role in (Role.LOSS, Role.WEIGHT) if one[role]}
            found.append({**scalars, Role.OUTPUT: one[Role.OUTPUT]})
        if self._sums:
            self.session[UPDATE](*self._update_args)
        self.steps += 1
        return found

    @asks("a prediction")
    def predict(self, x: Arrays) -> Arrays:
        """Outputs [N, ...] in evaluation mode for any N >= 1 of inputs x [N, ...]; changes nothing. Arrays as of
        `step`.

        Raises:
            ArtifactError: examples of another shape.
        """
        batch, given = self.manifest["micro_batch"], self.arrays.taken("inputs", x)
        count, found = len(next(iter(given.values()))), []
        self.session["release"]()  # of the last step's outputs
        for start in range(0, count, batch):
            for name, array in given.items():
                part, tensor = array[start : start + batch], self._inputs[0][name]
                padded = np.zeros(tensor.shape, str(tensor.dtype))
                padded[: len(part)] = part
                tensor.copyfrom(padded)
            outputs = self.session[PREDICT](*self._predict_args)
            outputs = [outputs] if len(self.arrays.outputs) == 1 else outputs
            found.append([output.numpy()[: count - start] for output in outputs])
        return self.arrays.given([np.concatenate(part) for part in zip(*found, strict=True)])

    def evaluate(self, x: Arrays, y: Arrays) -> float:
        """Mean over the examples of what the loss calls right, or of the error; see `Loss.scores`."""
        if self.loss is None:
            raise MestError(
                "The artifact's loss is a function of one's own, which it does not hold: give it to Trainer."
            )
        outputs = self.arrays.of_outputs(self.predict(x))
        return float(np.mean(self.loss.scores(outputs, self.arrays.taken("targets", y))))

    # ---- structures
    def sparse_layers(self) -> dict[str, tuple[Scheme, Shape]]:
        """Scheme and weight shape (F, C, kh, kw) of the sparse layers, in the order of the parameters."""
        return {name: (problem.sparse.kind, problem.sparse.shape) for name, problem in self.problems.items()}

    def masks(self) -> dict[str, np.ndarray]:
        """bool masks [F, C, kh, kw] of the sparse layers."""
        return {name: structure.to_mask() for name, structure in self.structures.items()}

    def kept_units(self) -> dict[str, np.ndarray]:
        """int32, ascending: ids of the units that each sparse layer keeps (see `sparsity.scheme`)."""
        return {name: structure.kept_units() for name, structure in self.structures.items()}

    @asks("the fetching of gradients")
    def importance(self, coefficient: float) -> dict[str, np.ndarray]:
        """float64 [units] by layer, in the order of `kept_units`: Eq. 1 with the gradients of the last step.

        Raises:
            MestError: there was no step since the start, or since the last mutation or `load`.
        """
        if self._gradients is None:
            raise MestError("The importance of weights needs a gradient: train a step first.")
        found = {}
        # Of a batch in parts they are sums that are yet to be divided by their weight.
        weight = self._sums[WEIGHT].numpy() if self._sums else 1.0
        for name, gradient in self._gradients.items():
            values = self._tensors[name].numpy(), gradient.numpy() / weight
            found[name] = mutation.importance(*map(self.structures[name].by_unit, values), coefficient)
        return found

    @asks("a mutation")
    def mutate(self, changes: Mapping[str, mutation.Change]) -> None:
        """Other units are kept from now on, without compiling; see `Change`. Layers not named stay as they are.

        Raises:
            MaskError: an unknown layer. StructureError: ids that no mask of the scheme keeps, or more than the
            capacity. Nothing is changed then.
        """
        new = {}
        for name, change in changes.items():  # all are checked before the first is changed
            new[name] = self._structure(name, change.kept)
        for name, structure in new.items():
            slots = (self._slots[part_of(name, slot)] for slot in self.optimizer.slots)
            for tensor in (self._tensors[name], *slots):
                moved = self.structures[name].remap(structure, tensor.numpy(), changes[name].survivors)
                tensor.copyfrom(moved)
            self._bind(name, structure)
        self._gradients = None

    def _structure(self, name: str, units: np.ndarray) -> Structure:
        """The structure of a layer that keeps these units, with the capacity that the program has room for."""
        spec = self._spec(name)
        return from_units(units, spec.shape, spec.scheme, spec.capacity, self.manifest["device"]["threads"])

    def _spec(self, name: str) -> SparseLayerSpec:
        if name not in self.problems:
            raise MaskError(f"{name!r} is no sparse layer of this artifact.")
        return self.problems[name].sparse

    def swap_structures(self, masks: Mapping[str, np.ndarray]) -> None:
        """As `mutate`, from bool masks [F, C, kh, kw].

        A unit that stays keeps its values and slots, one that is new starts at zero with slots of zero (a kernel with
        another pattern is another unit).

        Raises:
            MaskError: an unknown layer, or a mask of another shape or scheme.
            StructureError: more units than the capacity.
        """
        changes = {}
        for name, mask in masks.items():
            spec, mask = self._spec(name), np.asarray(mask)
            if mask.shape != spec.shape:
                raise MaskError(f"The mask of {name!r} has shape {list(mask.shape)}, and the layer {list(spec.shape)}.")
            kept = spec.kind.units_of(mask)
            changes[name] = mutation.Change(np.intersect1d(kept, self.structures[name].unit_ids()), kept)
        self.mutate(changes)

    # ---- state
    def _dense(self, name: str, values: np.ndarray) -> np.ndarray:
        if name not in self.structures:
            return values.copy()
        return self.structures[name].expand(values).reshape(self._shape(name))

    def _shape(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter as torch has it; a linear layer's structure has (F, C, 1, 1)."""
        return tuple(self.manifest["parameters"][name])

    @asks("the fetching of weights")
    def state(self) -> dict[str, np.ndarray]:
        """Parameters and buffers by torch name, sparse weights with their zeros."""
        return {name: self._dense(name, tensor.numpy()) for name, tensor in self._tensors.items()}

    @asks("the fetching of the optimiser's state")
    def slots(self) -> dict[str, dict[str, np.ndarray]]:
        """What the optimiser keeps: by slot, such as "momentum", and then by parameter name, like `state`."""
        return {
            slot: {p: self._dense(p, self._slots[part_of(p, slot)].numpy()) for p in self.parameters}
            for slot in self.optimizer.slots
        }

    def state_bytes(self) -> dict[str, int]:
        """Bytes of weights, gradients, the optimiser's slots and indices that the training state takes."""
        weights = sum(int(np.prod(self._tensors[p].shape)) * self.dtype.itemsize for p in self.parameters)
        indices = sum(int(np.prod(t.shape)) * np.dtype(t.dtype).itemsize for t in self._index.values())
        slots = len(self.optimizer.slots) * weights
        return {"weights": weights, "gradients": weights, "optimizer": slots, "indices": indices}

    @asks("the fetching of weights")
    def to_artifact(self) -> Artifact:
        """The artifact with the weights and structures as they are now."""
        return self.artifact.with_state({n: t.numpy().copy() for n, t in self._tensors.items()}, self.structures)

    # ---- checkpoints
    def _identity(self) -> checkpoint.Identity:
        m, tensors = self.manifest, self._tensors
        # What is not trained is held as buffers are.
        held = {"parameters": m["parameters"], "buffers": {**m["frozen"], **m["buffers"]}}
        forms = ({n: (str(tensors[n].dtype), shape) for n, shape in some.items()} for some in held.values())
        schemes = {name: problem.sparse.scheme for name, problem in self.problems.items()}
        return checkpoint.Identity(*forms, schemes, self.optimizer)

    def _compact(self, name: str, tensor: tvm.runtime.Tensor) -> np.ndarray:
        """As a checkpoint has it: a sparse one in ascending order of unit ids."""
        values = tensor.numpy()
        return self.structures[name].by_unit(values) if name in self.structures else values

    @asks("the fetching of a checkpoint")
    def save(self, path: str | Path, extra: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
        """Writes all state, `extra` (JSON values) and `arrays` to one file; whole or not at all.

        Every engine reads it (see `checkpoint`); for the same artifact a run goes on from it bit by bit.
        """
        content = checkpoint.Content(
            {name: self._compact(name, tensor) for name, tensor in self._tensors.items()},
            {
                slot: {p: self._compact(p, self._slots[part_of(p, slot)]) for p in self.parameters}
                for slot in self.optimizer.slots
            },
            self.kept_units(), dict(extra), arrays or {}, self.seed, self.steps,
        )  # fmt: skip
        checkpoint.write(path, content, self._identity())

    @asks("the sending of a checkpoint")
    def load(self, path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Takes all state from a checkpoint of any engine; gives its `extra` and its `arrays`.

        Raises:
            CheckpointError: missing, damaged, of another network, optimiser or scheme, or with more units than this
                artifact has room for; nothing is changed then.
        """
        content = checkpoint.read(path, self._identity())
        try:
            new = {name: self._structure(name, content.units[name]) for name in self.problems}
        except StructureError as error:
            raise CheckpointError(f"Checkpoint {path} does not fit this artifact: {error}") from error
        stored = [(tensor, name, content.state[name]) for name, tensor in self._tensors.items()]
        stored += [
            (self._slots[part_of(name, slot)], name, array)
            for slot, arrays in content.slots.items()
            for name, array in arrays.items()
        ]
        filled = [(t, new[name].from_unit_values(a) if name in new else a) for t, name, a in stored]
        for name, structure in new.items():
            self._bind(name, structure)
        for tensor, array in filled:
            tensor.copyfrom(np.asarray(array, order="C"))
        self.seed, self.steps, self._gradients = content.seed, content.steps, None
        return content.extra, dict(content.arrays)
