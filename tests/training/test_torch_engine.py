"""The reference engine: masks hold, updates are PyTorch's own, checkpoints come back bit by bit."""

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
from mest_compiler.training.torch_engine import TorchEngine

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


def walk(engine, data, steps):
    for step in range(steps):
        part = slice(16 * step, 16 * step + 16)
        yield engine.step(data.train_x[part], data.train_y[part], 0.1)


def test_removed_weights_and_their_momentum_stay_zero(new_engine, data):
    engine = new_engine()
    removed = ~engine.masks()[NAME]
    for _ in walk(engine, data, 3):
        assert not engine.state()[NAME][removed].any()
        assert not engine.slots()["momentum"][NAME][removed].any()
    assert np.all(engine.slots()["momentum"][NAME][~removed] != 0)


def test_sparse_layers_have_the_networks_order():
    """Whatever the order of the masks: by name 10 comes before 3."""
    model = nn.Sequential(*(nn.Conv2d(2, 2, 3) for _ in range(12)))
    names = [f"{number}.weight" for number in range(12)]
    masks = {name: np.ones((2, 2, 3, 3), np.bool_) for name in sorted(names)}
    engine = TorchEngine(model, masks)
    for found in (engine.sparse_layers(), engine.kept_units(), engine.masks()):
        assert list(found) == names != sorted(names)


def test_without_masks_a_step_is_plain_sgd(data):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    ours = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    ours.load_state_dict(plain.state_dict())
    engine = TorchEngine(ours, optimizer=Sgd(0.8, 1e-3, True))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.8, nesterov=True, weight_decay=1e-3)
    for step, (loss, logits) in enumerate(walk(engine, data, 3)):
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


def test_float64_is_close_to_float32(new_engine, data):
    single, double = new_engine(), new_engine(dtype=torch.float64)
    for (loss, _), (loss_64, logits_64) in zip(walk(single, data, 3), walk(double, data, 3), strict=True):
        assert logits_64.dtype == np.float64
        assert loss == pytest.approx(loss_64, rel=1e-4)


def test_predict_takes_any_number_and_changes_nothing(new_engine, data):
    engine = new_engine()
    before = engine.state()
    logits = engine.predict(np.concatenate([data.train_x] * 3))
    assert logits.shape == (300, 3)
    np.testing.assert_allclose(logits[:7], engine.predict(data.train_x[:7]), rtol=1e-5, atol=1e-6)
    equal(engine.state(), before)


def test_mutation_clears_what_it_removes_and_grows_at_zero(new_engine, data):
    engine = new_engine()
    old = engine.masks()[NAME]
    list(walk(engine, data, 2))
    new = np.roll(old, 1, axis=0)
    engine.mutate({NAME: change(old, new)})
    np.testing.assert_array_equal(engine.masks()[NAME], new)
    np.testing.assert_array_equal(engine.kept_units()[NAME], np.flatnonzero(new))
    assert engine.kept_units()[NAME].dtype == np.int32
    for values in (engine.state()[NAME], engine.slots()["momentum"][NAME]):
        assert not values[~(old & new)].any()
        assert values[old & new].all()


def test_what_is_removed_and_grown_at_once_starts_at_zero(new_engine, data):
    engine = new_engine()
    list(walk(engine, data, 2))
    kept, before = engine.kept_units()[NAME], (engine.state()[NAME], engine.slots()["momentum"][NAME])
    engine.mutate({NAME: Change(kept[1::2], kept)})
    for values, old in zip((engine.state()[NAME], engine.slots()["momentum"][NAME]), before, strict=True):
        assert not values.reshape(-1)[kept[::2]].any()
        np.testing.assert_array_equal(values.reshape(-1)[kept[1::2]], old.reshape(-1)[kept[1::2]])
    list(walk(engine, data, 1))
    assert engine.state()[NAME].reshape(-1)[kept].all()  # and it trains


