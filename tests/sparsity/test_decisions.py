"""What of an asked sparsity is reached, and why the other layers stay dense."""

import numpy as np
import pytest

from mest_compiler.errors import ProfileError
from mest_compiler.sparsity.decisions import as_masked, sentences, unfit
from mest_compiler.sparsity.profile import LayerPlan, Profile, Rule
from mest_compiler.sparsity.starting_masks import starting_masks

FIRST, SECOND = (8, 3, 3, 3), (16, 8, 3, 3)
MLP = {"1.weight": (300, 1024), "3.weight": (100, 300), "5.weight": (10, 100)}


def whys(decisions) -> dict[str, str]:
    return {layer.name: layer.why for layer in decisions.layers if layer.plan is None}


def test_a_network_of_linear_layers_is_sparse_but_for_its_classifier() -> None:
    decisions = Profile.uniform("unstructured", 0.8).decide({}, MLP)
    assert decisions.plans == dict.fromkeys(list(MLP)[:2], LayerPlan("unstructured", 0.8))
    assert decisions.asked() == {"scheme": "unstructured", "sparsity": pytest.approx(0.8)}
    done = decisions.done()
    weights = 300 * 1024 + 100 * 300
    assert done["sparsity"] == pytest.approx(0.8 * weights / (weights + 1000))
    assert (done["sparse_layers"], done["sparsity_of_sparse_layers"]) == (2, pytest.approx(0.8))
    overall, dense = decisions.sentences()
    assert overall == "sparsity: 80.00% asked (unstructured), 79.76% reached: 80.00% in 2 of 3 layers"
    assert dense.startswith("dense: 5.weight (the last linear layer")


@pytest.mark.parametrize("first", [{}, {"stem": FIRST}])
def test_the_first_convolution_is_nothing_to_make_sparse(first: dict) -> None:
    assert list(Profile.uniform("block", 0.5).decide(first, {"a": (8, 8), "b": (8, 8), "c": (4, 8)}).plans) == [
        "a",
        "b",
    ]


def test_an_only_linear_layer_is_sparse_and_a_classifier_behind_a_convolution_is_not() -> None:
    profile = Profile.uniform("unstructured", 0.8)
    assert list(profile.decide({}, {"fc": (10, 64)}).plans) == ["fc"]
    decisions = profile.decide({"stem": FIRST}, {"fc": (10, 64)})
    assert not decisions.plans and list(whys(decisions)) == ["stem", "fc"]
    assert decisions.sentences()[0] == "sparsity: 80.00% asked (unstructured), 0.00% reached: no layer is sparse"
    assert len(decisions.sentences()) == 3


def test_linear_layers_beside_convolutions_stay_dense_and_are_said() -> None:
    decisions = Profile.uniform("block", 0.5).decide(
        {"a": FIRST, "b": SECOND}, MLP, unfit({"depthwise": (16, 1, 3, 3), "fixed": (4, 3)}, {"fixed"})
    )
    assert list(decisions.plans) == ["b"]
    dense = decisions.sentences()[1:]
    assert [line.partition(" (")[0] for line in dense] == [
        "dense: a", "dense: 1.weight, 3.weight, 5.weight", "dense: depthwise", "dense: fixed",
    ]  # fmt: skip
    assert dense[-1] == "dense: fixed (their weights are frozen)"
    named = Profile(LayerPlan("block", 0.5), kinds={"linear": None}).decide({}, MLP)
    assert not named.plans and set(whys(named).values()) == {"as the profile says"}


