"""What a step looks like inside, as files: its module after each pass, and each kernel with what it is for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import tvm
from tvm import tirx

from mest_compiler.devices import Device
from mest_compiler.files import write_text
from mest_compiler.schedules import backend_of

from .step_program import StepProgram

KERNELS = "kernels"
"""Folder of the kernels."""


class Dump:
    """A watch (see `run.through`) that writes into a folder, which there must be: `001_NAME.py`, ..., TVMScript after
    each pass. Under a memory limit all attempts are there, one after another."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._number = folder, 0

    def __call__(self, name: str, program: StepProgram) -> None:
        """Writes the program as a pass left it."""
        self._number += 1
        write_text(self.folder / f"{self._number:03}_{name}.py", program.module.script() + "\n")

    def kernels(self, planned: StepProgram, code: tvm.runtime.Module, device: Device) -> None:
        """Writes `kernels/NAME.py` (TVMScript) and, of a device with a source language, `kernels/NAME.cl` or such, each
        headed by what the kernel is for. code: the built module with its imports."""
        folder = self.folder / KERNELS
        folder.mkdir(exist_ok=True)
        uses, calls = _uses(planned), _callers(planned)
        for gvar, function in planned.module.functions.items():
            if isinstance(function, tirx.PrimFunc):
                name = str(gvar.name_hint)
                head = [f"kernel of {', '.join(sorted(calls[name])) or 'no function'}", *uses.get(name, ())]
                text = function.script()
                write_text(folder / f"{name}.py", "".join(f"# {line}\n" for line in head) + text + "\n")
        for file, source in backend_of(device).sources(code).items():
            name = Path(file).stem
            kernel = next((k for k in sorted(calls, key=len, reverse=True) if _launches(k, name)), name)
            head = [f"{name}, a launch of {kernel}", *uses.get(kernel, ())]
            write_text(folder / file, "".join(f"// {line}\n" for line in head) + source)


def _launches(kernel: str, name: str) -> bool:
    """Whether a function of a device's source is one of a kernel's launches, as TVM names them."""
    return name == f"{kernel}_kernel" or name.startswith(f"{kernel}_kernel_")


def _uses(program: StepProgram) -> Mapping[str, list[str]]:
    """By a layer's kernel: which layers and directions it computes, and how."""
    found: dict[str, list[str]] = defaultdict(list)
    for param, layer in program.layers.items():
        sparse = layer.problem.sparse
        kind = "dense" if sparse is None else sparse.scheme
        for direction, choice in layer.choices.items():
            said = choice.describe()
            how = f"{said['kernel']} by {said['indexing'] or 'position'}, {said['source']} knobs {said['knobs']}"
            found[layer.functions[direction]].append(f"{direction} of {param} ({kind}): {how}")
    return found


def _callers(program: StepProgram) -> Mapping[str, set[str]]:
    """By kernel: the functions of the step that call it."""
    found: dict[str, set[str]] = defaultdict(set)
    for name in program.signature:
        for block in program.module[name].body.blocks:
            for binding in block.bindings:
                op = getattr(binding.value, "op", None)
                if hasattr(op, "name_hint"):
                    found[str(op.name_hint)].add(name)
    return found