def test_layers_that_are_not_named_stay(new_engine, data):
    engine = new_engine()
    list(walk(engine, data, 1))
    state, momentum = engine.state(), engine.slots()["momentum"]
    engine.mutate({})
    equal(engine.state(), state)
    equal(engine.slots()["momentum"], momentum)
    with pytest.raises(MaskError, match=r"'0\.weight' is no sparse layer"):
        engine.mutate({"0.weight": Change(np.zeros(0, np.int32), np.zeros(0, np.int32))})


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
def test_importance_reads_the_gradient_of_the_last_step(new_engine, data, scheme, rule):
    engine = new_engine(scheme, dtype=torch.float64, **rule)
    plain = copy.deepcopy(engine.model).train()
    list(walk(engine, data, 2))
    with torch.no_grad():
        for name, values in plain.state_dict().items():
            values.copy_(torch.from_numpy(engine.state()[name]))
    x, y = torch.from_numpy(data.train_x[32:48]).double(), torch.from_numpy(data.train_y[32:48])
    nn.functional.cross_entropy(
        plain(x), y, label_smoothing=getattr(rule.get("loss"), "label_smoothing", 0.0)
    ).backward()
    engine.step(data.train_x[32:48], data.train_y[32:48], 0.1)
    before = engine.importance(0.5)
    engine.predict(data.test_x)
    equal(engine.importance(0.5), before)
    gradient = dict(plain.named_parameters())[NAME].grad.numpy()
    dense = np.abs(engine.state()[NAME]) + np.abs(0.5 * gradient)
    kind = get_scheme(scheme)
    wanted = dense.reshape(-1)[kind.weights_of(engine.kept_units()[NAME], (8, 4, 3, 3))].sum(1)
    np.testing.assert_allclose(before[NAME], wanted, rtol=1e-12)


def test_nesterov_leaves_the_gradient_alone_on_a_gpu_too(new_engine, data, monkeypatch):
    """PyTorch's update of all tensors at once, its default on a GPU, adds to the gradients themselves."""
    sgd = importlib.import_module("torch.optim.sgd")
    monkeypatch.setattr(sgd, "_default_to_fused_or_foreach", lambda *_, **__: (False, True))
    engine = new_engine(optimizer=Sgd(0.9, 0.0, True), dtype=torch.float64)
    list(walk(engine, data, 2))
    before = engine.slots()["momentum"][NAME]
    engine.step(data.train_x[32:48], data.train_y[32:48], 0.1)
    gradient = engine.slots()["momentum"][NAME] - 0.9 * before
    kept = engine.kept_units()[NAME]
    wanted = np.abs(engine.state()[NAME]) + np.abs(gradient)
    np.testing.assert_allclose(engine.importance(1.0)[NAME], wanted.reshape(-1)[kept], rtol=1e-9)


def test_importance_needs_a_step(new_engine, data, tmp_path):
    engine = new_engine()

    def refused():
        with pytest.raises(MestError, match="needs a gradient: train a step first"):
            engine.importance(0.01)

    refused()
    list(walk(engine, data, 1))
    engine.importance(0.01)
    engine.mutate({})
    refused()
    list(walk(engine, data, 1))
    engine.save(tmp_path / "c", {})
    engine.importance(0.01)
    engine.load(tmp_path / "c")
    refused()


def test_label_smoothing_is_torchs_own(new_engine, data):
    engine, plain = new_engine(loss=CrossEntropy(0.3), dtype=torch.float64), new_engine(dtype=torch.float64)
    model = plain.model.train()
    x, y = torch.from_numpy(data.train_x[:16]).double(), torch.from_numpy(data.train_y[:16])
    wanted = nn.functional.cross_entropy(model(x), y, label_smoothing=0.3).item()
    assert next(walk(engine, data, 1))[0] == pytest.approx(wanted, rel=1e-12)


