"""Weight gradients under Oclgrind with a phone's limits: no races, no reads of what nobody wrote or out of bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from .oclgrind import needs_oclgrind, watched
from .watched_gradients import FAMILIES
from .watched_gradients import __name__ as MODULE

pytestmark = [pytest.mark.slow, needs_oclgrind]


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_found(family: str, tmp_path: Path) -> None:
    done, said = watched(tmp_path, MODULE, family)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr
    assert not said


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_barrier_is_found(family: str, tmp_path: Path) -> None:
    _, said = watched(tmp_path, MODULE, family, "no barriers")
    assert "race" in said


@pytest.mark.parametrize("family", FAMILIES)
def test_sums_that_do_not_start_at_zero_are_found(family: str, tmp_path: Path) -> None:
    _, said = watched(tmp_path, MODULE, family, "no zeros")
    assert "ninitialized" in said
