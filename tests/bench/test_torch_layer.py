"""PyTorch's ways through a layer compute the same, from the same data."""

import numpy as np
import pytest

from mest_compiler.bench import torch_layer
from mest_compiler.bench.inputs import layer_inputs
from mest_compiler.bench.layer_spec import LayerSpec
from mest_compiler.bench.rounds import Limits, fastest, interleave

CASE = {"batch": 3, "seed": 1, "scheme": "block", "sparsity": 0.5}


def test_inputs_come_from_the_seed_and_the_mask() -> None:
    layer = LayerSpec.parse("layer:8,12,3,6x5,s2")
    first, again = layer_inputs(layer, **CASE), layer_inputs(layer, **CASE)
    assert first.x.shape == (3, 8, 6, 5)
    assert first.dy.shape == (3, 12, 3, 3)
    assert all(array.dtype == np.float32 for array in (first.x, first.weight, first.dy))
    assert np.array_equal(first.weight, again.weight)
    assert np.array_equal(first.weight != 0, first.mask)
    assert first.mask.mean() == 0.5
    other = layer_inputs(layer, **{**CASE, "seed": 2})
    assert not np.array_equal(first.x, other.x)


@pytest.mark.parametrize("text", ["layer:8,12,3,6x5", "layer:8,12,3,6x5,s2", "layer:8,12,1,6x6,s2"])
def test_all_ways_agree(text: str, tmp_path) -> None:
    outputs = []
    for factory in torch_layer.FACTORIES:
        way = factory(layer=text, **CASE)
        way.run()
        way.outputs(tmp_path / "arrays.npz")
        with np.load(tmp_path / "arrays.npz") as arrays:
            outputs.append(dict(arrays))
    for name in ("y", "dx", "dw"):
        for other in outputs[1:]:
            np.testing.assert_allclose(other[name], outputs[0][name], rtol=1e-4, atol=1e-5)
    assert outputs[0]["dw"].shape == LayerSpec.parse(text).weight_shape


def test_all_ways_run_in_processes_of_their_own(tmp_path) -> None:
    contestants = torch_layer.contestants(LayerSpec.parse("layer:8,8,3,6x6"), threads=1, **CASE)
    assert len(contestants) == len(torch_layer.FACTORIES)
    timings = interleave([contestants[0], contestants[-1]], 1, outputs=tmp_path, limits=Limits(turn=0.01, patience=0))
    assert fastest(timings, "torch") in timings
    arrays = [np.load(timing.extra["outputs"]) for timing in timings.values()]
    np.testing.assert_allclose(arrays[0]["dx"], arrays[-1]["dx"], rtol=1e-4, atol=1e-5)
