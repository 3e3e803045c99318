"""Masks: drawn alike everywhere, checked where they come from a file, read off zeros."""

import hashlib
from itertools import pairwise

import numpy as np
import pytest
from safetensors.numpy import load_file

from mest_compiler.errors import MaskError, ProfileError
from mest_compiler.sparsity.masks import checked_masks, masks_from_zeros, random_masks, save_masks
from mest_compiler.sparsity.profile import LayerPlan

from .lines import MOST_LINES, counted

SHAPES = {"first": (8, 3, 3, 3), "a.weight": (8, 6, 3, 3), "b.weight": (12, 8, 1, 1)}
PLAN = {"a.weight": LayerPlan("unstructured", 0.9), "b.weight": LayerPlan("block", 0.5)}


def digest(masks):
    """One number for all masks, in the order of their names."""
    return hashlib.sha256(b"".join(np.packbits(masks[name]).tobytes() for name in sorted(masks))).hexdigest()[:16]


def test_random_masks_are_the_same_on_every_machine():
    """The number was made once; another one means that old seeds no longer give the old masks."""
    assert digest(random_masks(PLAN, SHAPES, seed=7)) == "34a67fd847475d28"


def test_random_masks_of_the_other_schemes_are_the_same_on_every_machine():
    shapes = dict.fromkeys(("pattern", "channel", "filter", "block:2x3", "block:8x1"), (16, 12, 3, 3))
    plan = {name: LayerPlan(name, 0.75) for name in shapes}
    assert digest(random_masks(plan, shapes, seed=7)) == "38e364fa601bac76"


def test_masks_of_a_vgg19_are_drawn_without_a_loop_over_units():
    widths = (64, 64, 128, 128, *[256] * 4, *[512] * 8)
    shapes = {f"{i}": (f, c, 3, 3) for i, (c, f) in enumerate(pairwise((3, *widths)))}
    for scheme in ("unstructured", "pattern"):
        plan = dict.fromkeys(shapes, LayerPlan(scheme, 0.9))
        _, lines = counted(lambda plan=plan: random_masks(plan, shapes, 0))
        assert lines < MOST_LINES


def test_random_masks_depend_on_seed_and_name_not_on_order():
    masks = random_masks(PLAN, SHAPES, 1)
    alone = random_masks({"b.weight": PLAN["b.weight"]}, SHAPES, 1)
    np.testing.assert_array_equal(alone["b.weight"], masks["b.weight"])
    assert digest(random_masks(PLAN, SHAPES, 2)) != digest(masks)
    twins = random_masks(dict.fromkeys("xy", PLAN["a.weight"]), dict.fromkeys("xy", SHAPES["a.weight"]), 1)
    assert not np.array_equal(twins["x"], twins["y"])


def test_random_masks_refuse_bad_seeds_and_plans():
    with pytest.raises(MaskError, match="seed -1: use a whole number"):
        random_masks(PLAN, SHAPES, -1)
    with pytest.raises(MaskError, match=r"Layer 'a.weight' of the plan is no convolution of the model"):
        random_masks(PLAN, {}, 0)
    with pytest.raises(ProfileError, match=r"Layer 'b.weight' has 1x1 kernels, but scheme 'pattern'"):
        random_masks({"b.weight": LayerPlan("pattern", 0.9)}, SHAPES, 0)
    with pytest.raises(ProfileError, match=r"sparsity of layer 'a.weight' is 0.1, below"):
        random_masks({"a.weight": LayerPlan("pattern", 0.1)}, SHAPES, 0)


def test_saved_masks_are_bool_tensors_by_name(tmp_path):
    masks = random_masks(PLAN, SHAPES, 0)
    masks["a.weight"][0], masks["a.weight"][1] = False, True
    save_masks(tmp_path / "m.safetensors", masks)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
    found = load_file(tmp_path / "m.safetensors")
    for plan in (PLAN, None):
        loaded = checked_masks(found, plan, SHAPES, "m")
        assert list(loaded) == list(PLAN)
        for name, mask in masks.items():
            np.testing.assert_array_equal(loaded[name], mask)
            assert loaded[name].dtype == np.bool_


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float16, np.float64])
def test_exact_zeros_and_ones_of_any_dtype_are_masks(dtype):
    masks = random_masks(PLAN, SHAPES, 0)
    found = {name: mask.astype(dtype) for name, mask in masks.items()}
    assert digest(checked_masks(found, PLAN, SHAPES, "m")) == digest(masks)


def test_a_mask_of_a_linear_layer_may_have_its_shape():
    mask = np.eye(4, 6)
    checked = checked_masks({"fc": mask}, {"fc": LayerPlan("unstructured", 0.5)}, {"fc": (4, 6, 1, 1)}, "m")
    np.testing.assert_array_equal(checked["fc"][:, :, 0, 0], mask == 1)


