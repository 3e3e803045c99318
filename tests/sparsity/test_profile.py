"""Profiles: which layer gets what."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mest_compiler.errors import ProfileError
from mest_compiler.sparsity.masks import random_masks
from mest_compiler.sparsity.profile import LayerPlan, Profile, Rule

LAYERS = {
    "conv1.weight": (16, 3, 3, 3),
    "layer1.0.conv1.weight": (16, 16, 3, 3),
    "layer1.0.conv2.weight": (16, 16, 3, 3),
    "layer3.0.conv1.weight": (32, 16, 3, 3),
    "layer3.0.shortcut.0.weight": (32, 16, 1, 1),
}
BLOCK = LayerPlan("block", 0.9)


def load(tmp_path, text):
    path = tmp_path / "profile.yaml"
    path.write_text(text)
    return Profile.load(path)


def test_uniform_leaves_the_first_convolution_dense():
    plan = Profile.uniform("block:4x1", 0.9).assign(LAYERS)
    assert list(plan.items()) == [(name, BLOCK) for name in list(LAYERS)[1:]]


def test_a_ratio_of_zero_means_dense():
    assert Profile.uniform("block", 0).assign(LAYERS) == {}


def test_file_with_everything(tmp_path):
    profile = load(
        tmp_path,
        """
scheme: block
sparsity: 0.9
first: dense            # default; `first: sparse` allowed
layers:
  "layer3.*": {scheme: unstructured, sparsity: 0.95}
  "layer1.0.conv1.weight": dense
