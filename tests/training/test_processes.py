"""Two gloo processes on one machine compute what one computes, go on where one stopped, and say it when one is gone."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist

from mest_compiler.errors import DeviceError, MestError
from mest_compiler.runtime import checkpoint
from mest_compiler.training.process_group import Processes, ranks_of_environment
from mest_compiler.training.ranks import SingleProcess

from . import one_process
from .forked import LIMIT_S, VARIABLES, launched

SCRIPT = Path(__file__).with_name("one_process.py")

EM = {
    "epochs": 5, "lr": 0.1, "scheme": "unstructured", "sparsity": 0.7, "augment": False,
    "method": "em", "p": 0.1, "mutate_every": 1, "mutate_until": 4,
}  # fmt: skip
EM_S = EM | {"scheme": "pattern", "method": "em&s"}
# Everything at once: images moved, some removed after the second epoch, Nesterov, smoothed labels.
ALL = EM | {
    "method": "em&s", "augment": True, "de_epoch": 2, "de_remove": 8, "nesterov": True, "label_smoothing": 0.1,
}  # fmt: skip
RUNS = {"em": {"recipe": EM}, "em&s": {"recipe": EM_S}, "all": {"recipe": ALL}}
# In the fourth epoch, one step after a checkpoint: 6 + 6 + 5 steps (8 images were removed) and 3.
STOPPED = {"recipe": ALL, "stopped": 6 + 6 + 5 + 3}
RESUMED = {"recipe": ALL, "resume": True}


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in VARIABLES} | {"OMP_NUM_THREADS": "1"}


def alone(task: str, folder: Path, **spec) -> None:
    """The task in this process."""
    assert one_process.main(task, str(folder), json.dumps(spec)) == 0


@pytest.fixture(autouse=True)
def _no_group_around(monkeypatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[int, Path]:
    """Folders of the same runs, by number of processes; each also goes on with a run that the other began."""
    folders = {n: tmp_path_factory.mktemp(f"processes{n}") for n in (1, 2)}
    with pytest.MonkeyPatch.context() as patch:
        for variable in VARIABLES:
            patch.delenv(variable, raising=False)
        alone("train_runs", folders[1], runs=RUNS | {"begun by one": STOPPED})
        shutil.copytree(folders[1] / "begun by one", folders[2] / "begun by one")
        spec = {"runs": RUNS | {"begun by one": RESUMED, "begun by two": STOPPED}}
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [*torchrun, SCRIPT, "train_runs", folders[2], json.dumps(spec)]
        done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=LIMIT_S)
        assert done.returncode == 0, done.stderr
        assert "FutureWarning" not in done.stderr
        shutil.copytree(folders[2] / "begun by two", folders[1] / "begun by two")
        alone("train_runs", folders[1], runs={"begun by two": RESUMED})
    return folders


def network_of(folder: Path, rank: int) -> dict[str, np.ndarray]:
    with np.load(folder / f"rank{rank}.npz") as arrays:
        return dict(arrays)


def counts_of(folder: Path) -> dict[str, np.ndarray]:
    """Forgetting events and removed images."""
    return dict(checkpoint.read(folder / "checkpoint.safetensors", None).arrays)


def check_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    assert {"units", "numbers", "state/1.running_var", "state/4.num_batches_tracked", "momentum/3.weight"} <= set(found)
    np.testing.assert_array_equal(found["units"], expected["units"])
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("run", RUNS)
def test_two_processes_train_as_one(trained, run):
    expected = network_of(trained[1] / run, 0)
    first, second = (network_of(trained[2] / run, rank) for rank in (0, 1))
    check_same(first, expected)
    for name, array in first.items():
        assert array.tobytes() == second[name].tobytes(), name
    ours, theirs = (counts_of(trained[n] / run) for n in (2, 1))
    assert ours.keys() == theirs.keys() >= {"removed", "events"}
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
    assert len(ours["removed"]) == RUNS[run]["recipe"].get("de_remove", 0)


@pytest.mark.parametrize("run", RUNS)
def test_the_masks_did_move(trained, run):
    logs = [(trained[n] / run / "log.jsonl").read_text().splitlines() for n in (1, 2)]
    moved = [[(record["removed"], record["grown"]) for record in map(json.loads, lines)] for lines in logs]
    assert moved[0] == moved[1]
    assert sum(grown > 0 for _, grown in moved[0]) >= 3


@pytest.mark.parametrize(("begun", "processes"), [("begun by one", 2), ("begun by two", 1)])
def test_a_run_goes_on_with_another_number_of_processes(trained, begun, processes):
    expected = network_of(trained[1] / "all", 0)
    for rank in range(processes):
        check_same(network_of(trained[processes] / begun, rank), expected)


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> list[dict]:
    """What each of two processes answers to the questions of the script."""
    folder = tmp_path_factory.mktemp("answers")
    for code, said in launched("ask", folder):
        assert code == 0, said
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def test_a_step_is_gathered(answers):
    for answer in answers:
        loss, correct = answer["gathered"]
        assert loss == pytest.approx(0.6, rel=1e-15)
        assert correct == [i % 2 == 0 for i in range(5)] + [i % 2 == 1 for i in range(5)]
        assert answer["gathered_errors"] == [0.1, 0.35, 1.1, 1.35]
        assert answer["total"] == 21.5
        assert answer["two_inputs"] == pytest.approx(one_process.two_inputs(SingleProcess()), rel=1e-12)
    assert [answer["shares"] for answer in answers] == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("odd_batch", "MestError: batch 33 cannot be shared out to 2 processes: choose a multiple of 2"),
        ("other_masks", "MestError: the processes no longer hold the same masks: process 1 differs from process 0"),
        ("idle_parameter", "ModelError: the loss does not depend on all parameters of the model"),
    ],
)
def test_all_processes_say_what_is_wrong(answers, question, said):
    for answer in answers:
        assert answer[question].startswith(said)


def test_a_process_that_is_silent(tmp_path):
    # They have to find each other within that time too.
    (code, said), (silent, _) = launched("wait_in_vain", tmp_path, timeout_s=5)
    assert (code, silent) == (2, 0)
    assert "DeviceError: process 0 of 2 lost another one" in said
    assert "Traceback" not in said


def test_a_process_that_dies_in_the_middle_of_training(tmp_path):
    runs = {"run": {"recipe": EM, "stopped": 8, "dying": 1}}
    (code, said), (gone, _) = launched("train_runs", tmp_path, runs=runs)
    assert (code, gone) == (2, 3)
    assert "DeviceError: process 0 of 2 lost another one" in said
    assert "Traceback" not in said


def test_processes_that_are_interrupted(tmp_path):
    for code, said in launched("interrupt", tmp_path, recipe=EM):
        assert code == 130, said


def test_one_process_is_alone(monkeypatch):
    assert isinstance(ranks_of_environment(), SingleProcess)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert isinstance(ranks_of_environment("cuda"), SingleProcess)
    assert SingleProcess().local("cuda") == "cuda"


@pytest.mark.parametrize(
    ("changed", "device", "error", "said"),
    [
        ({}, "cpu", DeviceError, r"process 0 of 2 found not all others at 127\.0\.0\.1:\d+ within 1 s"),
        ({"RANK": None, "MASTER_ADDR": None}, "cpu", MestError, "RANK, MASTER_ADDR is not: start .* torchrun"),
        ({"WORLD_SIZE": "two"}, "cpu", MestError, "WORLD_SIZE is 'two' and no number"),
        ({"RANK": "2"}, "cpu", MestError, "RANK is 2, not below WORLD_SIZE 2"),
        ({}, "cuda:1", DeviceError, "cannot all train on cuda:1: say cuda"),
        ({}, "tpu", DeviceError, "no device 'tpu'"),
    ],
)
def test_a_group_that_does_not_come_together(monkeypatch, changed, device, error, said):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    variables = dict(zip(VARIABLES, ("0", "2", "0", "127.0.0.1", port), strict=True)) | changed
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")  # and taken away after
    for name, value in variables.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(error, match=said):
        Processes.from_environment(device, timeout_s=1)
    assert not dist.is_initialized()
