"""A session whose device is reached over TVM's RPC: the library is loaded there, and tensors live there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

import numpy as np
import tvm
from tvm import relax

from mest_compiler.errors import ArtifactError

from .artifact import Artifact

_ONE_RESULT = -1  # what the virtual machine calls the arity of a function that returns no tuple


class Place(Protocol):
    """A connection, as far as a session needs it; see `remote.connection`."""

    def load(self, library: bytes) -> tvm.runtime.Module:
        """The library's module, loaded there."""
        ...

    def device(self, kind: str) -> tvm.runtime.Device:
        """The device of this kind there."""
        ...

    def during(self, what: str) -> AbstractContextManager[None]:
        """What is asked for within is called `what` in sentences."""
        ...


class RemoteSession:
    """As `session.Session`, on the other side of a connection.

    Functions are called through the virtual machine's state, since RPC brings no tuples back: arguments are sent once,
    and again only where others are given; results are fetched when they are asked for.
    """

    program_bytes = None

    def __init__(self, artifact: Artifact, place: Place) -> None:
        """Loads the artifact's library at the place.

        Raises:
            DeviceError: the place is gone or cannot load it.
        """
        wanted = artifact.manifest["device"]
        if wanted["kind"] not in ("cpu", "opencl"):
            raise ArtifactError(f"The artifact was compiled for a device of an unknown kind, {wanted['kind']!r}.")
        self.threads, self.device = wanted["threads"], place.device(wanted["kind"])
        self._place = place
        module = place.load(artifact.library)
        with self.during("the start of the step's program"):
            self.vm = relax.VirtualMachine(module, self.device)
        self._given: dict[str, tuple[Any, ...]] = {}

    def __getitem__(self, name: str) -> Any:
        """A function of the artifact; `release` has nothing to do here: a state keeps its results until the next
        call."""
        return (lambda: ()) if name == "release" else partial(self._call, name)

    def _call(self, name: str, *args: tvm.runtime.Tensor) -> Any:
        given = self._given.get(name, ())
        if len(given) != len(args) or any(old is not new for old, new in zip(given, args, strict=True)):
            self.vm.set_input(name, *args)
            self._given[name] = args
        self.vm.invoke_stateful(name)
        if self.vm._get_output_arity(name) == _ONE_RESULT:
            return self.vm._get_output(name)
        return Results(self.vm, name)

    def tensor(self, array: np.ndarray) -> tvm.runtime.Tensor:
        """A tensor on the session's device with a copy of this."""
        return tvm.runtime.tensor(np.asarray(array, order="C"), self.device)

    def chosen(self, results: Results, places: Mapping[str, int]) -> Mapping[str, tvm.runtime.Tensor]:
        """Some of the results of a function by name, fetched when they are asked for."""
        return Chosen(results, places)

    def during(self, what: str) -> AbstractContextManager[None]:
        """What is asked of the device within is called `what` in sentences.

        Raises:
            DeviceLostError: it went away. DeviceError: it could not do what it was asked for.
        """
        return self._place.during(what)

    def sync(self) -> None:
        """Waits until the device has done all it was asked for."""
        self.device.sync()


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
