"""What a profile file may say, in our form and in that of the MEST authors' scripts."""

import pytest

from mest_compiler.errors import ProfileError
from mest_compiler.sparsity.profile import LayerPlan, Profile, Rule
from mest_compiler.sparsity.schemes import get_scheme

LAYERS = {
    "conv1.weight": (16, 3, 3, 3),
    "layer1.0.conv1.weight": (16, 16, 3, 3),
    "layer1.0.conv2.weight": (16, 16, 3, 3),
}


def load(tmp_path, text, scheme=None):
    path = tmp_path / "profile.yaml"
    path.write_text(text)
    return Profile.load(path, scheme)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sparsity: 0.9", "profile.yaml: A sparsity profile needs the key 'scheme'"),
        ("scheme: block", "needs the key 'sparsity'"),
        ("{scheme: blok, sparsity: 0.9}", r"did you mean 'block'"),
        ("{scheme: block, sparsity: 90}", "sparsity of the default is 90: give the fraction"),
        ("{scheme: block, sparsity: 9e-1}", "sparsity of the default is '9e-1'"),
        ("{scheme: block, sparsity: 0.9, ratios: 1}", "'ratios' is no key of a sparsity profile: use scheme"),
        ("{scheme: block, sparsity: 0.9, ratio: 2:1}", "Key 'ratio' of a sparsity profile is 121: use uniform"),
        ("{scheme: block, sparsity: 0.9, ratio: '0:1'}", "'0:1': use uniform, proportional, or two numbers above 0"),
        ("{scheme: block, sparsity: 0.9, ratio: fair}", "Key 'ratio' of a sparsity profile is 'fair'"),
        ("{scheme: block, sparsity: 0.9, ratio: uniform, ratio: uniform}", "'ratio' is said twice: keep one"),
        ("{scheme: block, sparsity: 0.9, ratio: [uniform]}", "Key 'ratio' of a sparsity profile is"),
        (
            "{scheme: block, sparsity: 0.9, kinds: {conv: dense}}",
            "'conv' is no kind of layers: write a kernel, such as 3x3",
        ),
        ("{scheme: block, sparsity: 0.9, kinds: {3: dense}}", "3 is no kind of layers"),
        ("{scheme: block, sparsity: 0.9, kinds: {3x0: dense}}", "'3x0' is no kind of layers"),
        ("{scheme: block, sparsity: 0.9, kinds: 3x3}", "Key 'kinds' of a sparsity profile is no mapping"),
        ("{scheme: block, sparsity: 0.9, kinds: {3x3: patern}}", "rule of kind '3x3' cannot be: .* mean 'pattern'"),
        (
            "{scheme: block, sparsity: 0.9, kinds: {3x3: {scheme: [block]}}}",
            "rule of kind '3x3' cannot be: There is no",
        ),
        ("{scheme: block, sparsity: 0.9, kinds: {3x3: {sparsity: 2}}}", "sparsity of kind '3x3' is 2: give"),
        ("{scheme: auto, sparsity: 0.9}", "no sparsity scheme 'auto'"),
        ("{scheme: block, sparsity: 0.9, layers: {a: {scheme: auto}}}", "no sparsity scheme 'auto'"),
        ("[" * 1500, "it is no YAML"),
        ("sparsity: 2026-13-45", "it is no YAML"),
        ("? [a]\n: b", "it is no YAML"),
        ("{scheme: block, sparsity: 0.9, first: yes}", "Key 'first' of a sparsity profile is True"),
        ("{scheme: block, sparsity: 0.9, layers: [a]}", "Key 'layers' of a sparsity profile is no mapping"),
        (
            "{scheme: block, sparsity: 0.9, layers: {a: sparse}}",
            "rule of layer 'a' cannot be: There is no sparsity scheme 'sparse'",
        ),
        (
            "{scheme: block, sparsity: 0.9, layers: {a: {}}}",
            "rule of layer 'a' is {}: write dense, a scheme, or a mapping",
        ),
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


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "profile.yaml").write_bytes(b"\xff\xfe\x00scheme")
    with pytest.raises(ProfileError, match=r"profile\.yaml: it is no YAML"):
        Profile.load(tmp_path / "profile.yaml")
    with pytest.raises(ProfileError, match="it cannot be read"):
        Profile.load(tmp_path)


