"""The files that share their steps are there, under one name, and every other file under its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from .scheduling import SAME_STEPS, SharedSteps

ROOT = Path(__file__).parents[1]


def test_files_that_share_their_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [file for file in SAME_STEPS if not (ROOT / file).is_file()] == []
    monkeypatch.setattr(SharedSteps, "__init__", lambda self: None)
    scopes = {SharedSteps()._split_scope(f"{file}::test_a[b::c]") for file in SAME_STEPS}
    assert len(scopes) == 1 and SharedSteps()._split_scope("tests/test_caching.py::test_a") == "tests/test_caching.py"
