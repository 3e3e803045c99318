"""What a person sees of a run: aligned rows within 80 columns, and a bar that is gone in the end."""

import io

import pytest
from rich.console import Console

from mest_compiler.training.progress import RichReporter, short
from mest_compiler.training.records import EpochRecord


def record(epoch: int, **fields: float) -> EpochRecord:
    """An epoch of a sparse run that did not mutate."""
    usual = {
        "loss": 0.25, "metric": "accuracy", "train_score": 0.5, "test_score": 1.0, "lr": 0.1,
        "ms_per_iteration": 12.34, "seconds": 9.0, "sparsity": 0.9, "kept": 9000, "removed": 0, "grown": 0,
        "mutation_ms": 0.0, "examples": 4000, "unforgettable": 0, "memory_mb": 512.0, "state_mb": 3.0,
    }  # fmt: skip
    return EpochRecord(epoch=epoch, **(usual | fields))


def shown(*records: EpochRecord, terminal: bool = False) -> str:
    """What a console of 80 columns gets of a run with one step an epoch."""
    out = io.StringIO()
    reporter = RichReporter(Console(file=out, width=80, force_terminal=terminal, color_system=None))
    for one in records:
        reporter.epoch_started(one.epoch, 100, 1, 0)
        reporter.step_finished(1, one.loss)
        reporter.epoch_finished(one, 100)
    reporter.note("a [sentence]")
    reporter.close()
    return out.getvalue()


def test_a_file_gets_one_heading_and_aligned_rows() -> None:
    largest = record(100, loss=12.345, kept=123_456_789, removed=12_345, grown=12_345, examples=1_281_167,
                     ms_per_iteration=12345.6, memory_mb=123_456.0)  # fmt: skip
    *rows, note = shown(record(1), record(2, removed=692, grown=348), largest).splitlines()
    assert note == "a [sentence]"
    assert rows[0].split() == [
        "epoch", "loss", "train%", "test%", "zeros%", "kept", "changed", "examples", "ms/iter", "MiB"
    ]  # fmt: skip
    assert rows[1].split() == ["1/100", "0.2500", "50.00", "100.00", "90.00", "9000", "4000", "12.3", "512"]
    assert rows[2].split()[6] == "-692/+348"
    assert rows[3].split() == [
        "100/100", "12.35", "50.00", "100.00", "90.00", "123M", "-12.3k/+12.3k", "1.28M", "12345.6", "123456"
    ]  # fmt: skip
    assert {len(row) for row in rows} == {len(rows[0])}
    assert len(rows[0]) <= 80


def test_a_dense_run_has_no_columns_of_sparse_layers() -> None:
    heading, row, _ = shown(record(1, sparsity=0.0, kept=0)).splitlines()
    assert heading.split() == ["epoch", "loss", "train%", "test%", "examples", "ms/iter", "MiB"]
    assert len(row) == len(heading)


def test_errors_have_their_own_column() -> None:
    heading, row, _ = shown(record(1, metric="error", train_score=0.5, test_score=0.000123456)).splitlines()
    assert heading.split() == [
        "epoch", "loss", "test", "error", "zeros%", "kept", "changed", "examples", "ms/iter", "MiB"
    ]  # fmt: skip
    assert row.split()[2] == "0.0001235"
    assert len(row) == len(heading) <= 80


def test_a_terminal_sees_a_bar_that_the_row_replaces() -> None:
    text = shown(record(1), record(2), terminal=True)
    assert "epoch 1/100" in text
    assert "1/1 loss 0.2500" in text
    assert text.count("ms/iter") == 1
    assert "\x1b[2K" in text  # the bar's line is erased


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"), (9999, "9999"), (10_000, "10.0k"), (99_949, "99.9k"), (99_950, "100k"), (999_499, "999k"),
        (999_500, "1.00M"), (1_860_522, "1.86M"), (25_557_032, "25.6M"),
    ],
)  # fmt: skip
def test_short_counts(count: int, text: str) -> None:
    assert short(count) == text
