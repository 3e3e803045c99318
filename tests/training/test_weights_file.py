"""Weights in the layouts that public training scripts save: each starts the same network, and what was done is said."""

import argparse
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

from mest_compiler.errors import ModelError
from mest_compiler.training.weights_file import load_weights


def network(classes: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, classes))


TRAINED = network(seed=1).state_dict()
TRAINED["0.weight"][0] = 0
TRAINED["1.num_batches_tracked"].fill_(7)
OTHER = {name: tensor + 1 for name, tensor in TRAINED.items()}


def with_prefix(prefix: str, state: dict = TRAINED) -> dict:
    return {prefix + name: tensor for name, tensor in state.items()}


def pruned() -> dict:
    """As torch.nn.utils.prune has it, with values under the mask's zeros that are not zero."""
    model = network(seed=1)
    prune.custom_from_mask(model[0], "weight", (TRAINED["0.weight"] != 0).to(torch.float32))
    state = model.state_dict()
    state["1.num_batches_tracked"].fill_(7)
    assert state["0.weight_orig"].all()
    return state


def optimiser() -> dict:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 1, 4, 4)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


LAYOUTS = {
    "plain": (TRAINED, "taken as they are"),
    "DataParallel": (with_prefix("module."), "renamed: 9 without 'module.'"),
    "torch.compile": (with_prefix("_orig_mod."), "renamed: 9 without '_orig_mod.'"),
    "both": (with_prefix("module._orig_mod."), "renamed: 9 without 'module.', 9 without '_orig_mod.'"),
    "a part compiled": (
        {name.replace("0.", "0._orig_mod."): tensor for name, tensor in TRAINED.items()},
        "renamed: 2 without '_orig_mod.'",
    ),
    "attribute of a larger module": (with_prefix("backbone."), "renamed: 9 without 'backbone.'"),
    "beside a loss with weights": (
        with_prefix("model.") | {"criterion.weight": torch.ones(4)},
        "renamed: 9 without 'model.'; left: criterion.weight",
    ),
    "nested": (
        {"epoch": 3, "arch": "net", "state_dict": with_prefix("module."), "best_acc1": torch.tensor(91.2)}
        | {"optimizer": optimiser()},
        "unwrapped: state_dict; renamed: 9 without 'module.'; left: epoch, arch, best_acc1, optimizer",
    ),
    "numbers of NumPy": (
        {"net": TRAINED, "acc": np.float64(93.0), "seen": np.int64(3), "losses": np.ones(3)},
        "unwrapped: net; left: acc, seen, losses",
    ),
    "averaged weights beside": (
        {"state_dict": TRAINED, "state_dict_ema": OTHER},
        "unwrapped: state_dict; left: state_dict_ema",
    ),
    "an unknown key": ({"student": TRAINED, "epoch": 1}, "unwrapped: student; left: epoch"),
    "twice nested": ({"model": {"state_dict": TRAINED}}, "unwrapped: model, state_dict"),
    "pruned": (pruned(), "renamed: 1 from pairs of NAME_orig and NAME_mask"),
    "pruned in parallel": (
        with_prefix("module.", pruned()),
        "renamed: 10 without 'module.', 1 from pairs of NAME_orig and NAME_mask",
    ),
    "profiled": (
        TRAINED
        | {f"{module}total_{kind}": torch.zeros(1) for module in ("", "0.", "3.") for kind in ("ops", "params")},
        "left: total_ops (3 times), total_params (3 times)",
    ),
    "an older batch norm": (
        {name: tensor for name, tensor in TRAINED.items() if "num_batches" not in name},
        "missing, so as the model has them: 1.num_batches_tracked",
    ),
    "half": (
        {name: t.half() if t.is_floating_point() else t for name, t in TRAINED.items()},
        "8 from float16 to float32",
    ),
    "bfloat16": ({name: t.bfloat16() if t.dim() else t for name, t in TRAINED.items()}, "8 from bfloat16 to float32"),
    "double": ({name: t.double() if t.dim() else t for name, t in TRAINED.items()}, "8 from float64 to float32"),
    "parameters": ({name: nn.Parameter(t) if t.dim() == 4 else t for name, t in TRAINED.items()}, "taken as they are"),
    "arrays": ({name: tensor.numpy() for name, tensor in TRAINED.items()}, "taken as they are"),
}


def expected(layout: str) -> dict[str, torch.Tensor]:
    if layout in ("half", "bfloat16"):
        kind = torch.float16 if layout == "half" else torch.bfloat16
        return {name: t.to(kind).float() if t.dim() else t for name, t in TRAINED.items()}
    if layout == "an older batch norm":
        return TRAINED | {"1.num_batches_tracked": torch.tensor(0)}
    return TRAINED


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_same_network(tmp_path: Path, layout: str) -> None:
    content, said = LAYOUTS[layout]
    torch.save(content, tmp_path / "w.pth.tar")
    model = network()
    taken = load_weights(model, tmp_path / "w.pth.tar")
    assert said in taken.sentence("weights")
    assert "\n" not in taken.sentence("weights")
    for name, tensor in expected(layout).items():
        assert model.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(model.state_dict()[name], tensor), name


def test_other_forms_than_those_of_torch(tmp_path: Path) -> None:
    state = {name: tensor.contiguous() for name, tensor in with_prefix("module.").items()}
    save_file(state, tmp_path / "w.safetensors")
    np.savez(tmp_path / "w.npz", **{name: tensor.numpy() for name, tensor in state.items()})
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "w.npz").rename(tmp_path / "w.pth")  # the content says what it is
    for name in ("w.safetensors", "w.pth", "w.pt"):
        model = network()
        assert load_weights(model, tmp_path / name).renamed == ("9 without 'module.'",)
        assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in TRAINED.items())


