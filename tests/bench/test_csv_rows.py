"""Result tables survive their way through a file."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from mest_compiler.bench.csv_rows import check_settings, origin, read_rows, write_rows
from mest_compiler.errors import BenchError


@dataclass(frozen=True)
class Sample:
    name: str
    batch: int
    ms: float
    speedup: float | None


ROWS = [Sample('a, "b"', 8, 0.1 + 0.2, None), Sample("ü", 64, 1e-9, 2.5)]


def test_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_rows(path, ROWS)
    assert read_rows(path, Sample) == ROWS
    assert [file.name for file in tmp_path.iterdir()] == ["rows.csv"]
    assert path.read_text(encoding="utf-8").splitlines()[0] == "name,batch,ms,speedup"


@pytest.mark.parametrize(
    "text", ["name,batch\na,1\n", "name,batch,ms,speedup\na,b,1,1\n", "name,batch,ms,speedup\na\n"]
)
def test_another_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(BenchError, match=r"rows\.csv is no table of this report"):
        read_rows(tmp_path / "rows.csv", Sample)


def test_no_text_at_all(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b"name,batch,ms,speedup\n\xff\xfe\n")
    with pytest.raises(BenchError, match="is no table of this report"):
        read_rows(tmp_path / "rows.csv", Sample)


def test_other_settings(tmp_path: Path) -> None:
    check_settings(tmp_path, ROWS[:1], {"batch": 8})
    with pytest.raises(BenchError, match="was measured with batch 64, not 8: go on with the same settings"):
        check_settings(tmp_path, ROWS, {"batch": 8})


def test_origin() -> None:
    found = origin(threads=2, device="cpu", command="mest report")
    assert (found["threads"], found["device"], found["command"]) == (2, "cpu", "mest report")
    assert " cores, " in found["machine"]
    assert found["torch"] and found["tvm"] and found["date"]