""",
    )
    wide = LayerPlan("unstructured", 0.95)
    assert profile.assign(LAYERS) == {
        "layer1.0.conv2.weight": BLOCK,
        "layer3.0.conv1.weight": wide,
        "layer3.0.shortcut.0.weight": wide,
    }
    assert load(tmp_path, profile.dump()) == profile


def test_the_last_match_counts_and_rules_inherit_the_default(tmp_path):
    plan = load(
        tmp_path,
        "{scheme: block, sparsity: 0.9, layers: {'layer3.*': dense, '*.conv1.weight': {sparsity: 0.5}}}",
    ).assign(LAYERS)
    assert plan["layer3.0.conv1.weight"] == LayerPlan("block", 0.5)
    assert "layer3.0.shortcut.0.weight" not in plan


def test_the_first_convolution_goes_by_its_own_rules(tmp_path):
    first = "conv1.weight"
    assert first in load(tmp_path, "{scheme: block, sparsity: 0.9, first: sparse}").assign(LAYERS)
    wildcard = "{scheme: block, sparsity: 0.9, layers: {'*': {sparsity: 0.5}}}"
    assert first not in load(tmp_path, wildcard).assign(LAYERS)
    exact = "{scheme: block, sparsity: 0.9, layers: {conv1.weight: {sparsity: 0.5}}}"
    assert load(tmp_path, exact).assign(LAYERS)[first] == LayerPlan("block", 0.5)


def test_profiles_that_do_not_fit_the_model_are_refused():
    def assign(name, plan):
        return Profile(BLOCK, layers={name: plan}).assign(LAYERS)

    with pytest.raises(ProfileError, match=r"'layer1.0.conv3.weight' .* \(did you mean 'layer1.0.conv[12]"):
        assign("layer1.0.conv3.weight", None)
    with pytest.raises(
        ProfileError, match=r"'features.*' .* matches no convolution of the model that can be sparse: take"
    ):
        assign("features.*", None)
    with pytest.raises(
        ProfileError, match=r"Layer 'layer3.0.shortcut.0.weight' has 1x1 kernels, but scheme 'pattern' needs"
    ):
        assign("layer3.0.shortcut.0.weight", Rule("pattern"))
    with pytest.raises(ProfileError, match=r"sparsity of layer 'layer1.0.conv1.weight' is 0.5, below 0.5556 \(5/9\)"):
        assign("layer1.0.conv1.weight", LayerPlan("pattern", 0.5))
    odd = {"first": (4, 4, 1, 1), "odd": (6, 4, 1, 1)}
    with pytest.raises(ProfileError, match="Layer 'odd' has 6 filters, which scheme 'block' cannot cut into blocks of"):
        Profile(BLOCK, layers={"odd": Rule(sparsity=0.5)}).assign(odd)
    tiny = {"first": (4, 4, 1, 1), "tiny": (4, 4, 1, 1)}
    with pytest.raises(ProfileError, match="keeps none of the 4 units of layer 'tiny'"):
        Profile(BLOCK, layers={"tiny": Rule(sparsity=0.98)}).assign(tiny)
    with pytest.raises(ProfileError, match="keeps none of the 4 units of layer 'tiny'"):
        Profile(BLOCK, kinds={"1x1": Rule("block", 0.98)}).assign(tiny)


def test_a_layer_that_stays_dense_may_have_any_shape():
    assert Profile.uniform("block", 0.5).assign({"first": (6, 3, 3, 3)}) == {}


LINEARS = {"fc.weight": (10, 64), "head.weight": (8, 16)}
KINDS = """
scheme: block
sparsity: 0.9
kinds: {3x3: pattern, 1x1: {scheme: unstructured, sparsity: 0.7}, linear: block:2x1}
layers: {"*.conv1.weight": {sparsity: 0.8}, "layer1.0.conv2.weight": {scheme: channel}, "fc.weight": dense}
"""


def test_layers_overrule_kinds_and_kinds_the_default(tmp_path):
    """What a rule leaves out is as the next more general one says."""
    assert load(tmp_path, KINDS).assign(LAYERS, LINEARS) == {
        "layer1.0.conv1.weight": LayerPlan("pattern", 0.8),
        "layer1.0.conv2.weight": LayerPlan("channel", 0.9),
        "layer3.0.conv1.weight": LayerPlan("pattern", 0.8),
        "layer3.0.shortcut.0.weight": LayerPlan("unstructured", 0.7),
        "head.weight": LayerPlan("block:2x1", 0.9),
    }


def test_kinds_may_keep_layers_dense_and_single_layers_sparse_all_the_same():
    profile = Profile(BLOCK, kinds={"3x3": None}, layers={"layer1.0.conv2.weight": Rule(sparsity=0.5)})
    assert profile.assign(LAYERS) == {
        "layer1.0.conv2.weight": LayerPlan("block", 0.5),
        "layer3.0.shortcut.0.weight": BLOCK,
    }


def test_a_ratio_of_zero_in_a_rule_means_dense():
    profile = Profile(BLOCK, kinds={"1x1": Rule(sparsity=0)}, layers={"layer1.*": LayerPlan("pattern", 0.0)})
    assert list(profile.assign(LAYERS)) == ["layer3.0.conv1.weight"]


@pytest.mark.parametrize("pattern", ["*", "conv1*", "conv?.weight"])
def test_kinds_and_wildcards_do_not_reach_a_dense_first_convolution(pattern):
    profile = Profile(BLOCK, kinds={"3x3": Rule("pattern", 0.8)}, layers={pattern: Rule(sparsity=0.8)})
    assert "conv1.weight" not in profile.assign(LAYERS)
    exact = Profile(BLOCK, kinds={"3x3": Rule("pattern", 0.7)}, layers={"conv1.weight": Rule("unstructured")})
    assert exact.assign(LAYERS)["conv1.weight"] == LayerPlan("unstructured", 0.7)


def test_a_name_with_wildcards_in_it_is_that_name():
    layers = {"first": (4, 4, 1, 1), "blocks[0].weight": (4, 4, 1, 1)}
    assert Profile(BLOCK, layers={"blocks[0].weight": None}).assign(layers) == {}


def test_a_default_pattern_leaves_other_kernels_dense():
    plan = Profile.uniform("pattern", 0.9).assign(LAYERS)
    assert "layer3.0.shortcut.0.weight" not in plan and len(plan) == 3
    wildcard = Profile(LayerPlan("pattern", 0.9), layers={"layer3.*": Rule(sparsity=0.8)})
    assert "layer3.0.shortcut.0.weight" not in wildcard.assign(LAYERS)
    dense_kind = Profile(LayerPlan("pattern", 0.9), layers={"*": Rule(sparsity=0.8)}, kinds={"1x1": None})
    assert "layer3.0.shortcut.0.weight" not in dense_kind.assign(LAYERS)


@pytest.mark.parametrize(
    "rules",
    [
        {"kinds": {"1x1": Rule("pattern")}},
        {"kinds": {"1x1": Rule(sparsity=0.8)}},
        {"layers": {"layer3.*": Rule("pattern")}},
        {"layers": {"layer3.0.shortcut.0.weight": Rule(sparsity=0.8)}},
    ],
)
def test_a_pattern_that_is_named_for_another_kernel_is_refused(rules):
    with pytest.raises(ProfileError, match=r"Layer 'layer3.0.shortcut.0.weight' has 1x1 kernels, but scheme 'pattern'"):
        Profile(LayerPlan("pattern", 0.9), **rules).assign(LAYERS)


def test_a_kind_that_does_not_fit_names_the_layer():
    with pytest.raises(
        ProfileError, match=r"Layer 'layer1.0.conv1.weight' has 16 filters, which scheme 'block:5x1' cannot"
    ):
        Profile(BLOCK, kinds={"3x3": Rule("block:5x1")}).assign(LAYERS)


def test_a_kind_that_no_layer_has_is_no_error():
    plan = Profile(BLOCK, kinds={"5x5": Rule("channel"), "linear": None}).assign(LAYERS)
    assert plan == Profile(BLOCK).assign(LAYERS)


def test_linear_layers_are_dense_unless_they_are_named():
    dense = Profile(BLOCK, layers={"*": Rule(sparsity=0.8)}).assign(LAYERS, LINEARS)
    assert not set(dense) & set(LINEARS)
    assert Profile(BLOCK, kinds={"linear": Rule("unstructured", 0.5)}, layers={"head.*": None}).assign(LAYERS, LINEARS)[
        "fc.weight"
    ] == LayerPlan("unstructured", 0.5)
    # a wildcard that matches no convolution can mean linear layers only
    assert Profile(BLOCK, layers={"head.*": Rule(sparsity=0.5)}).assign(LAYERS, LINEARS)["head.weight"] == LayerPlan(
        "block", 0.5
    )


@pytest.mark.parametrize("scheme", ["pattern", "channel", "filter"])
def test_linear_layers_have_blocks_only(scheme):
    profile = Profile(LayerPlan(scheme, 0.75), layers={"head.weight": Rule(sparsity=0.75)})
    with pytest.raises(
        ProfileError,
        match=f"Layer 'head.weight' is linear, and scheme '{scheme}' is not for such: use unstructured, block or b",
    ):
        profile.assign({}, LINEARS)
    with pytest.raises(ProfileError, match=r"Layer 'fc.weight' has 10 filters, which scheme 'block' cannot cut"):
        Profile(BLOCK, kinds={"linear": Rule("block")}).assign(LAYERS, LINEARS)


def test_linear_layers_need_a_caller_that_knows_them():
    with pytest.raises(ProfileError, match="makes linear layers sparse, which cannot be had here"):
        Profile(BLOCK, kinds={"linear": Rule("block")}).assign(LAYERS)
    with pytest.raises(ProfileError, match=r"'fc.weight' .* matches no convolution of the model"):
        Profile(BLOCK, layers={"fc.weight": Rule("block")}).assign(LAYERS)
    with pytest.raises(
        ProfileError, match=r"'fc.weigt' .* no convolution or linear layer .* \(did you mean 'fc.weight'\?"
    ):
        Profile(BLOCK, layers={"fc.weigt": Rule("block")}).assign(LAYERS, LINEARS)
    Profile(BLOCK, kinds={"linear": None}).assign(LAYERS)


def test_a_ratio_rules_only_what_no_rule_says():
    profile = Profile(
        BLOCK, ratio="1.12:1", kinds={"3x3": Rule("pattern")}, layers={"layer1.0.conv1.weight": Rule(sparsity=0.6)}
    )
    plan = profile.assign(LAYERS)
    assert plan.pop("layer1.0.conv1.weight") == LayerPlan("pattern", 0.6)
    sizes = {name: LAYERS[name][0] * LAYERS[name][1] * LAYERS[name][2] ** 2 for name in plan}
    zeros = sum(sizes[name] * layer.sparsity for name, layer in plan.items())
    assert zeros == pytest.approx(0.9 * sum(sizes.values()), rel=1e-5)
    spatial, pointwise = plan["layer3.0.conv1.weight"].sparsity, plan["layer3.0.shortcut.0.weight"].sparsity
    assert spatial / pointwise == pytest.approx(1.12, rel=1e-5)


def test_an_overall_ratio_that_cannot_be_had_is_one_sentence():
    with pytest.raises(
        ProfileError, match=r"overall sparsity of 0.3 cannot be shared out with ratio '1.12:1' among 4 lay"
    ):
        Profile(LayerPlan("block", 0.3), ratio="1.12:1", kinds={"3x3": Rule("pattern")}).assign(LAYERS)


@pytest.mark.parametrize("ratio", ["uniform", "proportional", "1.12:1"])
def test_a_resolved_profile_says_the_same_layer_by_layer(tmp_path, ratio):
    profile = Profile(BLOCK, ratio=ratio, kinds={"3x3": Rule("pattern")}, layers={"fc.weight": Rule("unstructured")})
    resolved = profile.resolved(LAYERS, LINEARS)
    assert list(resolved.layers) == [*LAYERS, *LINEARS]
    assert load(tmp_path, resolved.dump()) == resolved
    assert resolved.assign(LAYERS, LINEARS) == profile.assign(LAYERS, LINEARS)


RULES = st.none() | st.builds(
    Rule, st.sampled_from(["block", "pattern", "block:8x1", "channel"]), st.none() | st.floats(0, 0.99)
)


@given(
    st.sampled_from(["unstructured", "pattern"]),
    st.floats(0, 0.99),
    st.sampled_from(["dense", "sparse"]),
    st.sampled_from(["uniform", "proportional", "1.12:1", "1:1", "0.5:20"]),
    st.dictionaries(st.sampled_from(["3x3", "1x1", "linear"]), RULES),
    st.dictionaries(
        st.sampled_from(["*", "layer1.*", *LAYERS]) | st.text(), RULES | st.builds(Rule, sparsity=st.just(0.5))
    ),
)
def test_dump_and_load_are_inverse(scheme, sparsity, first, ratio, kinds, layers):
    profile = Profile(LayerPlan(scheme, sparsity), first, layers, ratio, kinds)
    assert Profile.from_mapping(yaml.safe_load(profile.dump())) == profile


@given(
    st.sampled_from(["unstructured", "block", "pattern", "channel"]),
    st.floats(0, 0.995),
    st.sampled_from(["uniform", "proportional", "1.12:1", "1:7"]),
    st.dictionaries(st.sampled_from(["3x3", "1x1", "linear"]), RULES),
    st.dictionaries(st.sampled_from(["*", "layer1.*", *LAYERS, *LINEARS]), RULES),
)
def test_every_plan_can_be_drawn_or_is_refused(scheme, sparsity, ratio, kinds, layers):
    profile = Profile(LayerPlan(scheme, sparsity), "dense", layers, ratio, kinds)
    try:
        plan = profile.assign(LAYERS, LINEARS)
    except ProfileError as error:
        assert "unnamed" not in str(error)
        return
    shapes = {**LAYERS, **{name: (*shape, 1, 1) for name, shape in LINEARS.items()}}
    assert list(plan) == [name for name in shapes if name in plan]
    for name, mask in random_masks(plan, shapes, 0).items():
        assert plan[name].sparsity > 0 and mask.any()