MISFITS = {
    "first wrong shape of two": (
        {"a.weight": np.ones((16, 6, 3, 3), bool), "b.weight": np.ones((1, 1, 1, 1), bool)},
        r"another model: its mask of 'a.weight' has shape \(16, 6, 3, 3\), but the weight has \(8, 6, 3, 3\)",
    ),
    "unknown name": (
        {"features.0.weight": np.ones((8, 3, 3, 3), bool)},
        r"another model: this one has no layer 'features\.0\.weight' that can be sparse",
    ),
    "missing": ({"b.weight": None}, r"lacks a mask for 'b\.weight', which the profile makes sparse"),
    "dense layer": (
        {"first": np.ones((8, 3, 3, 3), bool)},
        "has a mask for 'first', which the profile keeps dense",
    ),
    "part of a block": (
        {"b.weight": np.eye(12, 8, dtype=bool).reshape(12, 8, 1, 1)},
        r"'b\.weight': The mask .* is no mask of scheme 'block'",
    ),
    "value": (
        {"a.weight": np.full((8, 6, 3, 3), 2, np.uint8)},
        r"'a\.weight' of mask file .* has the value 2: store 0 or 1",
    ),
    "no number": (
        {"a.weight": np.full((8, 6, 3, 3), np.nan)},
        r"'a\.weight' of mask file .* has the value nan: store 0 or 1",
    ),
    "weights": (
        {"a.weight": np.linspace(-1, 1, 432, dtype=np.float32).reshape(8, 6, 3, 3)},
        r"'a\.weight' of mask file .* has the value -1\.0: store 0 or 1",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_masks_that_do_not_fit_are_refused(case):
    change, sentence = MISFITS[case]
    masks = {**random_masks(PLAN, SHAPES, 0), **change}
    with pytest.raises(MaskError, match=sentence):
        checked_masks({name: mask for name, mask in masks.items() if mask is not None}, PLAN, SHAPES, "m")


def test_the_layer_that_a_scheme_does_not_fit_is_named():
    plan = {**PLAN, "b.weight": LayerPlan("pattern", 0.9)}
    with pytest.raises(MaskError, match=r"m, 'b.weight': Layer 'b.weight' has 1x1 kernels, but scheme 'pattern'"):
        checked_masks(random_masks(PLAN, SHAPES, 0), plan, SHAPES, "m")


def test_save_refuses_other_arrays_and_places_and_leaves_nothing(tmp_path):
    with pytest.raises(MaskError, match=r"mask of 'a' is float64 of shape \(2,\)"):
        save_masks(tmp_path / "m", {"a": np.ones(2)})
    with pytest.raises(MaskError, match="cannot be written"):
        save_masks(tmp_path / "none" / "m", random_masks(PLAN, SHAPES, 0))
    assert not list(tmp_path.iterdir())


def test_masks_from_zeros():
    masks = random_masks(PLAN, SHAPES, 3)
    state = {name: np.where(mask, 0.5, -0.0).astype(np.float32) for name, mask in masks.items()}
    # One weight that happens to be zero does not take its block along.
    kept = tuple(np.argwhere(masks["b.weight"])[0])
    state["b.weight"][kept] = 0
    state["bn.bias"] = np.zeros(8, np.float32)
    assert digest(masks_from_zeros(state, PLAN, SHAPES)) == digest(masks)


def test_masks_from_the_zeros_of_a_linear_layer():
    weight = np.zeros((8, 6), np.float32)
    weight[5, 2] = 1
    masks = masks_from_zeros({"fc": weight}, {"fc": LayerPlan("block", 0.9)}, {"fc": (8, 6, 1, 1)})
    np.testing.assert_array_equal(np.argwhere(masks["fc"])[:, :2], [[4, 2], [5, 2], [6, 2], [7, 2]])


def test_masks_from_zeros_refuses_weights_that_do_not_fit():
    state = {name: np.ones(SHAPES[name], np.float32) for name in PLAN}
    with pytest.raises(MaskError, match=r"All weights of 'b.weight' are zero"):
        masks_from_zeros({**state, "b.weight": np.zeros(SHAPES["b.weight"])}, PLAN, SHAPES)
    with pytest.raises(MaskError, match=r"The weights lack 'a.weight'"):
        masks_from_zeros({}, PLAN, SHAPES)
    two = np.zeros(SHAPES["a.weight"], np.float32)
    two[2, 3, 0, 0] = two[2, 3, 2, 2] = 1
    with pytest.raises(
        MaskError, match=r"zeros of 'a.weight' are no mask: No pattern covers the kernel of filter 2 and"
    ):
        masks_from_zeros({**state, "a.weight": two}, {"a.weight": LayerPlan("pattern", 0.9)}, SHAPES)
    with pytest.raises(ProfileError, match="Layer 'first' has 3 input channels"):
        masks_from_zeros({"first": np.ones((8, 3, 3, 3))}, {"first": LayerPlan("block:1x2", 0.9)}, SHAPES)
    with pytest.raises(MaskError, match=r"'a.weight' has shape \(4,\) where the model has \(8, 6, 3, 3\)"):
        masks_from_zeros({**state, "a.weight": np.ones(4)}, PLAN, SHAPES)
