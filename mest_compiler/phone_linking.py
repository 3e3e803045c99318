"""Linking for a phone, with an Android NDK or without one, so that Android's linker finds every symbol.

It looks for a symbol in the program, in what was preloaded, in the library itself and in the libraries that this one
names as needed: never in those that the program merely loaded, such as TVM's runtime. So what the kernels call of TVM's
is defined here too, and the C library is named where it is called. What neither has is an error of the link.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import tvm
from tvm import tirx

from .errors import DeviceError

NDK = "TVM_NDK_CC"
"""Environment variable of TVM: the NDK's compiler for the phone, such as aarch64-linux-android29-clang++."""
PHONE_PAGE = 16384  # bytes of a page of memory on newer Android phones; a library must not assume smaller ones
RAISE = "TVMFFIErrorSetRaisedFromCStrParts"
"""What kernels call with what is wrong about their arguments, before they return -1.

The library's own definition does nothing. It is seen from outside, so TVM's takes its place where that is in the
program or preloaded, and the error arrives whole.
"""
_MATHS = (
    "acos", "asin", "atan", "atan2", "ceil", "cos", "erf", "exp", "exp2", "floor", "fma", "fmax", "fmin", "fmod",
    "log", "log10", "log1p", "log2", "nearbyint", "pow", "rint", "round", "sin", "sqrt", "tan", "tanh", "trunc",
)  # fmt: skip
BIONIC = {
    "libc.so": ("memcmp", "memcpy", "memmove", "memset"),
    "libm.so": tuple(name + kind for name in _MATHS for kind in ("", "f")),
}
"""What LLVM may call by itself, and the library of Android's that has it."""
_OPTIONS = ("-z", "defs", "-z", f"max-page-size={PHONE_PAGE}", "--strip-all")

Linker = Callable[..., None]


def phone_linker(host: str) -> Linker:
    """TVM's `fcompile` for a phone whose LLVM triple is `host`: with an NDK where there is one, else with ld.lld.

    Raises:
        DeviceError: there is neither.
    """
    compiler, linker = os.environ.get(NDK), shutil.which("ld.lld")
    if not compiler and linker is None:
        raise DeviceError(
            f"Code for {host} is linked with ld.lld, which is not there: install Debian's package lld, or set {NDK} to "
            "the compiler of an Android NDK."
        )

    def link(output: str, objects: Sequence[str] | str, options: Sequence[str] | None = None) -> None:
        files, folder = [objects] if isinstance(objects, str) else list(objects), Path(output).parent
        files.append(_object(folder / "raise.o", [RAISE], host))
        if compiler:
            passed = ["-nostdlib++", "-lm", "-Wl," + ",".join(_OPTIONS)]
            _run([compiler, "-shared", "-o", output, *files, *passed, *(options or ())])
            return
        named = [_stand_in(linker, folder / name, symbols, host) for name, symbols in BIONIC.items()]
        _run([linker, "-shared", *_OPTIONS, "-o", output, *files, "--as-needed", *named, *(options or ())])

    link.output_format = "so"
    link.get_target_triple = lambda: host
    return link


def _stand_in(linker: str, path: Path, symbols: Iterable[str], host: str) -> str:
    """A library of Android's, as far as a linker has to know it."""
    _run([linker, "-shared", "-soname", path.name, "-o", str(path), _object(path.with_suffix(".o"), symbols, host)])
    return str(path)


def _object(path: Path, symbols: Iterable[str], host: str) -> str:
    """An object file with functions of these names that do nothing, whatever they are called with."""
    target = tvm.target.Target({"kind": "llvm", "mtriple": host})
    nothing = tirx.PrimFunc([], tirx.Evaluate(0)).with_attr("target", target)
    functions = {name: nothing.with_attr("global_symbol", name) for name in symbols}
    tvm.target.codegen.build_module(tvm.IRModule(functions), target).write_to_file(str(path), "o")
    return str(path)


def _run(command: Sequence[str]) -> None:
    """Raise RuntimeError with what a linker says, its first complaint last."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError("\n".join(reversed(done.stderr.strip().splitlines())))
