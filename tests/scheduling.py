"""Which tests one worker gets together: those of a file, and the files that compile the same whole steps."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

SAME_STEPS = frozenset(
    {
        "tests/runtime/test_artifact.py", "tests/runtime/test_checkpoint.py", "tests/runtime/test_dropout_seed.py",
        "tests/runtime/test_trainer.py",
        "tests/whole_step/test_agrees_with_torch.py", "tests/whole_step/test_poisoned_memory.py",
        "tests/whole_step/test_schemes.py",
    }
)  # fmt: skip


class SharedSteps(LoadFileScheduling):
    """By file, but `SAME_STEPS` go to one worker, whose process then compiles each step once (`cases.compiled`)."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "the same steps" if file in SAME_STEPS else file
