"""`mest tune`: from a command to a log that the other commands use, and what it refuses."""

import json
from pathlib import Path

import pytest

from mest_compiler.tuning import search
from mest_compiler.tuning.measure import EvaluatorConfig

from .conftest import BLOCK, LAYER, SMALL

MODEL = "net.py:make"
TINY = "layer:4,8,3,6x6"
AS_TINY = ("--scheme", "block", "--sparsity", "0.5", "--batch", "8", "--threads", "1")


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "CONFIG", EvaluatorConfig(repeats=2, repeat_ms=1, rounds=1, patience_s=0))


@pytest.mark.slow
def test_what_is_tuned_is_used(mest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = (MODEL, *SMALL, *BLOCK, "--output", "logs", "--only", "2", "--trials", "13", "--json", "-")
    result = json.loads(mest("tune", *asked).stdout)
    assert result["trials"] == 13 and Path(result["folder"], "README.md").exists()
    assert all(task["failed"] == 0 and task["gain"] >= 1 for task in result["tasks"])
    sparse = [t for t in result["tasks"] if t["task"].startswith("block_")]
    assert {t["task"].split()[0] for t in sparse} == {"block_forward", "block_backward_data", "block_backward_weight"}

    shown = mest("tune", "--show", "--threads", "1", "--output", "logs", "--plot", "curve.png", "--json", "-")
    rows = json.loads(shown.stdout)["tasks"]
    assert {row["task"]: row["best_ms"] for row in rows} == pytest.approx(
        {t["task"]: t["best_ms"] for t in result["tasks"]}
    )
    assert "best knobs" in shown.stderr and Path("curve.png").read_bytes().startswith(b"\x89PNG")

    monkeypatch.setenv("MEST_TUNING_LOGS", "logs")
    step = json.loads(mest("compile", MODEL, *SMALL, *BLOCK, "--output", "step", "--json", "-").stdout)
    kernels = {layer["name"]: layer["kernels"] for layer in step["layers"]}
    for direction, kernel in kernels[LAYER].items():
        assert len(kernel["times"]) > 1, direction  # the default knobs, or the dense kernel, were in the running
        assert kernel["source"] in ("tuned", "measured")
        if kernel["source"] == "tuned":
            fastest = min(kernel["times"], key=kernel["times"].__getitem__)
            assert fastest.startswith(kernel["kernel"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "What is to be tuned?"),
        ([TINY, *AS_TINY, "--trials", "0"], "0 trials finds nothing"),
        ([TINY, *AS_TINY, "--minutes", "0"], "no time finds nothing"),
        ([TINY, *AS_TINY, "--plot", "a.png"], "add --show"),
        ([TINY, *AS_TINY, "--cool-down", "-1"], "greater than or equal to 0"),
        ([TINY, *AS_TINY, "--key", "phone"], "The key 'phone' needs a tracker"),
        ([TINY, *AS_TINY, "--devices", "2"], "add --tracker and --key"),
        ([TINY, *AS_TINY, "--tracker", "127.0.0.1:1", "--key", "phone"], "127.0.0.1:1"),
        ([TINY, "--scheme", "auto", "--sparsity", "0.5"], "one by one"),
        (["layer:4", *AS_TINY], "is not a layer"),
        (["--show", "--check-model"], "leave out --check-model"),
        (["--show", "--output", "none"], "There are no tuning records in none/"),
        (["--show"], "MEST_TUNING_LOGS is empty"),
        (["--show", "--device", "gpu", "--output", "none"], "There is no device 'gpu'"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    refused, folder: Path, arguments: list[str], sentence: str
) -> None:
    kept = () if "--show" in arguments else ("--output", "logs")
    assert sentence in refused("tune", *arguments, *kept)
    assert [path.name for path in folder.iterdir()] == ["net.py"]


@pytest.mark.slow
def test_damaged_lines_are_named(mest, folder: Path) -> None:
    asked = (TINY, *AS_TINY, "--output", "logs", "--only", "1")
    result = json.loads(mest("tune", *asked, "--trials", "3", "--json", "-").stdout)
    records = Path(result["folder"], "database_tuning_record.json")
    records.write_text("[0, [\n" + records.read_text())
    said = mest("tune", "--show", "--threads", "1", "--output", "logs").stderr
    sentence = f"Line 1 of the tuning log {records} is damaged and was skipped."
    assert sentence in said
    again = mest("tune", *asked, "--trials", "4", "--json", "-")
    assert sentence in again.stderr and json.loads(again.stdout)["trials"] == 4
    assert Path(result["folder"], "damaged_lines.txt").read_text() == "[0, [\n"


@pytest.mark.slow
def test_the_cost_model_is_checked(mest, folder: Path) -> None:
    result = json.loads(mest("tune", TINY, *AS_TINY, "--check-model", "--trials", "6", "--json", "-").stdout)
    assert len(result["tasks"]) == 3
    for task in result["tasks"]:
        assert len(task["search_curve_ms"]) == len(task["random_curve_ms"]) == 6
        assert task["rank_correlation"] is None or -1 <= task["rank_correlation"] <= 1
    assert [path.name for path in folder.iterdir()] == ["net.py"]
