"""Masks as people have them: of any dtype, by several names, in every form of file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from mest_compiler.errors import MaskError
from mest_compiler.sparsity.masks import random_masks, save_masks
from mest_compiler.sparsity.profile import LayerPlan
from mest_compiler.training.masks_file import load_masks, read_masks

SHAPES = {"first.weight": (8, 3, 3, 3), "a.weight": (8, 6, 3, 3), "fc.weight": (12, 8, 1, 1)}
PLAN = {"a.weight": LayerPlan("unstructured", 0.9), "fc.weight": LayerPlan("block", 0.5)}
MASKS = random_masks(PLAN, SHAPES, 0)
TENSORS = {name: torch.from_numpy(mask) for name, mask in MASKS.items()}


def check(path: Path, said: str = "taken as they are", plan: dict | None = PLAN) -> None:
    """The file at `path` must hold MASKS, and what was done to get them must be said."""
    masks, taken = read_masks(path, plan, SHAPES)
    assert said in taken.sentence("masks")
    assert list(masks) == list(MASKS)
    for name, mask in MASKS.items():
        assert masks[name].dtype == np.bool_
        np.testing.assert_array_equal(masks[name], mask)


def test_ours_come_back(tmp_path: Path) -> None:
    save_masks(tmp_path / "m.safetensors", MASKS)
    check(tmp_path / "m.safetensors")
    check(tmp_path / "m.safetensors", plan=None)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int32, np.float16, np.float32, np.float64])
def test_any_dtype_in_any_form(tmp_path: Path, dtype: type) -> None:
    arrays = {name: mask.astype(dtype) for name, mask in MASKS.items()}
    np.savez(tmp_path / "m.npz", **arrays)
    np.savez_compressed(tmp_path / "c.npz", **arrays)
    save_file(arrays, tmp_path / "m.safetensors")
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, tmp_path / "m.pt")
    for name in ("m.npz", "c.npz", "m.safetensors", "m.pt"):
        check(tmp_path / name)


LAYOUTS = {
    "bfloat16": ({name: mask.bfloat16() for name, mask in TENSORS.items()}, "taken as they are"),
    "DataParallel": ({f"module.{name}": mask for name, mask in TENSORS.items()}, "renamed: 2 without 'module.'"),
    "modules": ({name.removesuffix(".weight"): mask for name, mask in TENSORS.items()}, "renamed: 2 with '.weight'"),
    "modules in parallel": (
        {f"module.{name.removesuffix('.weight')}": mask for name, mask in TENSORS.items()},
        "renamed: 2 without 'module.', 2 with '.weight'",
    ),
    "beside weights": (
        {f"{name}_mask": mask for name, mask in TENSORS.items()}
        | {f"{name}_orig": torch.randn(mask.shape) for name, mask in TENSORS.items()}
        | {"first.weight": torch.randn(8, 3, 3, 3)},
        "renamed: 2 without '_mask'; left: weight_orig (2 times), first.weight",
    ),
    "nested": ({"masks": TENSORS, "epoch": 3}, "unwrapped: masks; left: epoch"),
    "whole biases": (TENSORS | {"a.bias": torch.ones(8)}, "left: a.bias"),
    "a linear layer's own shape": (
        TENSORS | {"fc.weight": TENSORS["fc.weight"].reshape(12, 8)},
        "taken as they are",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_same_masks(tmp_path: Path, layout: str) -> None:
    content, said = LAYOUTS[layout]
    torch.save(content, tmp_path / "m.pt")
    check(tmp_path / "m.pt", said)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"a.weight": torch.full((8, 6, 3, 3), 0.5)}, "'a.weight' of mask file .* has the value 0.5: store 0 or 1"),
        (
            {"b.weight": torch.ones(8, 6, 3, 3)},
            "is of another model: this one has no layer 'b.weight' that can be sparse",
        ),
        (TENSORS | {"a.bias": torch.zeros(8)}, "another model: this one has no layer 'a.bias'"),
        ({"a.bias": torch.ones(8)}, "has no mask of a layer that can be sparse"),
        ({"a.weight": torch.ones(2)}, r"'a.weight' has shape \(2,\), but the weight has \(8, 6, 3, 3\)"),
        ({"masks": TENSORS, "model": TENSORS}, "tensors of several networks, .*: save those of one alone"),
        ({"x": object}, "cannot be read"),
    ],
)
def test_what_is_no_masks_is_refused(tmp_path: Path, content: object, sentence: str) -> None:
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(MaskError, match=sentence) as raised:
        load_masks(tmp_path / "m.pt", None, SHAPES)
    assert "\n" not in str(raised.value)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    for name in ("none", "."):
        with pytest.raises(MaskError, match="cannot be read"):
            load_masks(tmp_path / name, PLAN, SHAPES)
    (tmp_path / "junk").write_bytes(b"\x80\x04junk")
    with pytest.raises(MaskError, match=r"junk cannot be read .* give a file that torch.save, numpy.savez or"):
        load_masks(tmp_path / "junk", PLAN, SHAPES)
