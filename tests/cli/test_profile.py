"""`mest profile`: what a profile means for a model, and what it says to bad ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mest_compiler import models
from mest_compiler.cli.network_layers import network_layers
from mest_compiler.frontend import trace
from mest_compiler.sparsity.profile import LayerPlan, Profile
from mest_compiler.sparsity.schemes import get_scheme

MODEL = "net.py:make"
SMALL = ("--plane", "8x8")
BLOCK = ("--scheme", "block", "--sparsity", "0.5")
FIRST, LAYER, LINEAR = "0.weight", "3.weight", "8.weight"
MIXED = """
from torch import nn
from torch.nn import functional as F


def mixed(classes=10, in_channels=3):
    \"\"\"A layer of each kind, one called as a function; they are not named in the order in which they run.\"\"\"
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Conv2d(16, 16, 1)
            self.grouped = nn.Conv2d(8, 16, 3, padding=1, groups=8)
            self.stem = nn.Conv2d(in_channels, 8, 3, padding=1)
            self.body = nn.Conv2d(16, 16, 3, padding=1)
            self.fc = nn.Linear(16, 12)

        def forward(self, x):
            x = F.conv2d(self.grouped(self.stem(x)), self.body.weight, bias=self.body.bias, padding=1)
            return self.fc(self.last(x).mean(dim=(2, 3)))

    return Mixed()
"""


@pytest.fixture
def mixed(folder: Path) -> str:
    Path("mixed.py").write_text(MIXED)
    return "mixed.py:mixed"


def test_a_uniform_profile(mest, folder: Path) -> None:
    done = mest("profile", MODEL, *SMALL, *BLOCK, "--json", "-")
    result = json.loads(done.stdout)
    first, sparse, linear = result["layers"]
    assert [layer["name"] for layer in result["layers"]] == [FIRST, LAYER, LINEAR]
    assert (first["scheme"], first["sparsity"], first["units"]) == ("dense", 0.0, None)
    assert (linear["scheme"], linear["shape"], linear["bytes"]) == ("dense", [10, 16], 2 * 160 * 4)
    assert sparse["scheme"] == "block"
    assert (sparse["units"], sparse["kept_units"], sparse["kept_weights"], sparse["sparsity"]) == (288, 144, 576, 0.5)
    # Table A.1: 576 weights and gradients of four bytes; 144 + 5 indices of two
    assert sparse["bytes"] == 2 * 576 * 4 + 149 * 2
    assert result["weights"] == 8 * 3 * 9 + 16 * 8 * 9 + 160
    assert result["kept_weights"] == result["weights"] - 576
    assert result["sparsity"] == pytest.approx(576 / result["weights"])
    assert result["sparsity_of_sparse_layers"] == 0.5
    assert result["bytes"] == sum(layer["bytes"] for layer in result["layers"])
    assert result["dense_bytes"] == 8 * result["weights"]
    assert "144 / 288" in done.stderr
    assert "1 of 3 layers are sparse, with 50.00% zeros; with the dense ones it is 37.70%" in done.stderr


def test_bits_are_the_tables(mest, folder: Path) -> None:
    done = mest("profile", MODEL, *SMALL, *BLOCK, "--weight-bits", "16", "--index-bits", "8", "--json", "p.json")
    assert done.stdout == ""
    result = json.loads(Path("p.json").read_text())
    assert (result["weight_bits"], result["index_bits"]) == (16, 8)
    assert result["layers"][1]["bytes"] == 2 * 576 * 2 + 149


def test_without_a_scheme_all_is_dense(mest, folder: Path) -> None:
    result = json.loads(mest("profile", MODEL, *SMALL, "--json", "-").stdout)
    assert {layer["scheme"] for layer in result["layers"]} == {"dense"}
    assert (result["sparse_layers"], result["bytes"]) == (0, result["dense_bytes"])


def test_a_hybrid_profile_in_the_order_of_the_forward_pass(mest, mixed: str) -> None:
    Path("p.yaml").write_text('{scheme: block, sparsity: 0.7, ratio: "2:1", kinds: {3x3: pattern, linear: block:2x2}}')
    result = json.loads(mest("profile", mixed, "--profile", "p.yaml", "--json", "-").stdout)
    found = {layer["name"]: layer["scheme"] for layer in result["layers"]}
    assert list(found.items()) == [
        ("stem.weight", "dense"),
        ("grouped.weight", "dense"),
        ("body.weight", "pattern"),
        ("last.weight", "block"),
        ("fc.weight", "block:2x2"),
    ]
    asked = {layer["name"]: layer["asked"] for layer in result["layers"]}
    assert asked["body.weight"] == pytest.approx(2 * asked["last.weight"], rel=1e-5)
    assert asked["last.weight"] == asked["fc.weight"]
    assert result["sparsity_of_sparse_layers"] == pytest.approx(0.7, abs=0.02)  # whole units of small layers


def test_the_layers_are_those_of_a_trace(mixed: str) -> None:
    network = models.build(mixed)
    traced = trace(network, torch.zeros(2, 3, 8, 8))
    found = network_layers(network, (3, 8, 8))
    assert list((found.convolutions | {name: shape for name, (shape, _) in found.dense.items()}).items()) == sorted(
        ((name, c.shape) for name, c in traced.convolutions.items()), key=lambda item: item[0] in found.dense
    )
    assert [name for name in found.order if name not in found.linears] == list(traced.convolutions)
    assert found.linears == dict(traced.linears)


def test_a_uniform_pattern_keeps_other_kernels_dense(mest, mixed: str) -> None:
    result = json.loads(mest("profile", mixed, "--scheme", "pattern", "--sparsity", "0.9", "--json", "-").stdout)
    assert [layer["name"] for layer in result["layers"] if layer["scheme"] != "dense"] == ["body.weight"]


def test_the_dump_is_the_profile_layer_by_layer(mest, mixed: str) -> None:
    Path("p.yaml").write_text("{scheme: block, sparsity: 0.7, ratio: proportional, layers: {fc.weight: unstructured}}")
    before = json.loads(mest("profile", mixed, "--profile", "p.yaml", "--dump", "d.yaml", "--json", "-").stdout)
    dumped = Profile.load("d.yaml")
    assert list(dumped.layers) == ["stem.weight", "body.weight", "last.weight", "fc.weight"]
    assert json.loads(mest("profile", mixed, "--profile", "d.yaml", "--json", "-").stdout) == before
    assert mest("profile", mixed, "--profile", "p.yaml", "--dump", "-").stdout == Path("d.yaml").read_text()


def test_the_authors_files_take_their_scheme_from_the_command_line(mest, folder: Path) -> None:
    Path("p.yaml").write_text("prune_ratios: {module.0: 0.0, 3.weight: 0.75}")
    mest("profile", MODEL, *SMALL, "--profile", "p.yaml", "--scheme", "pattern", "--dump", "d.yaml")
    assert Profile.load("d.yaml").assign({FIRST: (8, 3, 3, 3), LAYER: (16, 8, 3, 3)}, {LINEAR: (10, 16)}) == {
        LAYER: LayerPlan("pattern", 0.75)
    }


ADMM = """
# a profile in the layout of the MEST authors' scripts
rho:
  0.001
