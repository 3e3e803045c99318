"""`mest export`: what others read is the network that the run trained, zeros and masks included."""

import base64
import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx.reference import ReferenceEvaluator
from safetensors.torch import load_file

from mest_compiler import models
from mest_compiler.cli.sparse_model import sparse_model
from mest_compiler.cli.sparse_request import SparseRequest
from mest_compiler.errors import ModelError
from mest_compiler.runtime import checkpoint
from mest_compiler.sparsity.profile import Profile
from mest_compiler.sparsity.schemes import get_scheme
from mest_compiler.training import export

from .conftest import LAYER, SHAPE
from .tiny_runs import CLASSES, MUTATING, make_run


@pytest.fixture
def run_dir(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run that mutated."""
    return make_run(folder, monkeypatch, **MUTATING)


def _mask(run_dir: Path) -> np.ndarray:
    """The run's mask of LAYER, from the ids in its checkpoint."""
    units = checkpoint.read(run_dir / "checkpoint.safetensors", None).units[LAYER]
    kept = np.zeros(get_scheme("block").units(SHAPE), np.bool_)
    kept[units] = True
    return get_scheme("block").units_to_mask(kept, SHAPE)


def _model(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    model = models.build("net.py:make", classes=CLASSES, in_channels=1)
    model.load_state_dict(state)
    return model.eval()


def test_both_files_are_the_trained_network(mest, run_dir: Path) -> None:
    """And what the ONNX file says of them beside the numbers."""
    done = mest("export", run_dir, "--torch", "out/net.safetensors", "--onnx", "out/net.onnx", "--json", "-")
    said, mask = json.loads(done.stdout), _mask(run_dir)
    assert {path.name for path in Path("out").iterdir()} == {"net.safetensors", "net.masks.safetensors", "net.onnx"}
    assert said["zeros"] == pytest.approx(1 - mask.mean())

    state = load_file("out/net.safetensors")
    np.testing.assert_array_equal(state[LAYER].numpy() != 0, mask)
    stored = checkpoint.read(run_dir / "checkpoint.safetensors", None).state
    np.testing.assert_array_equal(state["0.weight"].numpy(), stored["0.weight"])
    np.testing.assert_array_equal(load_file("out/net.masks.safetensors")[LAYER].numpy(), mask)

    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = _model(state)(x).numpy()
    proto = onnx.load("out/net.onnx")
    onnx.checker.check_model(proto, full_check=True)
    (logits,) = ReferenceEvaluator(proto).run(None, {"images": x.numpy()})
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert said["onnx"]["difference"] < 1e-4
    assert "differs from PyTorch by" in done.stderr
    initializers = {one.name: onnx.numpy_helper.to_array(one) for one in proto.graph.initializer}
    np.testing.assert_array_equal(initializers[LAYER], state[LAYER].numpy())
    check_metadata({one.key: one.value for one in proto.metadata_props}, run_dir)


def check_metadata(found: dict[str, str], run_dir: Path) -> None:
    packed = json.loads(found["mest.masks"])
    assert list(packed) == [LAYER]
    # as the documentation says, and by nothing of ours
    shape, bits = packed[LAYER]["shape"], np.frombuffer(base64.b64decode(packed[LAYER]["bits"]), np.uint8)
    mask = np.unpackbits(bits)[: np.prod(shape)].reshape(shape).astype(bool)
    np.testing.assert_array_equal(mask, _mask(run_dir))
    np.testing.assert_array_equal(export.unpacked_mask(packed[LAYER]), mask)
    assert yaml.safe_load(found["mest.recipe"]) == yaml.safe_load((run_dir / "recipe.yaml").read_text())
    rule = Profile.from_mapping(yaml.safe_load(found["mest.profile"])).layers[LAYER]
    assert (rule.scheme, rule.sparsity) == ("block", pytest.approx(1 - mask.mean()))
    assert found["mest.epochs"] == "4"


def test_our_own_options_read_the_torch_files(mest, run_dir: Path) -> None:
    mest("export", run_dir, "--torch", "net.safetensors")

    def read(**files: Path | None) -> np.ndarray:
        fresh = models.build("net.py:make", classes=CLASSES, in_channels=1)
        return sparse_model(fresh, (1, 8, 8), SparseRequest("block", **files)).masks[LAYER]

    given = read(masks=Path("net.masks.safetensors"))
    np.testing.assert_array_equal(given, _mask(run_dir))
    np.testing.assert_array_equal(read(masks_from=Path("net.safetensors")), given)


def test_a_broken_off_dense_run(mest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = make_run(folder, monkeypatch, stop=8)
    Path("net.masks.safetensors").write_text("of an earlier export")
    done = mest("export", run_dir, "--torch", "net.safetensors", "--onnx", "net.onnx", "--json", "-")
    assert json.loads(done.stdout)["epochs"] == 1
    assert not Path("net.masks.safetensors").exists()
    assert "mest.masks" not in {one.key for one in onnx.load("net.onnx").metadata_props}
    _model(load_file("net.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "layers"), [("pattern", 18), ("filter", 20)])
def test_resnet20(mest, folder: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, layers: int) -> None:
    """Of its convolutions the first is dense, and two are 1x1, which have no patterns."""
    run_dir = make_run(folder, monkeypatch, model="resnet20", width=0.25, epochs=1, scheme=scheme, sparsity=0.7)
    mest("export", run_dir, "--onnx", "net.onnx", "--torch", "net.safetensors")
    model = models.build("resnet20", classes=CLASSES, in_channels=1, width=0.25)
    model.load_state_dict(load_file("net.safetensors"))
    x = torch.randn(4, 1, 8, 8)
    with torch.inference_mode():
        expected = model.eval()(x).numpy()
    proto = onnx.load("net.onnx")
    (logits,) = ReferenceEvaluator(proto).run(None, {"images": x.numpy()})
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    masks = load_file("net.masks.safetensors")
    initializers = {one.name: onnx.numpy_helper.to_array(one) for one in proto.graph.initializer}
    assert len(masks) == layers
    for name, mask in masks.items():
        assert not initializers[name][~mask.numpy()].any()


def test_a_file_that_computes_something_else_is_not_kept(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = export.Trained.of_run(run_dir)
    converted = export._converted

    def spoiled(of: export.Trained) -> onnx.ModelProto:
        proto = converted(of)
        bias = next(one for one in proto.graph.initializer if one.name == "8.bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 0.1, bias.name))
        return proto

    monkeypatch.setattr(export, "_converted", spoiled)
    with pytest.raises(ModelError, match=r"differs from PyTorch by 0\.1"):
        export.export_onnx(trained, Path("net.onnx"))
    assert sorted(os.listdir()) == ["net.py", "run"]


BRANCHES = """
from torch import nn


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 4)

    def forward(self, x):
        y = self.layer(x.flatten(1))
        return y if y.sum() > 0 else -y


def make():
    return Branches()
"""


def test_a_model_that_cannot_be_converted(mest, refused, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "branches.py").write_text(BRANCHES)
    run_dir = make_run(folder, monkeypatch, model=f"{folder}/branches.py:make", epochs=1)
    mest("export", run_dir, "--torch", "net.safetensors")
    sentence = refused("export", run_dir, "--onnx", "new/net.onnx")
    assert "PyTorch's ONNX exporter cannot convert" in sentence
    assert "data-dependent" in sentence
    assert not Path("new").exists()


def test_what_it_refuses(refused, run_dir: Path) -> None:
    target = ("--onnx", "new/net.onnx")
    assert "Nothing is asked for" in refused("export", run_dir)
    assert "name it net.safetensors" in refused("export", run_dir, "--torch", "net.pt")
    assert "holds no run" in refused("export", "nothing", *target)
    assert "cannot use 'net.py/net.onnx': Not a directory" in refused("export", run_dir, "--onnx", "net.py/net.onnx")
    recipe = run_dir / "recipe.yaml"
    text = recipe.read_text()
    recipe.write_text(text.replace("/net.py:make", "/net.py:unsupported"))
    assert "is of another model than its recipe says: the checkpoint has no '0.bias'" in refused(
        "export", run_dir, *target
    )
    recipe.write_text(text)
    Path("net.py").unlink()
    assert "There is no model file" in refused("export", run_dir, *target)
    assert sorted(os.listdir()) == ["run"]
