"""The kernels of a layer compute what PyTorch computes, and say which they are."""

from pathlib import Path

import numpy as np
import pytest

from mest_compiler.bench import compiled_layer, torch_layer
from mest_compiler.bench.batch_tiles import from_tiles, to_tiles
from mest_compiler.kernels.geometry import Plane


def _outputs(runner, path: Path) -> dict[str, np.ndarray]:
    runner.run()
    runner.outputs(path)
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("scheme", ["block", "unstructured"])
@pytest.mark.parametrize("text", ["layer:8,12,3,6x5", "layer:8,12,3,6x5,s2", "layer:8,12,1,6x6,s2"])
def test_agrees_with_pytorch(text: str, scheme: str, tmp_path: Path) -> None:
    case = {"layer": text, "batch": 3, "seed": 1, "scheme": scheme, "sparsity": 0.5}
    expected = _outputs(torch_layer.nchw_direct(**case), tmp_path / "torch.npz")
    sparse, dense = compiled_layer.sparse(**case, threads=1), compiled_layer.dense(**case, threads=1)
    for layer in (sparse, dense):
        found = _outputs(layer, tmp_path / "ours.npz")
        for name in ("y", "dx"):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5)
        mask = layer.inputs.mask if layer is sparse else np.ones_like(layer.inputs.mask)
        np.testing.assert_allclose(found["dw"], np.where(mask, expected["dw"], 0), rtol=1e-4, atol=1e-4)
    said = sparse.result()
    assert set(said["kernels"][text]) == {"forward", "backward_data", "backward_weight"}
    assert all(kernel["source"] for kernel in said["kernels"][text].values())
    assert len(said["kernel_ms"]) == 3


def test_tiles_and_back() -> None:
    array = np.random.default_rng(0).standard_normal((5, 3, 4, 6)).astype(np.float32)
    tiled = to_tiles(array, lanes=4, border=2)
    plane = Plane(4, 6, border=2)
    assert tiled.shape == (2, 3 * plane.size, 4)
    assert np.array_equal(from_tiles(tiled, 5, 3, plane), array)
    assert not tiled[1, :, 1:].any()  # lanes without an example
    assert tiled[0, plane.at(1, 2), 3] == array[3, 0, 1, 2]
    assert not tiled[0, plane.at(-1, 0)].any()