prune_ratio:
  3.weight: 0.75
"""


def test_the_authors_files_with_keys_of_another_method(mest, refused, folder: Path) -> None:
    Path("p.yaml").write_text(ADMM)
    usual = ("profile", MODEL, *SMALL, "--profile", "p.yaml", "--json", "-")
    done = mest(*usual, "--scheme", "pattern", "--profile-ratios", "kernels")
    result = json.loads(done.stdout)
    assert "profile p.yaml: keys that say nothing here were left: rho\n" in done.stderr
    assert "profile p.yaml: prune_ratio are taken as fractions of kernels\n" in done.stderr
    assert result["profile_notes"][0].endswith("rho")
    (layer,) = (layer for layer in result["layers"] if layer["scheme"] != "dense")
    assert (layer["name"], layer["kept_units"], layer["units"]) == (LAYER, 16 * 2, 16 * 8)
    assert layer["sparsity"] == pytest.approx(1 - 0.25 * 4 / 9)
    # where nothing says a scheme the table is there too, and says under which
    done = mest(*usual)
    assert "no scheme is said, so unstructured is taken" in done.stderr
    assert json.loads(done.stdout)["layers"][1]["sparsity"] == 0.75
    assert "does not remove whole kernels" in refused(*usual, "--scheme", "block", "--profile-ratios", "kernels")
    assert "use weights or kernels" in refused(*usual, "--profile-ratios", "filters")
    assert "add --profile" in refused("profile", MODEL, *SMALL, *BLOCK, "--profile-ratios", "kernels")


def test_what_given_masks_keep(mest, folder: Path) -> None:
    mask = get_scheme("block").random_mask((16, 8, 3, 3), 0.75, np.random.default_rng(1))
    np.savez("masks.npz", **{"module.3": mask.astype(np.float32)})
    done = mest("profile", MODEL, *SMALL, "--masks", "masks.npz", "--scheme", "block", "--json", "-")
    result = json.loads(done.stdout)
    assert (result["layers"][1]["kept_units"], result["sparse_layers"]) == (72, 1)
    assert (result["masks"]["from"], result["masks"]["sparsity"]) == ("masks", 0.75)
    assert "masks masks.npz: renamed: 1 without 'module.', 1 with '.weight'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--scheme", "block"], "--scheme was given without --sparsity"),
        (["--scheme", "blok", "--sparsity", "0.5"], "There is no sparsity scheme 'blok' (did you mean 'block'?)"),
        (["--scheme", "auto", "--sparsity", "0.5"], "auto"),
        (["--scheme", "pattern", "--sparsity", "0.5"], f"The sparsity of layer '{LAYER}' is 0.5, below 0.5556 (5/9)"),
        ([*BLOCK, "--batch", "8"], "--batch is about the compiled step: add --program or --memory."),
        ([*BLOCK, "--threads", "1"], "--threads is about the compiled step"),
        ([*BLOCK, "--device", "cpu"], "--device is about the compiled step"),
        ([*BLOCK, "--classes", "0"], "--classes"),
        (["--sparsity", "1.5"], "1.5 is not a fraction of zeros"),
        (["--plane", "0x8"], "is not a plane"),
        (["--channels", "3", "--plane", "8x8", "--index-bits", "0"], "--index-bits"),
        ([*BLOCK, "--dump", "none/d.yaml"], "the folder 'none' does not exist"),
        ([*BLOCK, "--dump", "-", "--json", "-"], "--dump and --json cannot both write to standard output"),
    ],
)
def test_bad_options_are_one_sentence(refused, folder: Path, arguments: list[str], sentence: str) -> None:
    small = () if "--plane" in arguments else SMALL
    assert sentence in refused("profile", MODEL, *small, *arguments)
    assert [path.name for path in folder.iterdir() if path.name != "__pycache__"] == ["net.py"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--scheme", "block:3x1", "--sparsity", "0.5"), f"{LAYER} (16 filters, which scheme 'block:3x1' cannot cut"),
        (("--scheme", "channel", "--sparsity", "0.95"), f"{LAYER} (a sparsity of 0.95 keeps none of its 8 units"),
    ],
)
def test_a_layer_that_a_scheme_cannot_take_is_said(mest, folder: Path, options: tuple[str, ...], sentence: str) -> None:
    done = mest("profile", MODEL, *SMALL, *options, "--json", "-")
    result = json.loads(done.stdout)
    assert result["sparse_layers"] == 0
    assert f"sparsity: {float(options[-1]):.2%} asked ({options[1]}), 0.00% reached: no layer is sparse" in done.stderr
    assert f"dense: {sentence}" in done.stderr


def test_another_number_of_classes_than_was_asked_for_is_refused(refused, folder: Path) -> None:
    Path("fixed.py").write_text(Path("net.py").read_text().replace("classes=10, ", "").replace("classes)", "7)"))
    sentence = refused("profile", "fixed.py:make", *SMALL, *BLOCK, "--classes", "5")
    assert "The model has 7 outputs, and --classes asks for 5" in sentence


@pytest.mark.parametrize(
    ("profile", "options", "sentence"),
    [
        ("{scheme: block, sparsity: 0.5}", BLOCK, "A profile says all ratios: leave out --sparsity, or --profile."),
        ("{scheme: block, sparsity: 0.5}", BLOCK[:2], "says its schemes itself: leave out the scheme 'block'"),
        (
            "prune_ratios: {5: 0.5}",
            BLOCK[:2],
            "'5.weight' in the sparsity profile matches no convolution or linear layer",
        ),
        ("{scheme: block, sparsity: 0.5, sparsity: 0.6}", (), "'sparsity' is said twice: keep one of them"),
        (
            "{scheme: block, sparsity: 0.5, kinds: {1x1: pattern}, layers: {3.weigth: dense}}",
            (),
            "did you mean '3.weight'?",
        ),
        (
            "{scheme: block, sparsity: 0.5, kinds: {3x3: {scheme: pattern}}}",
            (),
            f"layer '{LAYER}' is 0.5, below 0.5556",
        ),
        ("{scheme: block, sparsity: 0.5, kinds: {linear: {sparsity: 0.5}}}", (), f"Layer '{LINEAR}' has 10 filters"),
        (
            "{scheme: block, sparsity: 0.5, kinds: {linear: channel}}",
            (),
            f"Layer '{LINEAR}' is linear, and scheme 'channel'",
        ),
        ("{scheme: block, sparsity: 0.3, ratio: proportional, kinds: {3x3: pattern}}", (), "0.3 cannot be shared out"),
        ("{scheme: block", (), "p.yaml: it is no YAML"),
    ],
)
def test_bad_profiles_are_one_sentence(
    refused, folder: Path, profile: str, options: tuple[str, ...], sentence: str
) -> None:
    Path("p.yaml").write_text(profile)
    assert sentence in refused("profile", MODEL, *SMALL, *options, "--profile", "p.yaml")


def test_a_pattern_that_is_named_for_a_1x1_layer_is_one_sentence(refused, mixed: str) -> None:
    for rule in ("kinds: {1x1: pattern}", "layers: {last.weight: pattern}", "layers: {l*: {scheme: pattern}}"):
        Path("p.yaml").write_text(f"{{scheme: block, sparsity: 0.9, {rule}}}")
        sentence = refused("profile", mixed, "--profile", "p.yaml")
        assert "Layer 'last.weight' has 1x1 kernels, but scheme 'pattern' needs 3x3: keep it dense" in sentence


def test_models_that_cannot_be_run_are_one_sentence(refused, folder: Path) -> None:
    Path("net.py").write_text("import torch\ndef make(): return torch.nn.Conv2d(5, 4, 3)\ndef none(): return 3\n")
    assert "The model cannot be run on an input of shape [1, 3, 8, 8] (" in refused("profile", MODEL, *SMALL, *BLOCK)
    assert "returned int" in refused("profile", "net.py:none", *SMALL, *BLOCK)
    assert "There is no model 'resnet99'" in refused("profile", "resnet99", *BLOCK)
