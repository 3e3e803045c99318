"""The kernels of a layer compute what PyTorch computes, and say which they are."""

from pathlib import Path

import numpy as np
import pytest

from mest_compiler.bench import compiled_layer, torch_layer
from mest_compiler.bench.batch_tiles import from_tiles, to_tiles
from mest_compiler.bench.inputs import layer_inputs
from mest_compiler.bench.layer_spec import LayerSpec
from mest_compiler.kernels.geometry import Plane


def _outputs(runner, path: Path) -> dict[str, np.ndarray]:
    runner.run()
    runner.outputs(path)
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.mark.parametrize(
    ("text", "scheme", "sparsity"),
    [
        pytest.param("layer:8,12,3,6x5", "block", 0.5, marks=pytest.mark.slow),
        ("layer:8,12,3,6x5", "unstructured", 0.5),
        ("layer:8,12,3,6x5,s2", "pattern", 0.8),
        ("layer:8,12,3,6x5,s2", "channel", 0.9),
        pytest.param("layer:8,12,1,6x6,s2", "filter", 0.5, marks=pytest.mark.slow),
        ("layer:8,12,1,6x6,s2", "block:4x4", 0.5),
    ],
)
def test_agrees_with_pytorch(text: str, scheme: str, sparsity: float, tmp_path: Path) -> None:
    case = {"layer": text, "batch": 3, "seed": 1, "scheme": scheme, "sparsity": sparsity}
    inputs = layer_inputs(LayerSpec.parse(text), **{k: v for k, v in case.items() if k != "layer"})
    expected = _outputs(torch_layer.nchw_direct(**case), tmp_path / "torch.npz")
    masks = {"sparse": inputs.mask}
    if scheme == "unstructured":
        masks |= {"unordered": inputs.mask, "dense": np.ones_like(inputs.mask)}
    for name, mask in masks.items():
        layer = getattr(compiled_layer, name)(**case, threads=1)
        found = _outputs(layer, tmp_path / "ours.npz")
        for array in ("y", "dx"):
            np.testing.assert_allclose(found[array], expected[array], rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(found["dw"], np.where(mask, expected["dw"], 0), rtol=1e-4, atol=1e-4, err_msg=name)
        said = layer.result()
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
