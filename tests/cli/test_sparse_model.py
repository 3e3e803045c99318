"""What a start is read from: weights and masks of files, alone and together, and what contradicts itself."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mest_compiler import models
from mest_compiler.cli.sparse_model import SparseModel, sparse_model
from mest_compiler.cli.sparse_request import SparseRequest
from mest_compiler.errors import MaskError, MestError, ModelError, ProfileError
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.sparsity.automatic import Automatic
from mest_compiler.sparsity.schemes import get_scheme

from .conftest import LAYER, SHAPE, SMALL

MODEL, LINEAR = "net.py:make", "8.weight"
MASK = get_scheme("block").random_mask(SHAPE, 0.75, np.random.default_rng(5))


@pytest.fixture
def files(folder: Path) -> Path:
    """Weights without zeros, with MASK's zeros, with zeros in the linear layer too, and MASK as floats."""
    torch.manual_seed(9)
    state = models.build(MODEL).state_dict()
    torch.save({"state_dict": state, "epoch": 3}, "dense.pt")
    sparse = state | {LAYER: state[LAYER] * torch.from_numpy(MASK)}
    torch.save({"state_dict": sparse, "epoch": 3}, "sparse.pt")
    torch.save(sparse | {LINEAR: torch.where(state[LINEAR] > 0, state[LINEAR], 0.0)}, "pruned_linear.pt")
    np.savez("masks.npz", **{LAYER: MASK.astype(np.float32)})
    return folder


def start(
    scheme: str | None = None, sparsity: float | None = None, profile: str | None = None, **sources: str
) -> SparseModel:
    given = {name: value if name == "weights_key" else Path(value) for name, value in sources.items()}
    request = SparseRequest(scheme, sparsity, profile and Path(profile), **given)
    return sparse_model(models.build(MODEL, seed=1), (3, 8, 8), request)


def state_of(name: str) -> dict[str, torch.Tensor]:
    return torch.load(name)["state_dict"]


def test_weights_alone_are_a_dense_start(files: Path) -> None:
    found = start(weights="dense.pt")
    assert (found.profile, found.masks) == (None, None)
    assert torch.equal(found.model.state_dict()[LAYER], state_of("dense.pt")[LAYER])
    assert found.said == ("weights dense.pt: unwrapped: state_dict; left: epoch",)
    assert found.facts()["weights"]["unwrapped"] == ("state_dict",)
    assert found.facts()["masks"] == {"from": "random"}
    (_, warning) = start(weights="sparse.pt").said
    assert "are trained as all others: --masks-from keeps them zero" in warning


def test_zeros_say_scheme_ratio_and_layers(files: Path) -> None:
    found = start("block", masks_from="sparse.pt")
    assert list(found.masks) == [LAYER]
    np.testing.assert_array_equal(found.masks[LAYER], MASK)
    assert found.profile.layers[LAYER].sparsity == 0.75
    assert found.start == {"from": "zeros", "sparsity": 0.75, "layers": 1}
    assert found.said[1] == "masks from the zeros of the weights: 1 of 3 layers are sparse, with 75.00 % zeros"
    assert start("block", 0.75, masks_from="sparse.pt").start == found.start
    assert isinstance(start("auto", masks_from="sparse.pt").profile, Automatic)


def test_zeros_of_linear_layers_count_where_the_scheme_can_have_them(files: Path) -> None:
    found = start("unstructured", masks_from="pruned_linear.pt")
    assert list(found.masks) == [LAYER, LINEAR]
    np.testing.assert_array_equal(found.masks[LINEAR][:, :, 0, 0], found.model.state_dict()[LINEAR].numpy() != 0)
    # ten filters are no blocks of four, and where blocks are cut zeros stay in them
    found = start("block", masks_from="pruned_linear.pt")
    assert list(found.masks) == [LAYER]
    dense = found.said[1]
    assert dense.startswith(f"{LINEAR} has ")
    assert "zeros and is trained dense: Layer '8.weight' has 10 filters" in dense


