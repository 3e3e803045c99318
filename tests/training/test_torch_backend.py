"""The reference backend: masks hold, updates are PyTorch's own, checkpoints come back bit by bit."""

import copy
import importlib

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from mest_compiler.errors import CheckpointError, MaskError, MestError
from mest_compiler.losses import CrossEntropy
from mest_compiler.optimizers import AdamW, Sgd
from mest_compiler.runtime import checkpoint
from mest_compiler.sparsity.mutation import Change
from mest_compiler.sparsity.schemes import get_scheme
from mest_compiler.training.torch_backend import TorchBackend

from ..runtime.wrong_checkpoints import rewritten, wrong_contents
from .interrupted import parts_of

NAME = "3.weight"


def equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def change(old, new):
    """From one mask to another."""
    return Change(np.flatnonzero(old & new).astype(np.int32), np.flatnonzero(new).astype(np.int32))


def walk(backend, data, steps):
    for step in range(steps):
        part = slice(16 * step, 16 * step + 16)
        yield backend.step(data.train_x[part], data.train_y[part], 0.1)


def test_removed_weights_and_their_momentum_stay_zero(new_backend, data):
    backend = new_backend()
    removed = ~backend.masks()[NAME]
    for _ in walk(backend, data, 3):
        assert not backend.state()[NAME][removed].any()
        assert not backend.slots()["momentum"][NAME][removed].any()
    assert np.all(backend.slots()["momentum"][NAME][~removed] != 0)


def test_sparse_layers_have_the_networks_order():
    """Whatever the order of the masks: by name 10 comes before 3."""
    model = nn.Sequential(*(nn.Conv2d(2, 2, 3) for _ in range(12)))
    names = [f"{number}.weight" for number in range(12)]
    masks = {name: np.ones((2, 2, 3, 3), np.bool_) for name in sorted(names)}
    backend = TorchBackend(model, masks)
    for found in (backend.sparse_layers(), backend.kept_units(), backend.masks()):
        assert list(found) == names != sorted(names)


def test_without_masks_a_step_is_plain_sgd(data):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    ours = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    ours.load_state_dict(plain.state_dict())
    backend = TorchBackend(ours, optimizer=Sgd(0.8, 1e-3, True))
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


def test_mutation_clears_what_it_removes_and_grows_at_zero(new_backend, data):
    backend = new_backend()
    old = backend.masks()[NAME]
    list(walk(backend, data, 2))
    new = np.roll(old, 1, axis=0)
    backend.mutate({NAME: change(old, new)})
    np.testing.assert_array_equal(backend.masks()[NAME], new)
    np.testing.assert_array_equal(backend.kept_units()[NAME], np.flatnonzero(new))
    assert backend.kept_units()[NAME].dtype == np.int32
    for values in (backend.state()[NAME], backend.slots()["momentum"][NAME]):
        assert not values[~(old & new)].any()
        assert values[old & new].all()


def test_what_is_removed_and_grown_at_once_starts_at_zero(new_backend, data):
    backend = new_backend()
    list(walk(backend, data, 2))
    kept, before = backend.kept_units()[NAME], (backend.state()[NAME], backend.slots()["momentum"][NAME])
    backend.mutate({NAME: Change(kept[1::2], kept)})
    for values, old in zip((backend.state()[NAME], backend.slots()["momentum"][NAME]), before, strict=True):
        assert not values.reshape(-1)[kept[::2]].any()
        np.testing.assert_array_equal(values.reshape(-1)[kept[1::2]], old.reshape(-1)[kept[1::2]])
    list(walk(backend, data, 1))
    assert backend.state()[NAME].reshape(-1)[kept].all()  # and it trains


def test_layers_that_are_not_named_stay(new_backend, data):
    backend = new_backend()
    list(walk(backend, data, 1))
    state, momentum = backend.state(), backend.slots()["momentum"]
    backend.mutate({})
    equal(backend.state(), state)
    equal(backend.slots()["momentum"], momentum)
    with pytest.raises(MaskError, match=r"'0\.weight' is no sparse layer"):
        backend.mutate({"0.weight": Change(np.zeros(0, np.int32), np.zeros(0, np.int32))})


