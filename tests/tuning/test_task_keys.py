"""Keys of tuning records: a golden file pins them, since a key that changes loses every log without a word.

After a wanted change, which has to convert the logs under `tuning_logs/` too: `MEST_GOLDEN=1 pytest` on this file.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from mest_compiler.devices import Device
from mest_compiler.devices.opencl import OpenClProfile
from mest_compiler.kernels.problem import DIRECTIONS, LayerProblem
from mest_compiler.schedules import generators
from mest_compiler.tuning.database import FOLDER, logs_folder, read_log
from mest_compiler.tuning.tasks import Task, offered, task_from, task_of

from ..schedules.convolutions import Conv
from ..schedules.sparse_layers import fitted, sparse_conv
from ..schedules.tiles import NARROW, profile

GOLDEN = Path(__file__).parent / "golden" / "task_keys.json"
SHAPES = {"plain": (Conv(8, 8, (5, 4)), DIRECTIONS), "strided": (Conv(8, 8, (6, 4), stride=(2, 2)), ["forward"])}
DEVICES: dict[str, Device] = {"cpu": profile(NARROW), "opencl": OpenClProfile("opencl", batch_lanes=8)}


def _tasks(device: Device) -> dict[str, Task]:
    found, vec = {}, generators(device).emit.Vec(device.lanes("float32"), "float32")
    for name, (conv, directions) in SHAPES.items():
        for scheme in (None, "unstructured", "block", "pattern", "channel", "filter"):
            sparse = scheme and sparse_conv(fitted(conv, scheme), vec, scheme, spare=1)
            layer = sparse or LayerProblem(conv.geometry(vec))
            for direction in directions:
                for choice in offered(direction, layer, device):
                    task = task_of(direction, choice, layer)
                    found[f"{name} {scheme or 'dense'} {direction} {choice.kernel} {choice.family}".strip()] = task
    return found


def test_the_keys_are_those_of_the_logs() -> None:
    keys = {f"{kind} {name}": task.key for kind, device in DEVICES.items() for name, task in _tasks(device).items()}
    if os.environ.get("MEST_GOLDEN"):
        GOLDEN.write_text(json.dumps(keys, indent=1) + "\n", encoding="utf-8")
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert golden and {name: keys.get(name) for name in golden} == golden


@pytest.mark.parametrize("kind", DEVICES)
def test_a_key_is_read_back(kind: str) -> None:
    for task in _tasks(DEVICES[kind]).values():
        assert task_from(json.loads(task.key)) == replace(task)


def test_the_logs_of_this_package_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every task on record is one that this code still makes, key by key."""
    monkeypatch.delenv(FOLDER)
    for folder in sorted(path for path in logs_folder().iterdir() if path.is_dir()):
        log = read_log(folder)
        assert log.tasks and not log.damaged
        for said in log.tasks.values():
            assert task_from(json.loads(said["task"])).key == said["task"]