def test_everything_is_read(tmp_path):
    profile = load(
        tmp_path,
        """
scheme: block:4x1
sparsity: 0.9
first: sparse
ratio: "1.12:1"
kinds: {3x3: pattern, 1x1: {sparsity: 0.85}, linear: dense}
layers: {"a.*": unstructured, b: {scheme: block, sparsity: 0}, c: dense}
""",
    )
    assert profile == Profile(
        LayerPlan("block", 0.9),
        "sparse",
        {"a.*": Rule("unstructured"), "b": LayerPlan("block", 0.0), "c": None},
        "1.12:1",
        {"3x3": Rule("pattern"), "1x1": Rule(sparsity=0.85), "linear": None},
    )
    assert load(tmp_path, profile.dump()) == profile


AUTHORS = """
prune_ratios:
  module.conv1.weight: 0.0
  layer1.0.conv1:
    0.9
"""


def test_the_authors_form_makes_exactly_the_named_layers_sparse(tmp_path):
    profile = load(tmp_path, AUTHORS, scheme="block")
    assert profile.assign(LAYERS) == {"layer1.0.conv1.weight": LayerPlan("block", 0.9)}
    assert load(tmp_path, profile.dump()) == profile
    assert load(tmp_path, "scheme: pattern" + AUTHORS).assign(LAYERS) == {
        "layer1.0.conv1.weight": LayerPlan("pattern", 0.9)
    }


def test_the_authors_form_may_prune_the_first_convolution_and_linear_layers(tmp_path):
    profile = load(tmp_path, "{scheme: unstructured, prune_ratios: {conv1.weight: 0.5, module.fc: 0.8}}")
    assert profile.assign(LAYERS, {"fc.weight": (10, 16)}) == {
        "conv1.weight": LayerPlan("unstructured", 0.5),
        "fc.weight": LayerPlan("unstructured", 0.8),
    }


ADMM = """
rho:
  0.001
admm_epochs: 3
{key}:
  layer1.0.conv1.weight: 0.775
  layer1.0.conv2.weight: 0.9
"""


@pytest.mark.parametrize("key", ["prune_ratios", "prune_ratio"])
def test_keys_of_another_method_are_named_and_left(tmp_path, key):
    profile = load(tmp_path, ADMM.format(key=key), scheme="unstructured")
    assert profile.assign(LAYERS) == {
        "layer1.0.conv1.weight": LayerPlan("unstructured", 0.775),
        "layer1.0.conv2.weight": LayerPlan("unstructured", 0.9),
    }
    left, taken = profile.notes
    assert left == "keys that say nothing here were left: rho, admm_epochs"
    assert taken == f"{key} are taken as fractions of weights (--profile-ratios says nothing else)"
    assert Profile.load(tmp_path / "profile.yaml", "unstructured", "weights").notes[1].endswith("fractions of weights")


def test_ratios_of_kernels_are_more_as_ratios_of_weights(tmp_path):
    (tmp_path / "profile.yaml").write_text(ADMM.format(key="prune_ratios"))
    profile = Profile.load(tmp_path / "profile.yaml", "pattern", "kernels")
    plan = profile.assign(LAYERS)
    assert plan["layer1.0.conv1.weight"].sparsity == pytest.approx(0.9)
    kept = get_scheme("pattern").kept_units((16, 16, 3, 3), plan["layer1.0.conv2.weight"].sparsity)
    assert kept == 16 * round(0.1 * 16)  # a tenth of each filter's kernels
    assert "fractions of kernels" in profile.notes[1]
    whole = Profile.from_mapping({"prune_ratios": {"layer1.0.conv1": 0.0}}, "pattern", "kernels")
    assert whole.assign(LAYERS) == {}


