"""`mest demo`, with less to learn."""

import dataclasses
import json
from pathlib import Path

import pytest

from mest_compiler.cli.demo import demonstrate
from mest_compiler.training.recipe import load_recipe


@pytest.mark.slow
def test_twice_into_the_same_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # at least 8 channels everywhere, see tests/bench/test_torch_network.py
    recipe = dataclasses.replace(load_recipe("demo"), width=0.5, epochs=2, mutate_until=2, batch=500)
    for _ in range(2):
        demonstrate(recipe, tmp_path / "demo", threads=1, rounds=1)
        summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
        assert 0 <= summary["test_accuracy"] <= 1
        moved = [record["grown"] for record in summary["training"]["records"]]
        assert moved[0] > 0 == moved[1]  # its masks mutate, without another step being compiled
        assert summary["speedup"]["torch"] == pytest.approx(summary["ms"]["torch"] / summary["ms"]["sparse"])
        assert 0 < summary["state_bytes"]["sparse"] < summary["state_bytes"]["torch"]
        assert summary["max_rel_error"] < 1e-4
        assert "dense PyTorch" in capsys.readouterr().err
