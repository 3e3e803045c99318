"""Proof that nothing is compiled: every way to the compiler raises."""

import pytest
import tvm
from tvm import relax

from mest_compiler import compile as compiler


def forbid_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be compiled from here on."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("the compiler was called")

    places = [(tvm, "compile"), (tvm.tirx, "build"), (relax, "build"), (tvm.transform, "Sequential")]
    for module, name in [*places, (compiler, "tile"), (compiler, "build")]:
        monkeypatch.setattr(module, name, refuse)
