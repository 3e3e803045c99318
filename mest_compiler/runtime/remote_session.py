"""A session whose device is reached over TVM's RPC: the library is loaded there, and tensors live there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import tvm
from tvm import relax

from mest_compiler.devices.machine_code import machine_of, same_machines
from mest_compiler.errors import ArtifactError
from mest_compiler.signature import STEP

from .artifact import Artifact
from .hosts import StepHost


class RemoteTensor:
    """A tensor of a session: here until a step is called with it, from then on there.

    The virtual machine takes no tensor over RPC as it is, it copies it; what the step computes on is its own copy, and
    only its results tell where that is. So a tensor waits here for the first step, which finds it its place.
    """

    def __init__(self, array: np.ndarray) -> None:
        self._here = np.array(array, order="C")
        self.there: tvm.runtime.Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return self._here.shape

    @property
    def dtype(self) -> np.dtype:
        """Of its numbers."""
        return self._here.dtype

    def copyfrom(self, array: np.ndarray) -> None:
        """Write all of it."""
        array = np.broadcast_to(np.asarray(array, self.dtype), self.shape)
        if self.there is None:
            np.copyto(self._here, array)
        else:
            self.there.copyfrom(np.ascontiguousarray(array).reshape(self.shape))

    def numpy(self) -> np.ndarray:
        """A copy of it."""
        return self._here.copy() if self.there is None else self.there.numpy()

    def on(self, device: tvm.runtime.Device) -> tvm.runtime.Tensor:
        """Where it is there, or a copy of what it is here."""
        return tvm.runtime.tensor(self._here, device) if self.there is None else self.there

    def move(self, there: tvm.runtime.Tensor) -> None:
        """From now on it is there, as it is here."""
        there.copyfrom(self._here)
        self.there = there


class RemoteSession:
    """As `session.Session`, on the other side of a connection.

    Functions are called through the virtual machine's state, since RPC brings no tuples back: the step's arguments are
    sent once, and results are fetched when they are asked for.
    """

    program_bytes = None

    def __init__(self, artifact: Artifact, host: StepHost) -> None:
        """Loads the artifact's library on the host.

        Raises:
            ArtifactError: a step of micro-batches, which has its state in two functions, or code for another machine.
            DeviceError: the host is gone or cannot load it.
        """
        wanted = artifact.manifest["device"]
        step = artifact.signature[STEP]
        self._places = [step.handed_out.get(at) for at in range(len(step.arguments))]
        if None in self._places:
            raise ArtifactError(
                "A step that trains a batch in parts does not run over RPC: compile it without a memory limit, or with "
                "one that a whole batch fits in."
            )
        _check_code(artifact.manifest["needs"], host)
        self.threads, self.device, self._host = wanted["threads"], host.device(wanted["kind"]), host
        module = host.load(artifact.library)
        with self.during("the start of the step's program"):
            self.vm = relax.VirtualMachine(module, self.device)
        self._ready = False

    def __getitem__(self, name: str) -> Any:
        """A function of the artifact; `release` has nothing to do here: a state keeps its results until the next
        call."""
        return (lambda: ()) if name == "release" else partial(self._call, name)

    def _call(self, name: str, *args: RemoteTensor) -> Any:
        if name == STEP and not self._ready:
            self._settle(args)
        if name != STEP:
            self.vm.set_input(name, *(arg.on(self.device) for arg in args))
        self.vm.invoke_stateful(name)
        return Results(self.vm, name) if name == STEP else self.vm._get_output(name)

    def _settle(self, args: Sequence[RemoteTensor]) -> None:
        """Finds the step's copies of its arguments: a first step on them hands them out, and then they are filled."""
        self.vm.set_input(STEP, *(arg.on(self.device) for arg in args))
        self.vm.invoke_stateful(STEP)
        for arg, place in zip(args, self._places, strict=True):
            arg.move(self.vm._get_output(STEP, place))
        self._ready = True

    def tensor(self, array: np.ndarray) -> RemoteTensor:
        """A tensor with a copy of this."""
        return RemoteTensor(array)

    def chosen(self, results: Results, places: Mapping[str, int]) -> Mapping[str, tvm.runtime.Tensor]:
        """Some of the results of a function by name, fetched when they are asked for."""
        return Chosen(results, places)

    def during(self, what: str) -> AbstractContextManager[None]:
        """What is asked of the device within is called `what` in sentences.

        Raises:
            DeviceLostError: it went away. DeviceError: it could not do what it was asked for.
        """
        return self._host.during(what)

    def sync(self) -> None:
        """Waits until the device has done all it was asked for."""
        self.device.sync()


def _check_code(needs: Mapping[str, Any], host: StepHost) -> None:
    """Raise ArtifactError where the host says that it cannot run the code: by its triple, and by what LLVM knows of
    its model of CPU. One that does not say (a phone's tvm_rpc) has its loader, which refuses another machine's code."""
    said = host.llvm()
    if said is None:
        return
    triple, mcpu = said
    if not same_machines(needs["triple"], triple):
        raise ArtifactError(
            f"The artifact was compiled for {needs['triple']}, and the server's machine is {triple}: compile it for "
            "that one, with a device profile whose host is that."
        )
    machine = machine_of(triple, mcpu)
    absent = sorted(set(needs["features"]) - set(machine.features)) if machine is not None else []
    if absent:
        raise ArtifactError(
            f"The artifact's code may use {', '.join(absent)}, which the server's CPU ({mcpu}) lacks: compile it there."
        )


class Results(Sequence):
    """What a function that returns a tuple left in the virtual machine's state, until its next call."""

    def __init__(self, vm: relax.VirtualMachine, name: str) -> None:
        self._vm, self._name = vm, name

    def __len__(self) -> int:
        return int(self._vm._get_output_arity(self._name))

    def __getitem__(self, place: int) -> tvm.runtime.Tensor:
        return self._vm._get_output(self._name, place)


class Chosen(Mapping):
    """Some results of a function by name."""

    def __init__(self, results: Results, places: Mapping[str, int]) -> None:
        self._results, self._places = results, places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __getitem__(self, name: str) -> tvm.runtime.Tensor:
        return self._results[self._places[name]]
