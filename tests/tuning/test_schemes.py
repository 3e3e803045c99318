"""The scheme of each layer by measuring, in a network."""

import numpy as np
import pytest
import torch
from torch import nn

from mest_compiler import Trainer, compile_step, pace
from mest_compiler.devices import CpuProfile
from mest_compiler.sparsity.automatic import Automatic
from mest_compiler.sparsity.schemes import get_scheme

from ..whole_step.cases import unoptimised


class Net(nn.Module):
    """Three convolutions, one of them 1x1."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.wide = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.point = nn.Conv2d(8, 8, 1, bias=False)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.point(torch.relu(self.wide(torch.relu(self.first(x))))))
        return self.fc(x.mean(dim=(2, 3)))


@pytest.fixture(autouse=True)
def _unoptimised(compiled_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which kernel is the fastest is no matter here; what both tests need is measured once."""
    monkeypatch.setattr(CpuProfile, "target", property(unoptimised))
    monkeypatch.setattr(pace, "beats", dict)


@pytest.fixture(scope="module")
def inputs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((4, 3, 8, 8), np.float32), rng.integers(0, 4, 4)


def test_auto_decides_every_layer_and_records_it(inputs: tuple[np.ndarray, np.ndarray]) -> None:
    step = compile_step(Net(), input_shape=(3, 8, 8), batch=4, profile=Automatic(0.75), threads=1)
    layers = step.manifest["layers"]
    assert layers["first.weight"]["scheme"] == "dense"
    assert layers["wide.weight"]["scheme"] in ("unstructured", "block", "pattern")
    assert layers["point.weight"]["scheme"] in ("unstructured", "block")
    for name in ("wide.weight", "point.weight"):
        assert layers[name]["sparsity"] == pytest.approx(0.75, abs=0.03)
        for kernel in layers[name]["kernels"].values():
            assert kernel["source"] == "measured" or not kernel["times"]
    loss, _ = Trainer(step).step(*inputs, lr=0.1)
    assert np.isfinite(loss)


def test_auto_computes_given_masks(inputs: tuple[np.ndarray, np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    masks = {
        "wide.weight": get_scheme("pattern").random_mask((8, 8, 3, 3), 0.75, rng),
        "point.weight": get_scheme("block").random_mask((8, 8, 1, 1), 0.75, rng),
    }
    torch.manual_seed(0)
    model = Net()
    step = compile_step(model, input_shape=(3, 8, 8), batch=4, profile=Automatic(None), masks=masks, threads=1)
    found = {name: structure.to_mask() for name, structure in step.structures.items()}
    assert set(found) == set(masks)
    for name, mask in masks.items():
        np.testing.assert_array_equal(found[name], mask)
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(torch.from_numpy(mask))
    x, y = inputs
    expected = nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y))
    assert Trainer(step).step(x, y, lr=0.1)[0] == pytest.approx(expected.item(), rel=1e-5)
