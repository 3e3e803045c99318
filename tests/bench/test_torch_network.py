"""PyTorch's ways through a training iteration compute the same, from the same weights and data."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from mest_compiler.bench import torch_network
from mest_compiler.bench.torch_network import NetworkCase
from mest_compiler.sparsity.masks import save_masks

# Not narrower: below 8 channels, oneDNN's weight gradient of a strided 1x1 convolution in channels_last (the shortcuts)
# writes outside its workspace, which crashes the process sooner or later.
CASE = NetworkCase("resnet20", classes=10, input_shape=(3, 16, 16), batch=4, seed=3, width=0.5)
LAYER = "layer1.0.conv1.weight"


def _first_iteration(factory, case: NetworkCase, folder: Path) -> dict[str, np.ndarray]:
    iteration = factory(**asdict(case))
    iteration.outputs(folder / "arrays.npz")
    iteration.run()
    with np.load(folder / "arrays.npz") as arrays:
        return dict(arrays)


def test_both_formats_agree(tmp_path: Path) -> None:
    nchw, channels_last = (_first_iteration(factory, CASE, tmp_path) for factory in torch_network.FACTORIES)
    assert nchw["logits"].shape == (4, 10)
    assert nchw["loss"] == pytest.approx(channels_last["loss"], rel=1e-4)
    np.testing.assert_allclose(nchw["logits"], channels_last["logits"], rtol=1e-3, atol=1e-4)


def test_an_iteration_trains() -> None:
    iteration = torch_network.nchw(**asdict(CASE))
    before = iteration.network.get_parameter(LAYER).detach().clone()
    iteration.run()
    assert not before.equal(iteration.network.get_parameter(LAYER))
    weights = sum(parameter.numel() for parameter in iteration.network.parameters())
    assert iteration.result()["state_bytes"] == 3 * 4 * weights


def test_masked_weights_are_zero(tmp_path: Path) -> None:
    shape = tuple(CASE.network().get_parameter(LAYER).shape)
    mask = np.random.default_rng(0).random(shape) < 0.5
    save_masks(tmp_path / "masks.safetensors", {LAYER: mask})
    masked = NetworkCase(**{**asdict(CASE), "masks": str(tmp_path / "masks.safetensors")})
    weight = masked.network().get_parameter(LAYER).detach().numpy()
    assert np.array_equal(weight != 0, mask)


def test_contestants_can_be_sent_to_a_process() -> None:
    import json

    contestants = torch_network.contestants(CASE, threads=1)
    assert [one.name for one in contestants] == ["torch_nchw", "torch_channels_last"]
    sent = json.loads(json.dumps(contestants[0].arguments))
    assert NetworkCase(**sent).inputs()[0].shape == (4, 3, 16, 16)
