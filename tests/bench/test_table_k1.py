"""Table K.1: its rows as profiles, and the table made of timings."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mest_compiler.bench import table_k1
from mest_compiler.bench.plots import plot_table_k1
from mest_compiler.bench.rounds import Timing
from mest_compiler.bench.torch_network import NetworkCase
from mest_compiler.errors import BenchError

CASE = NetworkCase(table_k1.MODEL, table_k1.CLASSES, table_k1.INPUT_SHAPE, batch=64, seed=0, width=1.0)
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))


def _timing(*samples: float) -> Timing:
    return Timing(list(samples), {"peak_rss_mb": 100.0})


def _table(timings: dict[str, Timing]) -> list[table_k1.Row]:
    zeros = {"block": 0.9}
    return table_k1.table(timings, zeros, CASE, threads=2, device="cpu", command="mest report table-k1")


def _resnet50() -> dict[str, tuple[int, int, int, int]]:
    """Weight shapes of the convolutions of ResNet-50 for small images."""
    shapes, channels = {"conv1.weight": (64, 3, 3, 3)}, 64
    for stage, (blocks, width) in enumerate(STAGES, 1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            shapes[f"{name}.conv1.weight"] = (width, channels, 1, 1)
            shapes[f"{name}.conv2.weight"] = (width, width, 3, 3)
            shapes[f"{name}.conv3.weight"] = (4 * width, width, 1, 1)
            if block == 0:
                shapes[f"{name}.shortcut.weight"] = (4 * width, channels, 1, 1)
            channels = 4 * width
    return shapes


@pytest.mark.parametrize(
    ("row", "overall", "of_3x3", "of_1x1"),
    [
        ("pattern", 0.44, "pattern", None),
        ("block", 0.9, "block", "block"),
        ("hybrid-uniform", 0.9, "pattern", "block"),
        ("hybrid-1.12:1", 0.9, "pattern", "block"),
        ("hybrid-proportional", 0.9, "pattern", "block"),
    ],
)
def test_rows_have_the_papers_schemes_and_sparsity(row: str, overall: float, of_3x3: str, of_1x1: str | None) -> None:
    first, *shapes = _resnet50().items()
    plan = table_k1.profile_of_row(row).assign(dict([first, *shapes]))
    assert first[0] not in plan
    removed = sum(plan[name].sparsity * np.prod(shape) for name, shape in shapes if name in plan)
    assert removed / sum(np.prod(shape) for _, shape in shapes) == pytest.approx(overall, abs=0.01)
    for name, shape in shapes:
        wanted = of_3x3 if shape[2] == 3 else of_1x1
        assert (plan[name].scheme if name in plan else None) == wanted
    assert table_k1.profile_of_row(table_k1.DENSE) is None


def test_the_ratio_of_1_12_is_that_of_95_and_85() -> None:
    plan = table_k1.profile_of_row("hybrid-1.12:1").assign(_resnet50())
    assert plan["layer3.1.conv2.weight"].sparsity == pytest.approx(0.95, abs=0.005)
    assert plan["layer3.1.conv1.weight"].sparsity == pytest.approx(0.85, abs=0.005)


def test_every_row_has_the_papers_seconds() -> None:
    assert set(table_k1.PAPER_SECONDS) == set(table_k1.ROWS)


def test_unknown_row() -> None:
    with pytest.raises(BenchError, match=r"Table K\.1 has no row 'blok': use dense, pattern, block"):
        table_k1.check_rows(("dense", "blok"))


def test_zeros_are_counted_in_the_masks_and_without_the_first_layer() -> None:
    mask = np.ones((4, 3, 1, 1), bool)
    mask[1:] = False
    shapes = {"first": [8, 2, 1, 1], "a": [4, 3, 1, 1], "b": [6, 2, 1, 1], "classifier": [100, 100]}
    manifest = {"layers": shapes, "parameters": {**shapes, "a.bias": [4]}}
    artifact = SimpleNamespace(manifest=manifest, structures={"a": SimpleNamespace(to_mask=lambda: mask)})
    assert table_k1.zeros_of(artifact) == pytest.approx(9 / 24)


def test_table() -> None:
    timings = {"dense": _timing(8000, 9000, 8000), "block": _timing(2000, 2000), "torch_nchw": _timing(6000)}
    rows = {row.row: row for row in _table({**timings, "torch_channels_last": _timing(4000)})}
    assert list(rows) == ["dense", "block", "torch_nchw", "torch_channels_last"]
    block = rows["block"]
    assert (block.seconds, block.zeros, block.rounds) == (2.0, 0.9, 2)
    assert (block.speedup_dense, block.speedup_torch) == (4.0, 2.0)
    assert (block.paper_seconds, block.paper_speedup) == (6.25, pytest.approx(11.92 / 6.25))
    assert rows["dense"].spread == pytest.approx(1 / 8)
    assert rows["torch_nchw"].paper_seconds is None
    assert rows["torch_channels_last"].speedup_torch == 1.0


def test_without_our_dense_step() -> None:
    rows = _table({"block": _timing(2000), "torch_nchw": _timing(6000)})
    assert [row.speedup_dense for row in rows] == [None, None]


def test_picture(tmp_path: Path) -> None:
    timings = {"dense": _timing(8000), "block": _timing(2000), "torch_nchw": _timing(6000)}
    plot_table_k1(tmp_path / "table-k1.png", _table(timings))
    assert (tmp_path / "table-k1.png").read_bytes().startswith(b"\x89PNG")
    plot_table_k1(tmp_path / "table-k1.png", _table({"block": _timing(1), "torch_nchw": _timing(2)}))
