"""Every kernel of a ResNet-20 step under Oclgrind with a phone's limits (1024 work-items, 32 KiB of local memory): no
access out of bounds, no race; and a planted fault is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..schedules.opencl.oclgrind import needs_oclgrind, watched
from .watched_step import __name__ as MODULE

pytestmark = [pytest.mark.slow, needs_oclgrind]


@pytest.mark.parametrize("scheme", ["block", "pattern", "unstructured"])
def test_nothing_is_found(scheme: str, tmp_path: Path) -> None:
    done, said = watched(tmp_path, MODULE, scheme)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr
    assert not said


def test_a_planted_fault_is_found(tmp_path: Path) -> None:
    _, said = watched(tmp_path, MODULE, "block", "too far")
    assert "Invalid read" in said
