"""Every kernel of a ResNet-20 step under Oclgrind with a phone's limits (1024 work-items, 32 KiB of local memory): no
access out of bounds, no race; and planted faults are found.

Reads of what nobody wrote are looked for where kernels are watched one by one (tests/schedules/opencl): that watcher of
Oclgrind's gives some of a step's kernels up.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ..schedules.opencl.oclgrind import FLAGS, needs_oclgrind, watched
from .watched_step import __name__ as MODULE

pytestmark = [pytest.mark.slow, needs_oclgrind]


@pytest.mark.parametrize("scheme", ["block", "pattern", "unstructured"])
def test_nothing_is_found(scheme: str, tmp_path: Path) -> None:
    done, said = watched(tmp_path, MODULE, scheme, flags=FLAGS)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr
    assert not said


@pytest.mark.parametrize(("fault", "words"), [("too far", "Invalid read"), ("no barriers", "race")])
def test_planted_faults_are_found(fault: str, words: str, tmp_path: Path) -> None:
    _, said = watched(tmp_path, MODULE, "block", fault, flags=FLAGS)
    assert words in said
