"""A session: an artifact's library loaded where it runs, its functions ready to be called there."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from mest_compiler.devices import local_cpu
from mest_compiler.devices.machine_code import lacking, needs_of, same_machines
from mest_compiler.errors import ArtifactError

from .allocated import bytes_in_use
from .artifact import Artifact
from .device_runtimes import device_runtime


class Session:
    """The functions `step` and `predict` of an artifact, and `update` of one that trains in micro-batches, on a device
    of this machine.

    device: where tensors live. threads: of the CPU that its kernels use. program_bytes: of the C allocator, for the
    program itself and not for what it computes on; None where nothing counts.
    """

    def __init__(self, artifact: Artifact, threads: int | None = None) -> None:
        """Raises ArtifactError or DeviceError where this machine cannot run the artifact, or has fewer threads."""
        wanted = artifact.manifest["device"]
        _check_code(wanted, artifact.manifest["needs"])
        self.threads, self.device = device_runtime(wanted["kind"]).open(wanted, threads)
        # Loading a path whose file was overwritten would return the old library: a fresh name each time.
        self._folder = tempfile.TemporaryDirectory(prefix="mest-")
        path = Path(self._folder.name) / "library.so"
        path.write_bytes(artifact.library)
        before = bytes_in_use()
        self.vm = relax.VirtualMachine(tvm.runtime.load_module(str(path)), self.device)
        self.program_bytes = None if before is None else bytes_in_use() - before

    def __getitem__(self, name: str) -> Any:
        """A function of the artifact."""
        return self.vm[name]

    def tensor(self, array: np.ndarray) -> tvm.runtime.Tensor:
        """A tensor on the session's device with a copy of this."""
        return tvm.runtime.tensor(np.asarray(array, order="C"), self.device)

    def chosen(
        self, results: Sequence[tvm.runtime.Tensor], places: Mapping[str, int]
    ) -> Mapping[str, tvm.runtime.Tensor]:
        """Some of the results of a function by name; the others are let go."""
        return {name: results[place] for name, place in places.items()}

    def during(self, what: str) -> AbstractContextManager[None]:
        """What is asked of the device within is called `what` in sentences; here nothing comes between."""
        return nullcontext()

    def sync(self) -> None:
        """Waits until the device has done all it was asked for."""
        self.device.sync()


def _check_code(wanted: Mapping[str, Any], needs: Mapping[str, Any]) -> None:
    """Raise ArtifactError unless this machine can load and run the library."""
    if wanted.get("host") is not None:
        raise ArtifactError(
            f"The artifact was compiled for {wanted['name']} with the host {wanted['host']}, which is not this "
            "machine: run it there, with --tracker HOST:PORT --key KEY."
        )
    here = local_cpu(1)
    triple = needs_of(here.target).triple
    if not same_machines(needs["triple"], triple):
        raise ArtifactError(
            f"The artifact was compiled for {needs['triple']}, and this machine is {triple}: compile it here."
        )
    absent = lacking(needs["features"])
    if absent:
        compiled = f"for {wanted['mcpu']}" if "mcpu" in wanted else "elsewhere"
        raise ArtifactError(
            f"The artifact was compiled {compiled}, and its code may use {', '.join(absent)}, which this CPU "
            f"({here.mcpu}) lacks: compile it here."
        )
