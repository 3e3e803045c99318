"""What a library's machine code needs of the machine that it is loaded on, and what this one has: LLVM's triple and
instruction sets. Code with instructions that a CPU lacks ends the process without a word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import tvm
from tvm.target import codegen

# Of an x86, LLVM tells instruction sets from hints for its scheduler. These among them are in no code that does not ask
# for them by name (systems, cryptography, cache lines, tiles), and virtual machines like to hide some.
_ONLY_ASKED_FOR = frozenset((
    "aes", "amx-avx512", "amx-bf16", "amx-complex", "amx-fp16", "amx-fp8", "amx-int8", "amx-movrs", "amx-tf32",
    "amx-tile", "cldemote", "clflushopt", "clwb", "clzero", "enqcmd", "fsgsbase", "fxsr", "hreset", "invpcid", "kl",
    "lwp", "movdir64b", "movdiri", "mwaitx", "pclmul", "pconfig", "pku", "prefetchi", "ptwrite", "raoint", "rdpid",
    "rdpru", "rdrnd", "rdseed", "rtm", "serialize", "sgx", "sha", "sha512", "shstk", "sm3", "sm4", "tsxldtrk",
    "uintr", "usermsr", "vaes", "vpclmulqdq", "waitpkg", "wbnoinvd", "widekl", "xsave", "xsavec", "xsaveopt",
    "xsaves",
))  # fmt: skip
# Of an arm64 CPU it cannot tell them; this is what a compiler may use unasked.
_ARM = frozenset((
    "aes", "altnzcv", "bf16", "complxnum", "crc", "dotprod", "flagm", "fp-armv8", "fp16fml", "fptoint", "fullfp16",
    "i8mm", "jsconv", "lse", "lse2", "neon", "rcpc", "rcpc-immo", "rdm", "sha2", "sha3", "sm4", "sme", "sme2", "sve",
    "sve2", "sve2p1",
))  # fmt: skip
_SAME = {"arm64": "aarch64", "amd64": "x86_64", "macosx": "darwin"}
_SYSTEMS = ("linux", "darwin", "macosx", "windows")


@dataclass(frozen=True)
class Needs:
    """triple: LLVM's name of architecture and system, such as x86_64-unknown-linux-gnu. features: instruction sets that
    a compiler uses unasked, by LLVM's names, sorted."""

    triple: str
    features: tuple[str, ...]


def needs_of(target: tvm.target.Target) -> Needs:
    """What code for a target may use; of a device with a host, the host's code."""
    host = target if target.kind.name == "llvm" else target.host
    triple = str(host.attrs.get("mtriple") or codegen.llvm_get_system_triple())
    return Needs(triple, tuple(sorted(_features(host))))


def machine_of(triple: str, mcpu: str) -> Needs | None:
    """What may be asked of a machine that calls itself so; None: this LLVM does not know its CPU."""
    if not codegen.llvm_is_valid_cpu(mcpu, triple):
        return None
    return needs_of(tvm.target.Target({"kind": "llvm", "mtriple": triple, "mcpu": mcpu}))


def lacking(features: Iterable[str]) -> list[str]:
    """Those of some instruction sets that this CPU lacks."""
    return sorted(set(features) - _here())


def same_machines(triple: str, other: str) -> bool:
    """Whether code for one triple can be loaded where the other is said: architecture and system are the same."""
    return _architecture_and_system(triple) == _architecture_and_system(other)


def _architecture_and_system(triple: str) -> tuple[str, str]:
    architecture, _, rest = triple.partition("-")
    system = next((name for name in _SYSTEMS if name in rest), rest)
    return _SAME.get(architecture, architecture), _SAME.get(system, system)


def _features(host: tvm.target.Target) -> set[str]:
    """Instruction sets of a target of LLVM's."""
    named = set(map(str, codegen.llvm_get_cpu_features(host)))
    if named & {"64bit", "sse2"}:
        return (named & _asked_of_x86()) - _ONLY_ASKED_FOR
    return named & _ARM if named & _ARM else named


@cache
def _here() -> frozenset[str]:
    """Instruction sets of this CPU: what it says itself, since a virtual machine may hide some that its model has."""
    said = {str(name) for name, has in _host_features().items() if int(has)}
    if _asked_of_x86():
        return frozenset(said)
    # An arm64 CPU is asked by the system, about fewer of them than LLVM knows of its model.
    return frozenset(said | _features(tvm.target.Target({"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu()})))


@cache
def _asked_of_x86() -> frozenset[str]:
    """The instruction sets that LLVM asks an x86 about; none on other machines."""
    asked = {str(name) for name in _host_features()}
    return frozenset(asked if "sse2" in asked else ())


def _host_features() -> Mapping[str, tvm.tirx.IntImm]:
    return tvm.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