@pytest.mark.parametrize(
    ("scheme", "sparsity", "shape", "why"),
    [
        ("block", 0.5, (10, 8, 3, 3), "10 filters, which scheme 'block' cannot cut into blocks of 4"),
        ("block:1x3", 0.5, (16, 8, 3, 3), "8 input channels, which scheme 'block:1x3' cannot cut into blocks of 3"),
        ("pattern", 0.9, (16, 8, 1, 1), "1x1 kernels, but scheme 'pattern' needs 3x3"),
        ("channel", 0.8, (16, 1, 3, 3), "a sparsity of 0.8 keeps none of its 1 units of scheme 'channel'"),
        ("channel", 0.3, (16, 1, 3, 3), "a sparsity of 0.3 removes none of its 1 units of scheme 'channel'"),
        ("pattern", 0.9, (16, 1, 3, 3), "a sparsity of 0.9 keeps none of its 16 units of scheme 'pattern'"),
    ],
)
def test_a_layer_that_a_scheme_cannot_take_stays_dense_and_is_said(
    scheme: str, sparsity: float, shape: tuple, why: str
) -> None:
    decisions = Profile.uniform(scheme, sparsity).decide({"first": FIRST, "odd": shape, "usual": (16, 24, 3, 3)})
    assert whys(decisions)["odd"] == why
    assert f"dense: odd ({why})" in decisions.sentences()
    assert decisions.layers[1].asked == sparsity


@pytest.mark.parametrize("rules", [{"layers": {"odd": Rule(sparsity=0.5)}}, {"kinds": {"3x3": Rule("block")}}])
def test_a_layer_that_is_named_is_refused_where_its_scheme_cannot_take_it(rules: dict) -> None:
    with pytest.raises(ProfileError, match="Layer 'odd' has 10 filters, which scheme 'block' cannot cut into blocks"):
        Profile(LayerPlan("block", 0.5), **rules).decide({"first": FIRST, "odd": (10, 8, 3, 3)})


@pytest.mark.parametrize("scheme", ["pattern", "channel", "filter"])
def test_a_scheme_of_planes_and_kernels_takes_no_linear_layer_by_default(scheme: str) -> None:
    decisions = Profile.uniform(scheme, 0.75).decide({}, MLP)
    assert not decisions.plans
    assert whys(decisions)["1.weight"] == f"linear layers, which scheme {scheme!r} is not for"


def test_what_masks_reach_counts_and_not_what_was_asked() -> None:
    mask = np.zeros(SECOND, bool)
    mask[:4] = True
    decisions, masks = starting_masks(
        Profile.uniform("block", 0.5), {"a": FIRST, "b": SECOND}, {}, {}, masks={"b": mask}
    )
    (_, layer), asked = decisions.done(masks)["layers"], decisions.asked()
    assert (layer["asked"], layer["sparsity"], asked["sparsity"]) == (0.5, 0.75, pytest.approx(0.5))
    assert sentences(asked, decisions.done(masks))[0].endswith("75.00% in 1 of 2 layers")


def test_a_dense_network_has_nothing_to_say() -> None:
    decisions, _ = starting_masks(None, {"a": FIRST}, {"fc": (10, 8)}, {})
    assert (decisions.sentences(), decisions.asked()) == ([], {"scheme": None, "sparsity": 0.0})
    assert [layer["shape"] for layer in decisions.done()["layers"]] == [list(FIRST), [10, 8, 1, 1]]
    assert Profile.uniform("block", 0).decide({"a": FIRST, "b": SECOND}).sentences() == []


def test_many_layers_of_one_reason_are_counted() -> None:
    linears = {f"fc{i}": (8, 8) for i in range(9)}
    (_, _, dense) = Profile.uniform("block", 0.5).decide({"a": FIRST, "b": SECOND}, linears).sentences()
    assert dense.startswith("dense: fc0, fc1, fc2, fc3 and 5 more (linear layers beside convolutions")


def test_a_run_that_goes_on_says_what_it_goes_on_with() -> None:
    mask = np.zeros(SECOND, bool)
    mask[:4] = True
    decisions = as_masked({"a": FIRST, "b": SECOND}, {"b": "block"}, {"b": mask})
    assert decisions.plans == {"b": LayerPlan("block", 0.75)}
    assert decisions.done({"b": mask})["sparsity"] == pytest.approx(0.75 * 1152 / (1152 + 216))
    assert whys(decisions) == {"a": "as the checkpoint has them"}
