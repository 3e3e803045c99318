"""A comparison as JSON values."""

import json

import pytest

from mest_compiler.bench.compare import REWRITES, Comparison, read_opponents, turned
from mest_compiler.bench.report import report, state_bytes
from mest_compiler.bench.rounds import Timing
from mest_compiler.errors import BenchError
from mest_compiler.passes.options import PLAIN, StepOptions


def _timing(*samples: float, **result: object) -> Timing:
    return Timing(list(samples), {"peak_rss_mb": 100.0, "outputs": None, "result": result})


SPARSE = _timing(
    2.0, 3.0, 1.0, kernels={"a": {}}, kernel_ms={"k": {"ms": 1, "calls": 1}}, state_bytes={"weights": 3, "indices": 1}
)
DENSE = _timing(8.0, kernels={"a": {}}, state_bytes={"weights": 30, "indices": 0})
TORCH = {"torch_a": _timing(12.0, state_bytes=90), "torch_b": _timing(10.0, state_bytes=60)}


def test_all_three() -> None:
    errors = {"sparse": {"y": 1e-6, "dx": 3e-6}, "dense": {"y": 1.0, "dx": 0.0}}
    found = report(Comparison({"sparse": SPARSE, "dense": DENSE, **TORCH}, errors), device="cpu", threads=2)
    json.dumps(found)
    assert found["ms"] == {"sparse": 2.0, "dense": 8.0, "torch": 10.0}
    assert found["speedup"] == {"dense": 4.0, "torch": 5.0, "dense_vs_torch": 1.25}
    assert found["torch_variants"] == {"torch_a": 12.0, "torch_b": 10.0}
    assert found["torch_fastest"] == "torch_b"
    assert found["max_rel_error"] == 3e-6
    assert found["spread"]["sparse"] == 1.0
    assert found["kernels"] == {"sparse": {"a": {}}, "dense": {"a": {}}}
    assert found["kernel_ms"] == {"sparse": {"k": {"ms": 1, "calls": 1}}}
    assert (found["rounds"], found["threads"], found["device"]) == (3, 2, "cpu")
    assert found["date"] == found["machine"]["date"]


def test_dense_alone_is_the_subject() -> None:
    found = report(Comparison({"dense": DENSE, **TORCH}, {"dense": {"loss": 1e-7}}), device="cpu", threads=1)
    assert found["subject"] == "dense"
    assert found["speedup"] == {"torch": 1.25, "dense_vs_torch": 1.25}
    assert found["max_rel_error"] == 1e-7
    assert "kernel_ms" not in found


def test_without_pytorch_there_is_no_error_to_speak_of() -> None:
    found = report(Comparison({"sparse": SPARSE}, {}), device="cpu", threads=1)
    assert found["max_rel_error"] is None
    assert found["speedup"] == {}


def test_bytes_of_the_state() -> None:
    found = state_bytes(Comparison({"sparse": SPARSE, **TORCH}, {}))
    assert found["state_bytes"] == {"sparse": 4, "torch": 60}
    assert found["state_bytes_details"]["sparse"] == {"weights": 3, "indices": 1}


def test_opponents() -> None:
    assert read_opponents("torch, dense") == ("torch", "dense")
    assert read_opponents("dense,forward-sums,dense") == ("dense", "forward-sums")
    with pytest.raises(BenchError, match="nothing called 'jax' to compare with: use torch, dense, unordered, "):
        read_opponents("jax")
    with pytest.raises(BenchError, match=r"called 'forward-sum' to compare with \(did you mean 'forward-sums'\?\)"):
        read_opponents("forward-sum")


def test_every_rewrite_is_an_opponent() -> None:
    bools = {field for field, value in vars(PLAIN).items() if isinstance(value, bool)}
    assert {"forward_sums", "backward_sums", "weight_gradients"} <= set(REWRITES.values()) == bools
    assert read_opponents(",".join(REWRITES)) == tuple(REWRITES)


def test_one_rewrite_is_turned_the_other_way_round() -> None:
    asked = StepOptions(memory_limit=10**6, stored="bfloat16")
    assert turned(asked, "forward-sums") == StepOptions(10**6, stored="bfloat16", forward_sums=True)
    assert turned(asked, "weight-gradients") == StepOptions(10**6, stored="bfloat16", weight_gradients=False)
    assert turned(turned(asked, "forward-sums"), "forward-sums") == asked


def test_a_step_with_a_rewrite_turned_is_an_opponent_as_any() -> None:
    other = _timing(3.0, kernels={"b": {}}, state_bytes={"weights": 3, "indices": 1})
    comparison = Comparison({"sparse": SPARSE, "forward-sums": other, **TORCH}, {})
    found = report(comparison, device="cpu", threads=1)
    assert (found["subject"], found["ms"]["forward-sums"]) == ("sparse", 3.0)
    assert found["speedup"] == {"forward-sums": 1.5, "torch": 5.0}
    assert found["kernels"] == {"sparse": {"a": {}}, "forward-sums": {"b": {}}}
    assert state_bytes(comparison)["state_bytes"] == {"sparse": 4, "forward-sums": 4, "torch": 60}
