"""A local CPU session: loads an artifact's library and calls its functions with the threads asked for."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from mest_compiler.devices import available_cores, local_cpu
from mest_compiler.errors import ArtifactError, DeviceError

from .allocated import bytes_in_use
from .artifact import Artifact

_ONE_THREAD_A_CORE = 1  # TVM's affinity mode "big": workers stay on the fastest cores


class Session:
    """The functions `step` and `predict` of an artifact, and `update` of one that trains in micro-batches, ready to be
    called on this machine."""

    def __init__(self, artifact: Artifact, threads: int | None = None) -> None:
        """Raises ArtifactError where this CPU lacks the artifact's vectors, DeviceError for too many threads."""
        wanted = artifact.manifest["device"]
        self.threads = min(wanted["threads"], available_cores()) if threads is None else threads
        here = local_cpu(self.threads)
        if here.vector_bits < wanted["vector_bits"] or here.registers < wanted["registers"]:
            raise ArtifactError(
                f"The artifact was compiled for {wanted['mcpu']} with {wanted['vector_bits']}-bit vectors, and this "
                f"CPU ({here.mcpu}) has {here.vector_bits}: compile it here."
            )
        tvm.get_global_func("runtime.config_threadpool")(_ONE_THREAD_A_CORE, self.threads)
        started = int(tvm.get_global_func("runtime.NumThreads")())
        if started < self.threads:
            raise DeviceError(
                f"{self.threads} threads were asked for, and TVM's thread pool of this process has {started}: set "
                f"TVM_NUM_THREADS={self.threads} before it starts."
            )
        # Loading a path whose file was overwritten would return the old library: a fresh name each time.
        self._folder = tempfile.TemporaryDirectory(prefix="mest-")
        path = Path(self._folder.name) / "library.so"
        path.write_bytes(artifact.library)
        before = bytes_in_use()
        self.vm = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
        # Of the C allocator, for the program itself and not for what it computes on; None where nothing counts.
        self.program_bytes = None if before is None else bytes_in_use() - before

    def __getitem__(self, name: str) -> Any:
        """A function of the artifact."""
        return self.vm[name]
