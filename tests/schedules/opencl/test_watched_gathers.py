"""Forward and backward-data under Oclgrind with a phone's limits: nothing out of bounds, no races, nothing read that
nobody wrote; and planted faults are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from .oclgrind import needs_oclgrind, watched
from .watched_gathers import FAMILIES
from .watched_gathers import __name__ as MODULE

pytestmark = [pytest.mark.slow, needs_oclgrind]


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_found(family: str, tmp_path: Path) -> None:
    done, said = watched(tmp_path, MODULE, family)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr
    assert not said


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("fault", "words"), [("no zeros", "ninitialized"), ("too far", "Invalid read")])
def test_planted_faults_are_found(family: str, fault: str, words: str, tmp_path: Path) -> None:
    _, said = watched(tmp_path, MODULE, family, fault)
    assert words in said