@pytest.mark.parametrize("scheme", ["unstructured", "block", "pattern", "channel", "filter"])
@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"optimizer": Sgd(nesterov=True)},
        {"optimizer": Sgd(0.9, 0.0, True)},
        {"optimizer": AdamW()},
        {"loss": CrossEntropy(0.2)},
    ],
    ids=str,
)
def test_importance_reads_the_gradient_of_the_last_step(new_backend, data, scheme, rule):
    backend = new_backend(scheme, dtype=torch.float64, **rule)
    plain = copy.deepcopy(backend.model).train()
    list(walk(backend, data, 2))
    with torch.no_grad():
        for name, values in plain.state_dict().items():
            values.copy_(torch.from_numpy(backend.state()[name]))
    x, y = torch.from_numpy(data.train_x[32:48]).double(), torch.from_numpy(data.train_y[32:48])
    nn.functional.cross_entropy(
        plain(x), y, label_smoothing=getattr(rule.get("loss"), "label_smoothing", 0.0)
    ).backward()
    backend.step(data.train_x[32:48], data.train_y[32:48], 0.1)
    before = backend.importance(0.5)
    backend.predict(data.test_x)
    equal(backend.importance(0.5), before)
    gradient = dict(plain.named_parameters())[NAME].grad.numpy()
    dense = np.abs(backend.state()[NAME]) + np.abs(0.5 * gradient)
    kind = get_scheme(scheme)
    wanted = dense.reshape(-1)[kind.weights_of(backend.kept_units()[NAME], (8, 4, 3, 3))].sum(1)
    np.testing.assert_allclose(before[NAME], wanted, rtol=1e-12)


def test_nesterov_leaves_the_gradient_alone_on_a_gpu_too(new_backend, data, monkeypatch):
    """PyTorch's update of all tensors at once, its default on a GPU, adds to the gradients themselves."""
    sgd = importlib.import_module("torch.optim.sgd")
    monkeypatch.setattr(sgd, "_default_to_fused_or_foreach", lambda *_, **__: (False, True))
    backend = new_backend(optimizer=Sgd(0.9, 0.0, True), dtype=torch.float64)
    list(walk(backend, data, 2))
    before = backend.slots()["momentum"][NAME]
    backend.step(data.train_x[32:48], data.train_y[32:48], 0.1)
    gradient = backend.slots()["momentum"][NAME] - 0.9 * before
    kept = backend.kept_units()[NAME]
    wanted = np.abs(backend.state()[NAME]) + np.abs(gradient)
    np.testing.assert_allclose(backend.importance(1.0)[NAME], wanted.reshape(-1)[kept], rtol=1e-9)


def test_importance_needs_a_step(new_backend, data, tmp_path):
    backend = new_backend()

    def refused():
        with pytest.raises(MestError, match="needs a gradient: train a step first"):
            backend.importance(0.01)

    refused()
    list(walk(backend, data, 1))
    backend.importance(0.01)
    backend.mutate({})
    refused()
    list(walk(backend, data, 1))
    backend.save(tmp_path / "c", {})
    backend.importance(0.01)
    backend.load(tmp_path / "c")
    refused()


def test_label_smoothing_is_torchs_own(new_backend, data):
    backend, plain = new_backend(loss=CrossEntropy(0.3), dtype=torch.float64), new_backend(dtype=torch.float64)
    model = plain.model.train()
    x, y = torch.from_numpy(data.train_x[:16]).double(), torch.from_numpy(data.train_y[:16])
    wanted = nn.functional.cross_entropy(model(x), y, label_smoothing=0.3).item()
    assert next(walk(backend, data, 1))[0] == pytest.approx(wanted, rel=1e-12)


