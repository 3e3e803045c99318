"""Rows of very different length, and what dealing them out by their work is measured against."""

import numpy as np
import pytest

from mest_compiler.bench.compare import LayerCase, compare_layer
from mest_compiler.bench.inputs import layer_inputs, uneven_mask
from mest_compiler.bench.layer_spec import LayerSpec
from mest_compiler.errors import BenchError
from mest_compiler.sparsity.schemes import get_scheme
from mest_compiler.sparsity.structure import build

SHAPE = (16, 16, 3, 3)


@pytest.mark.parametrize("scheme", ["unstructured", "block", "pattern"])
def test_rows_of_an_uneven_mask_grow_and_its_ratio_holds(scheme: str) -> None:
    kind = get_scheme(scheme)
    mask = uneven_mask(kind, SHAPE, 0.75, np.random.default_rng(0))
    rows = kind.mask_to_units(mask).reshape(kind.grid(SHAPE)).sum(axis=1)
    assert rows[-1] > 4 * rows[0]
    assert (np.diff(rows) >= 0).all()
    assert 1 - mask.mean() == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("scheme", ["unstructured", "block", "pattern"])
def test_dealt_rows_share_the_work_and_unordered_ones_do_not(scheme: str) -> None:
    mask = uneven_mask(get_scheme(scheme), SHAPE, 0.75, np.random.default_rng(0))

    def halves(parts: int | None) -> tuple[int, int]:
        lengths = build(mask, scheme, parts=parts).lengths
        return lengths[: len(lengths) // 2].sum(), lengths[len(lengths) // 2 :].sum()

    first, second = halves(2)
    assert abs(int(first) - int(second)) <= max(build(mask, scheme).lengths)
    first, second = halves(None)
    assert second > 1.5 * first


@pytest.mark.slow
def test_unordered_rows_compute_the_same() -> None:
    layer = LayerSpec.parse("layer:8,16,3,6x6")
    case = LayerCase(layer, 5, 0, "block", 0.5, uneven=True)
    comparison = compare_layer(case, ("torch", "unordered"), threads=2, rounds=1)
    assert {"sparse", "unordered"} <= set(comparison.timings)
    for name in ("sparse", "unordered"):
        assert max(comparison.errors[name].values()) < 1e-5
    mask = layer_inputs(layer, **case.arguments()).mask
    assert mask[-4:].sum() > mask[:4].sum()


def test_a_dense_layer_has_no_order_of_rows() -> None:
    case = LayerCase(LayerSpec.parse("layer:8,16,3,6x6"), 5, 0, None, 0.0)
    with pytest.raises(BenchError, match="no rows to reorder"):
        compare_layer(case, ("unordered",), threads=1, rounds=1)
