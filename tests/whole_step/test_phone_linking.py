"""A library for a phone has every symbol that Android's linker would not find, and says what is wrong all the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm.script.ir_builder import tirx as T

from mest_compiler.devices import OpenClProfile
from mest_compiler.errors import DeviceError
from mest_compiler.linking import library_bytes
from mest_compiler.phone_linking import BIONIC, NDK, PHONE_PAGE, RAISE
from mest_compiler.schedules.emit import function

from .elf import needed, readelf, undefined

PHONE = "aarch64-linux-android"
HERE = str(tvm.target.codegen.llvm_get_system_triple())
NUMBERS = 8
WITHOUT_TVM = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])  # binds every symbol at once
print(library.__tvm_ffi_main(None, None, 5, None))
assert "tvm" not in sys.modules
"""


def linked(path: Path, host: str, called: str | None = None) -> Path:
    """A library whose function `main` doubles x [8], or calls a C function with each number."""

    def append() -> None:
        x = T.arg("x", T.buffer((NUMBERS,), "float32"))
        with T.serial(NUMBERS) as i:
            T.buffer_store(x, x[i] + x[i] if called is None else T.call_extern("float32", called, x[i]), [i])

    target = tvm.target.Target({"kind": "llvm", "mtriple": host})
    machine = tvm.tirx.build(tvm.IRModule({"main": function("main", append)}), target=target)
    path.write_bytes(library_bytes(machine, OpenClProfile(name="phone", host=host)))
    return path


@pytest.mark.parametrize(("called", "libraries"), [(None, set()), ("expf", {"libm.so"}), ("memcpy", {"libc.so"})])
def test_every_symbol_is_in_the_library_or_in_one_that_it_names(
    called: str | None, libraries: set[str], tmp_path: Path
) -> None:
    library = linked(tmp_path / "library.so", PHONE, called)
    assert needed(library) == libraries
    assert undefined(library) == ({called} if called else set())
    assert all(symbol in {s for name in needed(library) for s in BIONIC[name]} for symbol in undefined(library))


def test_a_symbol_that_no_phone_has_is_refused_when_it_is_linked(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"could not be linked .*undefined symbol: nobody_has_this"):
        linked(tmp_path / "library.so", PHONE, "nobody_has_this")


def test_under_tvm_a_kernels_complaint_arrives(tmp_path: Path) -> None:
    """The library's own definition of what it complains with is not the one that is called."""
    library = linked(tmp_path / "library.so", HERE)
    assert RAISE in readelf(library, "--dyn-syms")
    main = tvm.runtime.load_module(str(library))["main"]
    x = tvm.runtime.tensor(np.ones(NUMBERS, np.float32))
    main(x)
    np.testing.assert_array_equal(x.numpy(), 2)
    with pytest.raises(ValueError, match=r"(?s)Invalid x\.shape\[0\].* expected 8"):
        main(tvm.runtime.tensor(np.ones(NUMBERS + 1, np.float32)))


def test_without_tvm_it_loads_and_a_wrong_call_fails_quietly(tmp_path: Path) -> None:
    library = linked(tmp_path / "library.so", HERE)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", WITHOUT_TVM, str(library)], env={"LD_BIND_NOW": "1"}, capture_output=True,
        text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "-1"), done.stderr


def test_an_ndk_is_asked_for_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that notes what it is called with: pages, no undefined symbols, no C++ library, our definition."""
    compiler, notes = tmp_path / "clang++", tmp_path / "notes"
    compiler.write_text(f'#!/bin/sh\necho "$@" > {notes}\nwhile [ "$1" != -o ]; do shift; done\ntouch "$2"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv(NDK, str(compiler))
    linked(tmp_path / "library.so", PHONE)
    words = notes.read_text().split()
    assert words[0] == "-shared" and "-nostdlib++" in words and any(word.endswith("raise.o") for word in words)
    assert f"-Wl,-z,defs,-z,max-page-size={PHONE_PAGE},--strip-all" in words
