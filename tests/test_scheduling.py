"""The files that share something are there, under one name, every other file under its own, and long ones first."""

from __future__ import annotations

from pathlib import Path

import pytest

from .scheduling import FIRST, SHARING, STEPS, SharedSteps, rank

ROOT = Path(__file__).parents[1]


def test_files_that_share_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SharedSteps, "__init__", lambda self: None)
    for group, files in SHARING.items():
        assert [file for file in files if not (ROOT / file).is_file()] == []
        assert {SharedSteps()._split_scope(f"{file}::test_a[b::c]") for file in files} == {group}
    assert SharedSteps()._split_scope("tests/test_caching.py::test_a") == "tests/test_caching.py"


def test_what_takes_long_comes_first() -> None:
    assert [name for name in FIRST if name not in SHARING and not (ROOT / name).is_dir()] == []
    queue = ["tests/sparsity/test_masks.py", "tests/tuning/test_search.py", "tests/whole_step/test_phone.py", STEPS]
    assert sorted(queue, key=rank) == queue[::-1]