def test_a_key_chooses_among_several(tmp_path: Path) -> None:
    torch.save({"state_dict": TRAINED, "ema": {"module": OTHER, "decay": 0.9}}, tmp_path / "w.pt")
    model = network()
    taken = load_weights(model, tmp_path / "w.pt", "ema.module")
    assert (taken.unwrapped, taken.left) == (("ema", "module"), ("state_dict", "ema.decay"))
    assert torch.equal(model.state_dict()["0.weight"], OTHER["0.weight"])
    assert taken.facts()["file"] == str(tmp_path / "w.pt")


MISFITS = {
    "other classes": (
        network(9).state_dict(),
        r"'3.weight' has shape \[9, 12\], and the model's \[4, 12\], so it",
    ),
    "lacking": ({name: t for name, t in TRAINED.items() if name != "0.bias"}, "of another model: they lack '0.bias'"),
    "surplus": (TRAINED | {"4.weight": torch.ones(2)}, "of another model: this one has no '4.weight'"),
    "not finite": (
        TRAINED | {"0.bias": torch.tensor([1.0, float("nan"), 0])},
        "'0.bias' has values that are no finite",
    ),
    "too large": (TRAINED | {"0.bias": torch.full((3,), 1e300, dtype=torch.float64)}, "'0.bias' has values that are"),
    "quantised": (TRAINED | {"0.bias": torch.ones(3, dtype=torch.int8)}, "'0.bias' is int8, and the model's float32"),
    "sparse": (TRAINED | {"0.bias": torch.ones(3).to_sparse()}, "'0.bias' is no plain tensor"),
    "half a pair": (
        {**pruned(), "0.weight_mask": torch.full((3, 1, 3, 3), 0.5)},
        "'0.weight_mask' is no mask of zeros",
    ),
    "an orphan": ({n: t for n, t in pruned().items() if "mask" not in n}, "they lack '0.weight'"),
    "twice": (
        {**TRAINED, "module.0.bias": torch.ones(3)},
        "'0.bias' is there more than once, as '0.bias' and 'module.0",
    ),
    "two networks": ({"netG": TRAINED, "netD": OTHER}, "tensors of several networks, but under 'netG' and 'netD'"),
    "two usual keys": ({"model": TRAINED, "net": OTHER}, "tensors of several networks.*: choose with --weights-key"),
    "no tensors": ({"epoch": 3, "lr": 0.1}, "no tensors by name, nor under any key: save model.state_dict()"),
    "a tensor": (torch.ones(3), "cannot be read .it is a Tensor, and no tensors by name.: save"),
    "a model": (network(), "without running code of torch.nn.modules.container.Sequential, which is not done: load it"),
    "arguments": (
        {"state_dict": TRAINED, "args": argparse.Namespace(lr=1)},
        "running code of argparse.Namespace, which",
    ),
    "objects": ({"a": np.array([{}, 1], dtype=object)}, "cannot be read .it is damaged, or holds something else"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_one_plain_sentence_and_changes_nothing(tmp_path: Path, case: str) -> None:
    content, sentence = MISFITS[case]
    torch.save(content, tmp_path / "w.pt")
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelError, match=sentence) as raised:
        load_weights(model, tmp_path / "w.pt")
    assert "\n" not in str(raised.value)
    assert "\x1b" not in str(raised.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_key_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    torch.save({"state_dict": TRAINED, "state_dict_ema": OTHER, "epoch": 1}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="no tensors under 'ema', but under 'state_dict' and 'state_dict_ema'"):
        load_weights(network(), tmp_path / "w.pt", "ema")
    with pytest.raises(ModelError, match=r"no tensors under 'state_dict\.x', but under 'state_dict'"):
        load_weights(network(), tmp_path / "w.pt", "state_dict.x")


class Runs:
    """What a pickle that calls something looks like."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_no_code_of_a_file_runs(tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    torch.save({"a": torch.ones(2), "b": Runs(harm)}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"without running code of posix.mkdir, which is not done"):
        load_weights(network(), tmp_path / "w.pt")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"a": Runs(harm)}))
    with pytest.raises(ModelError, match=r"which is not done|is damaged"):
        load_weights(network(), tmp_path / "w.pkl")
    np.savez(tmp_path / "w.npz", a=np.array([Runs(harm)], dtype=object))
    with pytest.raises(ModelError, match="holds something else than tensors"):
        load_weights(network(), tmp_path / "w.npz")
    assert not harm.exists()


@pytest.mark.parametrize("name", ["w.pt", "w.npz", "w.safetensors"])
def test_damaged_files_are_one_sentence(tmp_path: Path, name: str) -> None:
    path, draw = tmp_path / name, random.Random(0)
    if name == "w.pt":
        torch.save({"net": TRAINED, "acc": np.float64(1)}, path)
    elif name == "w.npz":
        np.savez(path, **{key: tensor.numpy() for key, tensor in TRAINED.items()})
    else:
        save_file(TRAINED, path)
    whole, refused = path.read_bytes(), 0
    for number in range(60):
        damaged = bytearray(whole[: draw.randrange(len(whole))] if number % 2 else whole)
        for _ in range(draw.randrange(1, 30) if damaged else 0):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            load_weights(network(), path)
        except ModelError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 30  # a changed weight is a weight


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none cannot be read \(No such file or directory\): give a file that torch"):
        load_weights(network(), tmp_path / "none")
    with pytest.raises(ModelError, match=r"cannot be read \(Is a directory\)"):
        load_weights(network(), tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(ModelError, match="empty cannot be read"):
        load_weights(network(), tmp_path / "empty")
