"""Which machine a number was measured on: goes into every JSON result."""

import os
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = {"torch": "torch", "tvm": "apache-tvm", "numpy": "numpy", "mest_compiler": "mest-compiler"}
INSTRUCTION_SETS = {"avx512f": "avx512", "avx2": "avx2", "asimd": "neon"}
"""Flags of /proc/cpuinfo that decide how wide a vector is, widest first, and what we call them."""


def available_cores() -> int:
    """Number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """CPU model, cores, widest instruction set, operating system, versions and the time (UTC)."""
    info = _cpu_info()
    flags = (info.get("flags") or info.get("Features") or "").split()
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "cores": available_cores(),
        "instruction_set": next((name for flag, name in INSTRUCTION_SETS.items() if flag in flags), "unknown"),
        "os": platform.platform(),
        "python": platform.python_version(),
        **{name: version(package) for name, package in PACKAGES.items()},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def in_words(machine: Mapping[str, Any]) -> str:
    """The machine of `describe` in a few words: CPU, cores and vector unit."""
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['instruction_set']}"


def _cpu_info() -> dict[str, str]:
    """The fields of the first processor in /proc/cpuinfo; empty where there is no such file."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    fields = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in fields}