def test_a_scheme_that_nobody_says_is_said(tmp_path):
    profile = Profile.from_mapping({"prune_ratios": {"layer1.0.conv1": 0.9}}, otherwise="unstructured")
    assert profile.assign(LAYERS) == {"layer1.0.conv1.weight": LayerPlan("unstructured", 0.9)}
    assert profile.notes[0] == "no scheme is said, so unstructured is taken"
    assert Profile.from_mapping({"scheme": "block", "prune_ratios": {}}, otherwise="unstructured").notes[1:] == ()


@pytest.mark.parametrize(
    ("content", "scheme", "ratios", "sentence"),
    [
        ({"prune_ratios": {}, "prune_ratio": {}}, "block", None, "has both 'prune_ratios' and 'prune_ratio'"),
        ({"prune_ratios": {"a": 0.5}}, "block", "kernels", "scheme 'block' does not remove whole kernels"),
        ({"scheme": "block", "sparsity": 0.9}, None, "kernels", "its ratios are of weights"),
        ({"prune_ratios": {"a": 0.5}}, "pattern", "filters", "cannot be those of 'filters': use kernels or weights"),
    ],
)
def test_ratios_that_cannot_be_meant_are_refused(content, scheme, ratios, sentence):
    with pytest.raises(ProfileError, match=sentence):
        Profile.from_mapping(content, scheme, ratios)


def test_the_authors_form_without_a_ratio_is_a_dense_network(tmp_path):
    assert load(tmp_path, "{scheme: block, prune_ratios: }").assign(LAYERS) == {}


@pytest.mark.parametrize(
    ("text", "scheme", "sentence"),
    [
        (AUTHORS, None, "prune_ratios need a scheme: add the key 'scheme', or give --scheme"),
        ("scheme: block" + AUTHORS, "pattern", "says its scheme itself: leave out the scheme 'pattern'"),
        (AUTHORS, "blok", "no sparsity scheme 'blok'"),
        ("sparsity: 0.9" + AUTHORS, "block", "'sparsity' is no key of a sparsity profile with prune_ratios"),
        (
            "prune_ratios: {a: 0.9, module.a.weight: 0.8}",
            "block",
            r"ratio of 'a.weight' is said twice, .* 'module.a.weight'",
        ),
        ("prune_ratios: {a: 0.9, a: 0.8}", "block", "'a' is said twice"),
        ("prune_ratios: {a: 90}", "block", "sparsity of layer 'a.weight' is 90: give the fraction"),
        ("prune_ratios: {a: dense}", "block", "sparsity of layer 'a.weight' is 'dense': give"),
        ("prune_ratios: [a]", "block", "Key 'prune_ratios' of a sparsity profile is no mapping"),
        ("{scheme: block, sparsity: 0.9}", "block", "says its schemes itself: leave out the scheme 'block'"),
    ],
)
def test_bad_files_of_the_authors_form_are_refused(tmp_path, text, scheme, sentence):
    with pytest.raises(ProfileError, match=f"^Sparsity profile .*profile.yaml: .*{sentence}"):
        load(tmp_path, text, scheme)


def test_the_authors_form_must_name_layers_that_there_are_and_that_fit(tmp_path):
    with pytest.raises(ProfileError, match=r"'layer1.0.conv3.weight' .* \(did you mean 'layer1.0.conv"):
        load(tmp_path, "prune_ratios: {layer1.0.conv3: 0.9}", "block").assign(LAYERS)
    with pytest.raises(ProfileError, match=r"Layer 'a.weight' has 1x1 kernels, but scheme 'pattern' needs 3x3"):
        load(tmp_path, "prune_ratios: {a: 0.9}", "pattern").assign({"a.weight": (8, 8, 1, 1)})