def test_whatever_a_model_draws_is_drawn_again_after_a_resume(data, tmp_path):
    class Drawing(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(72, 3)

        def forward(self, x):
            return self.fc(nn.functional.dropout(x.flatten(1), 0.5, self.training))

    def backend():
        torch.manual_seed(0)
        return TorchBackend(Drawing(), seed=5)

    whole, resumed = backend(), backend()
    list(walk(whole, data, 2))
    whole.save(tmp_path / "c", {})
    expected = [loss for loss, _ in walk(whole, data, 3)]
    resumed.load(tmp_path / "c")
    assert [loss for loss, _ in walk(resumed, data, 3)] == expected
    assert len(set(loss for loss, _ in walk(TorchBackend(Drawing()), data, 2))) == 2


def test_a_linear_layer_is_sparse_and_mutates(data, tmp_path):
    torch.manual_seed(0)
    mask = np.random.default_rng(0).random((3, 72)) < 0.5
    backend = TorchBackend(nn.Sequential(nn.Flatten(), nn.Linear(72, 3)), {"1.weight": mask})
    assert backend.sparse_layers()["1.weight"][1] == (3, 72, 1, 1)
    list(walk(backend, data, 1))
    new = np.roll(mask, 1, axis=1)
    backend.mutate({"1.weight": change(mask, new)})
    np.testing.assert_array_equal(backend.masks()["1.weight"], new)
    assert not backend.state()["1.weight"][~(mask & new)].any() and backend.state()["1.weight"][mask & new].all()
    again = TorchBackend(nn.Sequential(nn.Flatten(), nn.Linear(72, 3)), {"1.weight": mask[:, :, None, None]})
    backend.save(tmp_path / "c", {})
    again.load(tmp_path / "c")
    equal(again.state(), backend.state())


@pytest.mark.parametrize("scheme", ["unstructured", "block", "pattern", "channel", "filter"])
def test_a_checkpoint_brings_everything_back(new_backend, data, tmp_path, scheme):
    saved, loaded = new_backend(scheme, dropout=0.3), new_backend(scheme, dropout=0.3)
    list(walk(saved, data, 2))
    saved.mutate({NAME: Change(saved.kept_units()[NAME][2:], saved.kept_units()[NAME][1:])})
    arrays = {"ids": np.arange(3), "none": np.zeros(0, np.int64)}
    saved.save(tmp_path / "c", {"epoch": 2, "sum": 0.1 + 0.2}, arrays)
    extra, found = loaded.load(tmp_path / "c")
    assert extra == {"epoch": 2, "sum": 0.1 + 0.2}
    equal(found, arrays)
    for ours, theirs in zip(parts_of(saved), parts_of(loaded), strict=True):
        equal(ours, theirs)
    for (loss, logits), (loss_again, logits_again) in zip(walk(saved, data, 3), walk(loaded, data, 3), strict=True):
        assert loss == loss_again
        np.testing.assert_array_equal(logits, logits_again)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_layer_may_keep_nothing_or_all(new_backend, data, tmp_path):
    for mask in (np.zeros((8, 4, 3, 3), bool), np.ones((8, 4, 3, 3), bool)):
        backend = new_backend(mask=mask)
        list(walk(backend, data, 2))
        backend.save(tmp_path / "c", {})
        again = new_backend()
        again.load(tmp_path / "c")
        for ours, theirs in zip(parts_of(again), parts_of(backend), strict=True):
            equal(ours, theirs)
        assert len(backend.importance(0.1)[NAME]) == mask.sum()


def test_wrong_masks_are_refused(new_backend):
    def refused(name, mask, scheme, sentence):
        with pytest.raises(MaskError, match=sentence):
            TorchBackend(new_backend().model, {name: mask}, {name: scheme})

    good = new_backend().masks()[NAME]
    refused("9.weight", good, "unstructured", r"mask for 9\.weight, which is no parameter")
    refused(NAME, good.astype(np.uint8), "unstructured", r"of 3\.weight is uint8 \(8, 4, 3, 3\), expected bool")
    refused(NAME, good[:4], "unstructured", r"of 3\.weight is bool \(4, 4, 3, 3\), expected bool \(8, 4, 3, 3\)")
    refused(NAME, good, "block", "is no mask of scheme 'block'")


def test_wrong_checkpoints_are_refused(new_backend, tmp_path):
    path, backend = tmp_path / "c", new_backend()
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        backend.load(path)
    save_file({"a": np.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="is no checkpoint of this version"):
        backend.load(path)
    for other in (
        TorchBackend(nn.Linear(3, 2)),
        new_backend("block"),
        *(new_backend(optimizer=rule) for rule in (Sgd(0.8), Sgd(nesterov=True), Sgd(0.9, 0.0), AdamW())),
        new_backend(dtype=torch.float64),
    ):
        other.save(path, {})
        with pytest.raises(CheckpointError, match="is of another model, optimiser or sparsity scheme"):
            backend.load(path)
    backend.save(path, {})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="is damaged"):
        backend.load(path)
    with pytest.raises(CheckpointError, match="is no JSON"):
        backend.save(path, {"array": np.zeros(2)})


def test_tensors_that_do_not_fit_change_nothing(new_backend, data, tmp_path):
    for scheme in ("unstructured", "pattern"):
        backend = new_backend(scheme)
        list(walk(backend, data, 1))
        content = rewritten(backend, tmp_path / "c")
        list(walk(backend, data, 1))
        before = parts_of(backend)
        for what, wrong in wrong_contents(content, NAME, "0.weight", "1.running_mean"):
            checkpoint.write(tmp_path / "wrong", wrong, backend._identity())
            with pytest.raises(CheckpointError):
                backend.load(tmp_path / "wrong")
                pytest.fail(f"taken: {what}")
        after = parts_of(backend)
        for ours, theirs in zip(before, after, strict=True):
            equal(ours, theirs)
        assert backend.steps == 2
        checkpoint.write(tmp_path / "right", content, backend._identity())
        backend.load(tmp_path / "right")
