"""Batch norm of two processes, each with half of the batch, against torch's own on the whole one in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mest_compiler.errors import ModelError
from mest_compiler.training.global_batch_norm import GlobalBatchNorm, with_global_batch_norm

from .forked import launched

FLOAT32, FLOAT64 = ("float32", 1e-5), ("float64", 1e-12)

# name -> (shape of the whole batch, (dtype, tolerance), mean of x, what the layer is)
NORMS = {
    "images": ((8, 3, 5, 4), FLOAT64, 0.5, {"kind": "BatchNorm2d"}),
    "images in float32": ((8, 3, 5, 4), FLOAT32, 0.5, {"kind": "BatchNorm2d"}),
    "a large mean": ((32, 4, 8, 8), FLOAT32, 1e4, {"kind": "BatchNorm2d"}),
    "one value each": ((2, 3, 1, 1), FLOAT64, 0.0, {"kind": "BatchNorm2d", "eps": 1e-3}),
    "rows": ((6, 5), FLOAT32, 0.0, {"kind": "BatchNorm1d", "affine": False, "momentum": 0.3}),
    "volumes": ((4, 2, 3, 2, 2), FLOAT64, -3.0, {"kind": "BatchNorm3d", "momentum": None}),
    "no running statistics": ((4, 2, 3), FLOAT64, 0.0, {"kind": "BatchNorm1d", "track_running_stats": False}),
}


def _layer(channels: int, options: dict) -> nn.Module:
    """torch's own layer in float64, with statistics and parameters that are not the initial ones."""
    rng = np.random.default_rng(1)
    arguments = {name: value for name, value in options.items() if name != "kind"}
    layer = getattr(nn, options["kind"])(channels, dtype=torch.float64, **arguments)
    for name, tensor in layer.state_dict().items():
        value = np.array(3) if name == "num_batches_tracked" else rng.random(channels) + 0.5
        # Through float32, so that a layer of that type starts from the same numbers.
        tensor.copy_(torch.from_numpy(value).float())
    return layer


@pytest.fixture(scope="module")
def normalised(tmp_path_factory) -> Path:
    """Folder with every batch and what the two processes made of their halves."""
    folder, rng = tmp_path_factory.mktemp("norms"), np.random.default_rng(0)
    for name, (shape, (dtype, _), mean, options) in NORMS.items():
        x, gradient = ((rng.normal(size=shape) + m).astype(dtype) for m in (mean, 0.1))
        # A channel that hardly varies beside its mean.
        x[:, 0] = (mean + 0.05 * rng.normal(size=x[:, 0].shape)).astype(dtype)
        state = {f"state/{key}": tensor.numpy() for key, tensor in _layer(shape[1], options).state_dict().items()}
        np.savez(folder / f"{name}.npz", x=x, gradient=gradient, **state)
    for code, said in launched("normalise", folder, norms={name: options for name, (*_, options) in NORMS.items()}):
        assert code == 0, said
    return folder


@pytest.mark.parametrize("name", NORMS)
def test_halves_are_normalised_as_the_whole(normalised, name):
    shape, (_, tolerance), _, options = NORMS[name]
    stored = np.load(normalised / f"{name}.npz")
    halves = [np.load(normalised / f"{name}-rank{rank}.npz") for rank in (0, 1)]
    whole = _layer(shape[1], options)
    x, gradient = (torch.from_numpy(stored[key]).double() for key in ("x", "gradient"))
    x.requires_grad_()
    y = whole(x)
    y.backward(gradient)

    def check(found: np.ndarray, expected: torch.Tensor, what: str) -> None:
        wanted = expected.detach().numpy()
        scale = max(1.0, np.abs(wanted).max())
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * scale, err_msg=what)

    for key, expected in (("y", y), ("x.grad", x.grad)):
        check(np.concatenate([half[key] for half in halves]), expected, key)
    for key, parameter in whole.named_parameters():
        check(sum(half[f"{key}.grad"] for half in halves), parameter.grad, key)
    assert set(whole.state_dict()) <= set(halves[0])
    for key, buffer in whole.named_buffers():
        check(halves[0][key], buffer, key)
        assert halves[0][key].tobytes() == halves[1][key].tobytes()
    if whole.track_running_stats:
        # Of torch's own on the halves: in evaluation mode ours is torch's.
        evaluated = whole.eval()(x).detach().numpy()
        scale = max(1.0, np.abs(evaluated).max())
        found = np.concatenate([half["evaluated"] for half in halves])
        np.testing.assert_allclose(found, evaluated, rtol=0, atol=2e-5 * scale)


def test_modules_stay_where_they_are():
    norm, other = nn.BatchNorm2d(3, eps=1e-3), nn.GroupNorm(1, 3)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), norm, nn.Sequential(norm, other))
    before = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    assert with_global_batch_norm(model) is model
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == before
    assert model[1] is model[2][0] is norm
    assert isinstance(norm, GlobalBatchNorm)
    assert norm.eps == 1e-3
    assert type(other) is nn.GroupNorm
    assert with_global_batch_norm(model) is model


def test_in_evaluation_mode_it_needs_no_processes():
    x = torch.randn(4, 3, 2, 2)
    norm = nn.BatchNorm2d(3).eval()
    expected = norm(x)
    torch.testing.assert_close(with_global_batch_norm(norm)(x), expected, rtol=0, atol=0)


def test_a_layer_of_its_own_kind_is_refused():
    class Own(nn.BatchNorm2d):
        """Does who knows what."""

    with pytest.raises(ModelError, match=r"layer '1' is a Own, .* use nn\.BatchNorm2d there"):
        with_global_batch_norm(nn.Sequential(nn.ReLU(), Own(3)))


def test_x_needs_channels():
    with pytest.raises(ValueError, match="got 1 dimensions"):
        with_global_batch_norm(nn.BatchNorm1d(3))(torch.zeros(3))