def test_whatever_a_model_draws_is_drawn_again_after_a_resume(data, tmp_path):
    class Drawing(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(72, 3)

        def forward(self, x):
            return self.fc(nn.functional.dropout(x.flatten(1), 0.5, self.training))

    def engine():
        torch.manual_seed(0)
        return TorchEngine(Drawing(), seed=5)

    whole, resumed = engine(), engine()
    list(walk(whole, data, 2))
    whole.save(tmp_path / "c", {})
    expected = [loss for loss, _ in walk(whole, data, 3)]
    resumed.load(tmp_path / "c")
    assert [loss for loss, _ in walk(resumed, data, 3)] == expected
    assert len(set(loss for loss, _ in walk(TorchEngine(Drawing()), data, 2))) == 2


def test_a_linear_layer_is_sparse_and_mutates(data, tmp_path):
    torch.manual_seed(0)
    mask = np.random.default_rng(0).random((3, 72)) < 0.5
    engine = TorchEngine(nn.Sequential(nn.Flatten(), nn.Linear(72, 3)), {"1.weight": mask})
    assert engine.sparse_layers()["1.weight"][1] == (3, 72, 1, 1)
    list(walk(engine, data, 1))
    new = np.roll(mask, 1, axis=1)
    engine.mutate({"1.weight": change(mask, new)})
    np.testing.assert_array_equal(engine.masks()["1.weight"], new)
    assert not engine.state()["1.weight"][~(mask & new)].any() and engine.state()["1.weight"][mask & new].all()
    again = TorchEngine(nn.Sequential(nn.Flatten(), nn.Linear(72, 3)), {"1.weight": mask[:, :, None, None]})
    engine.save(tmp_path / "c", {})
    again.load(tmp_path / "c")
    equal(again.state(), engine.state())


@pytest.mark.parametrize("scheme", ["unstructured", "block", "pattern", "channel", "filter"])
def test_a_checkpoint_brings_everything_back(new_engine, data, tmp_path, scheme):
    saved, loaded = new_engine(scheme, dropout=0.3), new_engine(scheme, dropout=0.3)
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


def test_a_layer_may_keep_nothing_or_all(new_engine, data, tmp_path):
    for mask in (np.zeros((8, 4, 3, 3), bool), np.ones((8, 4, 3, 3), bool)):
        engine = new_engine(mask=mask)
        list(walk(engine, data, 2))
        engine.save(tmp_path / "c", {})
        again = new_engine()
        again.load(tmp_path / "c")
        for ours, theirs in zip(parts_of(again), parts_of(engine), strict=True):
            equal(ours, theirs)
        assert len(engine.importance(0.1)[NAME]) == mask.sum()


def test_wrong_masks_are_refused(new_engine):
    def refused(name, mask, scheme, sentence):
        with pytest.raises(MaskError, match=sentence):
            TorchEngine(new_engine().model, {name: mask}, {name: scheme})

    good = new_engine().masks()[NAME]
    refused("9.weight", good, "unstructured", r"mask for 9\.weight, which is no parameter")
    refused(NAME, good.astype(np.uint8), "unstructured", r"of 3\.weight is uint8 \(8, 4, 3, 3\), expected bool")
    refused(NAME, good[:4], "unstructured", r"of 3\.weight is bool \(4, 4, 3, 3\), expected bool \(8, 4, 3, 3\)")
    refused(NAME, good, "block", "is no mask of scheme 'block'")


def test_wrong_checkpoints_are_refused(new_engine, tmp_path):
    path, engine = tmp_path / "c", new_engine()
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        engine.load(path)
    save_file({"a": np.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="is no checkpoint of this version"):
        engine.load(path)
    for other in (
        TorchEngine(nn.Linear(3, 2)),
        new_engine("block"),
        *(new_engine(optimizer=rule) for rule in (Sgd(0.8), Sgd(nesterov=True), Sgd(0.9, 0.0), AdamW())),
        new_engine(dtype=torch.float64),
    ):
        other.save(path, {})
        with pytest.raises(CheckpointError, match="is of another model, optimiser or sparsity scheme"):
            engine.load(path)
    engine.save(path, {})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="is damaged"):
        engine.load(path)
    with pytest.raises(CheckpointError, match="is no JSON"):
        engine.save(path, {"array": np.zeros(2)})


def test_tensors_that_do_not_fit_change_nothing(new_engine, data, tmp_path):
    for scheme in ("unstructured", "pattern"):
        engine = new_engine(scheme)
        list(walk(engine, data, 1))
        content = rewritten(engine, tmp_path / "c")
        list(walk(engine, data, 1))
        before = parts_of(engine)
        for what, wrong in wrong_contents(content, NAME, "0.weight", "1.running_mean"):
            checkpoint.write(tmp_path / "wrong", wrong, engine._identity())
            with pytest.raises(CheckpointError):
                engine.load(tmp_path / "wrong")
                pytest.fail(f"taken: {what}")
        after = parts_of(engine)
        for ours, theirs in zip(before, after, strict=True):
            equal(ours, theirs)
        assert engine.steps == 2
        checkpoint.write(tmp_path / "right", content, engine._identity())
        engine.load(tmp_path / "right")
