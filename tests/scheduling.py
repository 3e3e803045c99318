"""Which tests one worker gets together: those of a file, and the files that compile the same whole steps."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

SAME_STEPS = frozenset(
    f"tests/whole_step/{name}.py" for name in ("test_agrees_with_torch", "test_poisoned_memory", "test_schemes")
)


class SharedSteps(LoadFileScheduling):
    """By file, but `SAME_STEPS` go to one worker, whose process then compiles each step once (`cases.compiled`)."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "the same steps" if file in SAME_STEPS else file