def test_zeros_that_a_scheme_keeps_are_said(files: Path) -> None:
    rng = np.random.default_rng(0)
    state = state_of("dense.pt")
    state[LAYER] *= torch.from_numpy(rng.random(SHAPE) < 0.2)
    torch.save(state, "single.pt")
    found = start("block", masks_from="single.pt")
    assert found.start["sparsity"] == pytest.approx(0.8**4, abs=0.1)
    assert "% are zero, some in units that are kept" in found.said[-1]


def test_masks_of_a_file_with_weights_of_another(files: Path) -> None:
    found = start("block", masks="masks.npz", weights="dense.pt")
    np.testing.assert_array_equal(found.masks[LAYER], MASK)
    assert torch.equal(found.model.state_dict()["0.weight"], state_of("dense.pt")["0.weight"])
    assert found.start["from"] == "masks"
    assert found.start["file"] == "masks.npz"


@pytest.mark.parametrize("scheme", ["unstructured", "block", "pattern", "channel", "filter"])
def test_a_ratio_prunes_weights_by_magnitude(files: Path, scheme: str) -> None:
    found = start(scheme, 0.75, weights="dense.pt")
    weight, mask = state_of("dense.pt")[LAYER].numpy(), found.masks[LAYER]
    kind = get_scheme(scheme)
    assert len(kind.units_of(mask)) == kind.kept_units(SHAPE, 0.75)
    assert found.start["from"] == "magnitude"
    kept = np.abs(weight[mask]).sum() / np.abs(weight).sum()
    assert kept > mask.mean()
    assert f"they keep {100 * kept:.2f} % of the sum of |w|" in found.said[-1]


def test_a_profile_prunes_too_and_must_agree_with_zeros(files: Path) -> None:
    Path("p.yaml").write_text(f"{{scheme: block, sparsity: 0.5, layers: {{{LINEAR}: unstructured}}}}")
    assert set(start(profile="p.yaml", weights="dense.pt").masks) == {LAYER, LINEAR}
    with pytest.raises(MaskError, match=r"no zeros in '8\.weight' that make a mask, but the profile makes it sparse"):
        start(profile="p.yaml", masks_from="sparse.pt")
    Path("p.yaml").write_text("{scheme: block, sparsity: 0.5}")
    with pytest.raises(MaskError, match=r"remove 75\.00 % of the weights of their layers, where 50\.00 % is asked"):
        start(profile="p.yaml", masks_from="sparse.pt")
    Path("p.yaml").write_text("{scheme: block, sparsity: 0.75}")
    found = start(profile="p.yaml", masks_from="pruned_linear.pt")
    assert list(found.masks) == [LAYER]
    assert "trained dense: the profile keeps it dense" in found.said[1]


REFUSED = [
    (
        {"scheme": "block", "masks_from": "dense.pt"},
        MaskError,
        r"dense\.pt have no zeros that masks could be",
    ),
    ({"scheme": "block", "sparsity": 0.9, "masks_from": "dense.pt"}, MaskError, "have no zeros"),
    ({"scheme": "auto", "masks_from": "dense.pt"}, MaskError, "have no zeros"),
    ({"scheme": "block", "sparsity": 0.9, "masks_from": "sparse.pt"}, MaskError, r"remove 75\.00 % .* where 90\.00 %"),
    ({"scheme": "block", "sparsity": 0.9, "masks": "masks.npz"}, MaskError, r"remove 75\.00 % .* where 90\.00 %"),
    ({"scheme": "auto", "sparsity": 0.9, "masks": "masks.npz"}, MaskError, r"remove 75\.00 % .* where 90\.00 %"),
    ({"scheme": "channel", "masks_from": "sparse.pt"}, MaskError, "no zeros that make a mask of scheme 'channel'"),
    ({"scheme": "pattern", "masks_from": "sparse.pt"}, MaskError, "are no mask: No pattern covers"),
    ({"scheme": "pattern", "masks": "masks.npz"}, MaskError, "is no mask of scheme 'pattern'"),
    ({"scheme": "auto", "sparsity": 0.9, "weights": "dense.pt"}, ProfileError, "'auto' cannot be had with --weights"),
    ({"masks_from": "sparse.pt"}, ProfileError, "Masks need to know their scheme"),
    ({"masks_from": "sparse.pt", "masks": "masks.npz"}, MaskError, "leave out --masks or --masks-from"),
    ({"masks_from": "sparse.pt", "weights": "dense.pt"}, ModelError, "takes the weights of its file too"),
    ({"masks": "masks.npz", "weights_key": "ema", "scheme": "block"}, ModelError, "add --weights or --masks-from"),
    ({"weights": "dense.pt", "weights_key": "ema"}, ModelError, "no tensors under 'ema', but under 'state_dict'"),
    ({"weights": "masks.npz"}, ModelError, r"they lack '0\.weight'"),
    ({"scheme": "block", "masks": "dense.pt"}, MaskError, "has the value"),
    ({"weights": "dense.pt", "sparsity": 0.9}, ProfileError, "--sparsity was given without --scheme"),
]


