"""Profiles: which layer gets what, and what a profile file may say."""

import pytest

from mest_compiler.errors import ProfileError
from mest_compiler.sparsity.profile import LayerPlan, Profile

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


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sparsity: 0.9", "profile.yaml: A sparsity profile needs the key 'scheme'"),
        ("scheme: block", "needs the key 'sparsity'"),
        ("{scheme: blok, sparsity: 0.9}", r"did you mean 'block'"),
        ("{scheme: block, sparsity: 90}", "sparsity of the default is 90: give the fraction"),
        ("{scheme: block, sparsity: 9e-1}", "sparsity of the default is '9e-1'"),
        ("{scheme: block, sparsity: 0.9, ratio: 1}", "'ratio' is no key of a sparsity profile: use scheme"),
        ("{scheme: block, sparsity: 0.9, first: yes}", "Key 'first' of a sparsity profile is True"),
        ("{scheme: block, sparsity: 0.9, layers: [a]}", "Key 'layers' of a sparsity profile is no mapping"),
        ("{scheme: block, sparsity: 0.9, layers: {a: sparse}}", "rule of layer 'a' is 'sparse': write dense"),
        ("{scheme: block, sparsity: 0.9, layers: {a: {}}}", "rule of layer 'a' is {}"),
        ("{scheme: block, sparsity: 0.9, layers: {a: {rate: 1}}}", "'rate' is no key of layer 'a'"),
        ("{scheme: block, sparsity: 0.9, layers: {a: {sparsity: 1}}}", "sparsity of layer 'a' is 1: give"),
        ("{scheme: block, sparsity: 0.9, sparsity: 0.8}", "'sparsity' is said twice"),
        ("scheme: [", "it is no YAML"),
        ("- scheme", "it is no mapping"),
        ("!!python/object/apply:os.getcwd []", "it is no YAML"),
    ],
)
def test_files_that_are_no_profiles_are_refused(tmp_path, text, sentence):
    with pytest.raises(ProfileError, match=sentence):
        load(tmp_path, text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ProfileError, match=r"Sparsity profile .*none\.yaml: it cannot be read"):
        Profile.load(tmp_path / "none.yaml")


def test_profiles_that_do_not_fit_the_model_are_refused():
    def assign(name, plan):
        return Profile(BLOCK, layers={name: plan}).assign(LAYERS)

    with pytest.raises(ProfileError, match=r"'layer1.0.conv3.weight' .* \(did you mean 'layer1.0.conv[12]"):
        assign("layer1.0.conv3.weight", None)
    with pytest.raises(ProfileError, match=r"'features.*' in the sparsity profile matches no convolution"):
        assign("features.*", None)
    with pytest.raises(ProfileError, match="Layer 'odd' has 6 filters"):
        Profile.uniform("block", 0.5).assign({"first": (4, 4, 1, 1), "odd": (6, 4, 1, 1)})
    with pytest.raises(ProfileError, match="keeps none of the 4 units of layer 'tiny'"):
        Profile.uniform("block", 0.98).assign({"first": (4, 4, 1, 1), "tiny": (4, 4, 1, 1)})


def test_a_layer_that_stays_dense_may_have_any_shape():
    assert Profile.uniform("block", 0.5).assign({"first": (6, 3, 3, 3)}) == {}
