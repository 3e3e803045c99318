"""Which tests one worker gets together (of a file, and of files that share what takes long), and which come first."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

STEPS = "the same steps"
SHARING = {
    # Whole steps, each compiled once a process (`cases.compiled`).
    STEPS: (
        "tests/runtime/test_artifact.py", "tests/runtime/test_checkpoint.py", "tests/runtime/test_dropout_seed.py",
        "tests/runtime/test_trainer.py",
        "tests/whole_step/test_agrees_with_torch.py", "tests/whole_step/test_arrays.py",
        "tests/whole_step/test_inputs.py", "tests/whole_step/test_losses.py", "tests/whole_step/test_memory_options.py",
        "tests/whole_step/test_models.py", "tests/whole_step/test_opencl.py",
        "tests/whole_step/test_poisoned_memory.py", "tests/whole_step/test_schemes.py", "tests/whole_step/test_sums.py",
    ),
    # Servers and trackers: a session fixture starts them once a process.
    "one server": (
        "tests/runtime/remote/test_connection.py", "tests/runtime/remote/test_faults.py",
        "tests/runtime/remote/test_opencl_faults.py", "tests/runtime/remote/test_step.py",
        "tests/runtime/remote/test_supervisor.py",
    ),
    "one tracker": (
        "tests/cli/test_bench_artifacts.py", "tests/cli/test_devices.py", "tests/cli/test_phones.py",
    ),
}  # fmt: skip
FIRST = (*SHARING, "tests/whole_step/", "tests/tuning/", "tests/cli/", "tests/runtime/")
"""Beginnings of what takes a minute by itself: begun as the last it would keep one worker busy and the others idle."""
_GROUPS = {file: group for group, files in SHARING.items() for file in files}


class SharedSteps(LoadFileScheduling):
    """By file, but files of `SHARING` go to one worker together."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return _GROUPS.get(file, file)

    def _assign_work_unit(self, node: WorkerController) -> None:
        self.workqueue.move_to_end(min(self.workqueue, key=rank), last=False)
        super()._assign_work_unit(node)


def rank(scope: str) -> int:
    """Which part of the queue it belongs to, 0 the front; within one, xdist has the most tests first."""
    return next((number for number, beginning in enumerate(FIRST) if scope.startswith(beginning)), len(FIRST))
