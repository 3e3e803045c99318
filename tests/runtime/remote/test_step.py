"""A whole step on an OpenCL device behind RPC."""

from __future__ import annotations

from mest_compiler.runtime.remote.connection import Connection

from ...whole_step.cases import Case
from ...whole_step.remotely import double


def test_three_steps_in_float64(there: Connection) -> None:
    double(there, Case("pre-activation", "unstructured", batch=5, device="opencl"))
