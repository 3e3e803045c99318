"""Results as JSON: plain, whole or absent, and nothing else on standard output."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mest_compiler.cli.output import say, write_json


def test_standard_output_carries_json_only(capsys: pytest.CaptureFixture[str]) -> None:
    say("loading [data]")
    write_json("-", {"ms": {"sparse": 1.5}})
    out, err = capsys.readouterr()
    assert json.loads(out) == {"ms": {"sparse": 1.5}}
    assert err == "loading [data]\n"


def test_values_that_json_does_not_have(tmp_path: Path) -> None:
    data = {
        "loss": math.nan,
        "worst": math.inf,
        "array": np.array([1.0, np.nan], dtype=np.float32),
        "scalar": np.int64(3),
        "flag": np.bool_(True),
        "path": Path("a/b"),
        "shape": (1, 2),
    }
    expected = {
        "loss": None,
        "worst": None,
        "array": [1.0, None],
        "scalar": 3,
        "flag": True,
        "path": "a/b",
        "shape": [1, 2],
    }
    write_json(str(tmp_path / "result.json"), data)
    assert json.loads((tmp_path / "result.json").read_text()) == expected


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    write_json(str(target), {"run": 1})
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        write_json(str(target), {"run": {2}})
    assert json.loads(target.read_text()) == {"run": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_json(str(tmp_path / "no" / "result.json"), {})
    assert list(tmp_path.iterdir()) == []
