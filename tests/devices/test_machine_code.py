"""What a library needs of its machine: instruction sets by LLVM's names, without its scheduler's hints."""

from __future__ import annotations

import platform

import pytest
import tvm

from mest_compiler.devices import get_device, local_cpu, machine_code
from mest_compiler.devices.machine_code import Needs, lacking, machine_of, needs_of, same_machines

HERE = platform.machine()
x86 = pytest.mark.skipif(HERE not in ("x86_64", "AMD64"), reason="only an x86 is asked about an x86's instruction sets")


def features(mcpu: str, **more: object) -> set[str]:
    return set(needs_of(tvm.target.Target({"kind": "llvm", "mcpu": mcpu, **more})).features)


def test_this_cpu_has_what_is_compiled_for_it() -> None:
    needs = needs_of(local_cpu().target)
    assert needs.features and lacking(needs.features) == []
    assert same_machines(needs.triple, f"{HERE}-unknown-linux-gnu")


@x86
def test_a_newer_cpu_takes_an_older_ones_code_and_not_the_other_way_round() -> None:
    """By name LLVM's list for znver5 lacks some of znver3's hints: those are no instructions."""
    assert features("znver3") < features("znver5") and {"avx2", "fma"} <= features("znver3")
    assert features("znver5") - features("znver3") >= {"avx512f", "avx512vl"}
    assert features("haswell") < features("znver3") and "avx512f" in features("skylake-avx512")


@x86
def test_what_a_virtual_machine_hides_is_not_compiled_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU's name says AVX2, the CPU itself says not."""
    if "avx2" not in needs_of(local_cpu().target).features:
        pytest.skip("this CPU has no AVX2 to hide")
    asked = {str(name): int(has) for name, has in machine_code._host_features().items()}
    hidden = {name: has and not name.startswith(("avx2", "avx5", "fma")) for name, has in asked.items()}
    monkeypatch.setattr(machine_code, "_host_features", lambda: hidden)
    machine_code._here.cache_clear()
    try:
        cpu = local_cpu()
        assert (cpu.vector_bits, cpu.registers) == (256, 16)
        assert {"avx2", "fma", "avx512f"}.isdisjoint(needs_of(cpu.target).features)
        assert lacking(["avx", "avx2", "fma"]) == ["avx2", "fma"]
    finally:
        machine_code._here.cache_clear()


def test_of_an_opencl_device_it_is_the_hosts_code() -> None:
    assert needs_of(get_device("galaxy-s20").target) == Needs("aarch64-linux-android", ("fp-armv8", "neon"))
    assert lacking(needs_of(get_device("opencl").target).features) == []


def test_a_machine_by_its_names() -> None:
    server = machine_of("aarch64-unknown-linux-gnu", "neoverse-n1")
    assert {"neon", "dotprod", "lse"} <= set(server.features) and "sve" not in server.features
    assert "neoversen1" not in server.features
    assert machine_of("aarch64-unknown-linux-gnu", "nobodys-core") is None


@pytest.mark.parametrize(
    ("triple", "other", "same"),
    [
        ("x86_64-conda-linux-gnu", "x86_64-unknown-linux-gnu", True),
        ("arm64-apple-darwin23.1.0", "aarch64-apple-macosx14.0.0", True),
        ("aarch64-linux-android", "aarch64-unknown-linux-gnu", True),
        ("aarch64-linux-android", "x86_64-unknown-linux-gnu", False),
        ("x86_64-pc-linux-gnu", "x86_64-apple-darwin23.1.0", False),
    ],
)
def test_architecture_and_system_decide(triple: str, other: str, same: bool) -> None:
    assert same_machines(triple, other) is same