@pytest.mark.parametrize(("given", "kind", "sentence"), REFUSED)
def test_what_contradicts_itself_is_refused(files: Path, given: dict, kind: type[MestError], sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        start(**given)


def test_full_masks_are_refused(files: Path) -> None:
    np.savez("full.npz", **{LAYER: np.ones(SHAPE)})
    with pytest.raises(MaskError, match=r"full\.npz removes nothing"):
        start("block", masks="full.npz")


def test_a_compiled_step_starts_from_them(mest, refused, files: Path) -> None:
    scheme = ("--scheme", "block", "--sparsity", "0.75")
    done = mest("compile", MODEL, *SMALL, *scheme, "--weights", "dense.pt", "--output", "step", "--json", "-")
    result = json.loads(done.stdout)
    assert result["weights"]["left"] == ["epoch"]
    assert (result["masks"]["from"], result["masks"]["layers"]) == ("magnitude", 1)
    assert done.stderr.startswith("weights dense.pt: unwrapped: state_dict; left: epoch\nmasks by magnitude: 1 of 3")
    step, weight = Artifact.load("step"), state_of("dense.pt")[LAYER].numpy()
    mask = start("block", 0.75, weights="dense.pt").masks[LAYER]
    np.testing.assert_array_equal(step.structures[LAYER].to_mask(), mask)
    np.testing.assert_array_equal(step.structures[LAYER].expand(step.tensors[LAYER]), np.where(mask, weight, 0))
    Path("step").rename("kept")
    before = sorted(path.name for path in files.iterdir())
    torch.save(models.build(MODEL), "model.pt")
    for given, sentence in (
        (("--scheme", "block", "--masks-from", "dense.pt"), "have no zeros"),
        (("--weights", "model.pt"), "without running code of torch.nn.modules.container.Sequential"),
        (("--classes", "7", "--weights", "dense.pt"), "'8.weight' has shape [10, 16], and the model's [7, 16]"),
        (("--weights", "none.pt"), "'none.pt' does not exist"),
    ):
        refused_here = refused("compile", MODEL, *SMALL, *given, "--output", "step")
        assert sentence in refused_here
    Path("model.pt").unlink()
    assert sorted(path.name for path in files.iterdir()) == before


@pytest.mark.slow
def test_a_bench_starts_from_them(mest, refused, files: Path) -> None:
    usual = ("bench", MODEL, *SMALL, "--rounds", "1", "--json", "-")
    done = mest(*usual, "--masks-from", "sparse.pt", "--scheme", "block")
    result = json.loads(done.stdout)
    assert result["max_rel_error"] < 1e-3  # PyTorch has the same weights and zeros
    assert (result["masks"]["from"], result["weights"]["unwrapped"]) == ("zeros", ["state_dict"])
    sentence = refused("bench", "layer:8,8,3,8x8", "--weights", "dense.pt")
    assert "--weights says nothing about a single layer" in sentence
