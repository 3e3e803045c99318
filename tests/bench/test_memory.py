"""The rows and the picture of the memory report, and what a contestant says that runs alone."""

from pathlib import Path
from types import MappingProxyType

import pytest

from mest_compiler.bench import memory
from mest_compiler.bench.compare import Comparison
from mest_compiler.bench.csv_rows import read_rows, write_rows
from mest_compiler.bench.memory import KINDS, Row, Step, least_torch, limits_between, panel_of
from mest_compiler.bench.plots import plot_memory
from mest_compiler.bench.report import memory_bytes
from mest_compiler.bench.rounds import Timing, run_alone
from mest_compiler.bench.torch_network import NetworkCase
from mest_compiler.errors import BenchError

CASE = NetworkCase("resnet20", classes=10, input_shape=(3, 16, 16), batch=8, seed=0, width=0.5)
PLANNED = MappingProxyType(dict(zip(KINDS, (40, 10, 20, 5, 30, 200, 100), strict=True)))
OURS = {**PLANNED, "planned_peak": 405, "measured_peak": 420}
TORCH = {"weights": 40, "gradients": 40, "optimizer": 40, "data": 30, "rest": 850, "peak": 1000}
FACTS = {"threads": 1, "rounds": 1, "device": "cpu", "command": "mest report memory"}


def _timing(sizes: dict[str, int], ms: float = 10.0) -> Timing:
    return Timing([ms], {"result": {"bytes": sizes}})


def _step(scheme: str = "block", limit: int | None = None) -> Step:
    plan = {
        "planned": dict(PLANNED), "planned_peak": 405, "micro_batch": 4, "micro_batches": 2,
        "recomputed": {"a": 3, "b": 4}, "stored": "float32",
    }  # fmt: skip
    return Step(Path("step"), {"memory": plan}, scheme, 0.9 if scheme else 0.0, limit)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """Both panels, without a measurement."""

    def interleave(contestants: list, rounds: int, progress: object) -> dict[str, Timing]:
        torch = {"torch_nchw": TORCH, "torch_channels_last": {**TORCH, "rest": 700, "peak": 850}}
        return {one.name: _timing(torch.get(one.name, OURS)) for one in contestants}

    monkeypatch.setattr(memory, "interleave", interleave)
    steps = {"dense": _step(""), "block": _step(), "block, bf16": _step()}
    limits = {f"{limit} bytes": _step(limit=limit) for limit in (500, 405)}
    found = memory.measure("steps", steps, CASE, with_torch=True, **FACTS)
    return found + memory.measure("limits", limits, CASE, with_torch=False, **FACTS)


def test_limits() -> None:
    assert limits_between(500, 100) == (500, 400, 300, 200, 100)
    assert limits_between(10, 9) == (10, 9)
    assert limits_between(7, 7) == (7,)


def test_rows(rows: list[Row], tmp_path: Path) -> None:
    steps, limits = panel_of(rows, "steps"), panel_of(rows, "limits")
    assert [row.row for row in steps] == ["torch_nchw", "torch_channels_last", "dense", "block", "block, bf16"]
    assert [row.memory_limit for row in limits] == [500, 405]
    block = steps[3]
    assert sum(getattr(block, kind) for kind in KINDS) == block.planned_peak == 405
    assert (block.scheme, block.sparsity, block.recomputed, block.micro_batch) == ("block", 0.9, 7, 4)
    assert (block.peak, block.ms, block.rest) == (420, 10.0, None)
    torch = least_torch(rows)
    assert (torch.row, torch.peak, torch.rest, torch.planned_peak) == ("torch_channels_last", 850, 700, None)
    write_rows(tmp_path / "memory.csv", rows)
    assert read_rows(tmp_path / "memory.csv", Row) == [Row(**{**vars(row), "sparsity": row.sparsity}) for row in rows]


def test_picture(rows: list[Row], tmp_path: Path) -> None:
    for some in (rows, panel_of(rows, "steps")):
        plot_memory(tmp_path / "memory.png", some)
        assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "memory.png").unlink()


def test_bytes_of_a_comparison() -> None:
    dense = {**OURS, "weights": 400}
    variants = {"torch_a": _timing(TORCH), "torch_b": _timing({**TORCH, "peak": 900}, ms=20.0)}
    found = memory_bytes(Comparison({"sparse": _timing(OURS), "dense": _timing(dense), **variants}, {}))
    # of PyTorch, the variant that takes the least counts, and not the fastest
    assert found["bytes"] == {**OURS, "torch_peak": 900}
    assert found["bytes_of"] == {"sparse": OURS, "dense": dense, "torch": {**TORCH, "peak": 900}}
    assert memory_bytes(Comparison({"dense": _timing(dense)}, {})) == {"bytes": dense, "bytes_of": {"dense": dense}}


def test_a_contestant_alone(contestant, no_worker_left) -> None:
    said = run_alone(contestant("a", "Summer"))
    assert len(said["intervals"]) >= 2
    assert no_worker_left()
    with pytest.raises(BenchError, match="cannot have 1000 threads"):
        run_alone(contestant("a", "Summer", threads=1000))


@pytest.mark.slow
def test_torch_alone() -> None:
    found = memory.torch_bytes(CASE, threads=1)
    weights = sum(parameter.nbytes for parameter in CASE.network().parameters())
    assert found["optimizer"] == weights <= found["weights"]
    # the planes of 19 convolutions and of their batch norms, at 16x16, 8x8 and 4x4
    planes = 4 * 8 * (13 * 8 * 16 * 16 + 12 * 16 * 8 * 8 + 12 * 32 * 4 * 4)
    assert found["data"] + 2 * weights + planes < found["peak"] < 4 * planes
