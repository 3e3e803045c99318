"""The reference backend: masks hold, updates are PyTorch's own, checkpoints come back bit by bit."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from mest_compiler.errors import CheckpointError, MaskError
from mest_compiler.training.torch_backend import TorchBackend

NAME = "3.weight"


def equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def walk(backend, data, steps):
    for step in range(steps):
        part = slice(16 * step, 16 * step + 16)
        yield backend.step(data.train_x[part], data.train_y[part], 0.1)


def test_removed_weights_and_their_momentum_stay_zero(new_backend, data):
    backend = new_backend()
    removed = ~backend.masks()[NAME]
    for _ in walk(backend, data, 3):
        assert not backend.state()[NAME][removed].any()
        assert not backend.momentum()[NAME][removed].any()
    assert np.all(backend.momentum()[NAME][~removed] != 0)


def test_without_masks_a_step_is_plain_sgd(data):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    ours = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    ours.load_state_dict(plain.state_dict())
    backend = TorchBackend(ours, momentum=0.8, nesterov=True, weight_decay=1e-3)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.8, nesterov=True, weight_decay=1e-3)
    for step, (loss, logits) in enumerate(walk(backend, data, 3)):
        part = slice(16 * step, 16 * step + 16)
        optimizer.zero_grad()
        expected = plain(torch.from_numpy(data.train_x[part]))
        expected_loss = nn.functional.cross_entropy(expected, torch.from_numpy(data.train_y[part]))
        expected_loss.backward()
        optimizer.step()
        assert loss == expected_loss.item()
        np.testing.assert_array_equal(logits, expected.detach().numpy())
    for own, parameter in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own, parameter, rtol=1e-6, atol=1e-7)


def test_float64_is_close_to_float32(new_backend, data):
    single, double = new_backend(), new_backend(dtype=torch.float64)
    for (loss, _), (loss_64, logits_64) in zip(walk(single, data, 3), walk(double, data, 3), strict=True):
        assert logits_64.dtype == np.float64
        assert loss == pytest.approx(loss_64, rel=1e-4)


def test_predict_takes_any_number_and_changes_nothing(new_backend, data):
    backend = new_backend()
    before = backend.state()
    logits = backend.predict(np.concatenate([data.train_x] * 3))
    assert logits.shape == (300, 3)
    np.testing.assert_allclose(logits[:7], backend.predict(data.train_x[:7]), rtol=1e-5, atol=1e-6)
    equal(backend.state(), before)


def test_new_masks_clear_what_they_remove_and_grow_at_zero(new_backend, data):
    backend = new_backend()
    old = backend.masks()[NAME]
    list(walk(backend, data, 2))
    new = np.roll(old, 1, axis=0)
    backend.set_masks({NAME: new})
    for values in (backend.state()[NAME], backend.momentum()[NAME]):
        assert not values[~(old & new)].any()
        assert values[old & new].all()


def test_a_checkpoint_brings_everything_back(new_backend, data, tmp_path):
    saved, loaded = new_backend(), new_backend()
    list(walk(saved, data, 2))
    saved.set_masks({NAME: np.roll(saved.masks()[NAME], 1, axis=0)})
    saved.save(tmp_path / "c", {"epoch": 2, "sum": 0.1 + 0.2})
    assert loaded.load(tmp_path / "c") == {"epoch": 2, "sum": 0.1 + 0.2}
    for part in ("state", "momentum", "masks"):
        equal(getattr(saved, part)(), getattr(loaded, part)())
    for (loss, logits), (loss_again, logits_again) in zip(walk(saved, data, 3), walk(loaded, data, 3), strict=True):
        assert loss == loss_again
        np.testing.assert_array_equal(logits, logits_again)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_wrong_masks_are_refused(new_backend):
    with pytest.raises(MaskError, match=r"mask for 9\.weight, which is no parameter"):
        new_backend().set_masks({"9.weight": np.ones((8, 4, 3, 3), bool)})
    with pytest.raises(MaskError, match=r"the mask of 3\.weight is uint8 \(8, 4, 3, 3\), expected bool"):
        new_backend().set_masks({NAME: np.ones((8, 4, 3, 3), np.uint8)})


def test_wrong_checkpoints_are_refused(new_backend, tmp_path):
    path, backend = tmp_path / "c", new_backend()
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        backend.load(path)
    save_file({"a": np.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="is no checkpoint of the PyTorch backend"):
        backend.load(path)
    TorchBackend(nn.Linear(3, 2)).save(path, {})
    with pytest.raises(CheckpointError, match=r"is of another model \(for one, momentum/0\.bias differs\)"):
        backend.load(path)
    backend.save(path, {})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="is damaged"):
        backend.load(path)
