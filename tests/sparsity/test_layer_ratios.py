"""Sharing one sparsity out among layers: Appendix K's three strategies."""

from math import prod

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mest_compiler.errors import ProfileError
from mest_compiler.sparsity.layer_ratios import LIMIT, PROPORTIONAL, UNIFORM, share_out
from mest_compiler.sparsity.schemes import get_scheme

from .strategies import layers

BLOCK, PATTERN = get_scheme("block"), get_scheme("pattern")
# The paper's ResNet-50: (filters, channels, kernel) and how often; without the first convolution.
STAGES = ((64, 64, 3), (256, 128, 4), (512, 256, 6), (1024, 512, 3))  # channels that enter, width, blocks
RESNET50 = [
    *[(w, 4 * w if i else c, 1) for c, w, n in STAGES for i in range(n)],
    *[(w, w, 3) for _, w, n in STAGES for _ in range(n)],
    *[(4 * w, w, 1) for _, w, n in STAGES for _ in range(n)],
    *[(4 * w, c, 1) for c, w, _ in STAGES],
]
HYBRID = [((f, c, k, k), PATTERN if k == 3 else BLOCK) for f, c, k in RESNET50]


def overall(shares, its_layers):
    """The sparsity of all weights."""
    sizes = [prod(shape) for shape, _ in its_layers]
    return float(np.dot(shares, sizes) / sum(sizes))


def test_the_papers_ratio_gives_the_papers_sparsities():
    """Appendix K: 1.12:1 at 90 % is 95 % for all 3x3 layers of ResNet-50 and 85 % for its 1x1 layers."""
    shares = share_out("1.12:1", 0.9, HYBRID)
    of_kernel = {k: {s for s, (_, _, kernel) in zip(shares, RESNET50, strict=True) if kernel == k} for k in (1, 3)}
    (pointwise,), (spatial,) = of_kernel[1], of_kernel[3]
    assert (round(spatial, 2), round(pointwise, 2)) == (0.95, 0.85)
    assert overall(shares, HYBRID) == pytest.approx(0.9, abs=1e-6)


def test_proportional_keeps_resnet50_between_what_its_docstring_says():
    shares = share_out(PROPORTIONAL, 0.9, HYBRID)
    assert (round(min(shares), 2), round(max(shares), 2)) == (0.63, 0.92)
    assert overall(shares, HYBRID) == pytest.approx(0.9, abs=1e-6)


def test_uniform_is_the_ratio_itself():
    assert share_out(UNIFORM, 0.9, HYBRID) == [0.9] * len(HYBRID)
    assert share_out(PROPORTIONAL, 0.9, []) == []


@pytest.mark.parametrize("ratio", [PROPORTIONAL, "1.12:1", "1:1"])
def test_layers_alike_all_get_the_ratio_itself(ratio):
    assert share_out(ratio, 0.9, [((64, 64, 3, 3), BLOCK)] * 5) == [0.9] * 5


def test_clamped_layers_leave_the_rest_to_the_others():
    """3x3 at half of the 1x1 ratio would be 0.4 and 0.8; a pattern has 5/9 at least, so 1x1 gets less."""
    its_layers = [((48, 16, 3, 3), PATTERN), ((144, 48, 1, 1), BLOCK)]
    assert share_out("1:2", 0.6, its_layers) == pytest.approx([5 / 9, 1.2 - 5 / 9], abs=1e-6)
    large = [((64, 64, 3, 3), BLOCK), ((192, 192, 1, 1), BLOCK)]
    assert share_out("3:1", 0.6, large) == pytest.approx([0.9, 0.3], abs=1e-6)
    assert share_out("9:1", 0.6, large) == pytest.approx([LIMIT, 1.2 - LIMIT], abs=1e-6)


def test_a_ratio_needs_no_layer_of_the_other_kind():
    assert share_out("1.12:1", 0.9, [((8, 8, 5, 5), BLOCK), ((8, 8, 3, 3), BLOCK)]) == pytest.approx([0.9, 0.9])


@pytest.mark.parametrize("ratio", [PROPORTIONAL, "1.12:1"])
@pytest.mark.parametrize(("sparsity", "range_"), [(0.5, r"0\.5556 to 0\.9900"), (0.995, r"to 0\.9900: change it")])
def test_what_the_schemes_do_not_allow_is_refused(ratio, sparsity, range_):
    with pytest.raises(
        ProfileError, match=f"sparsity of {sparsity} cannot be shared out with ratio '{ratio}' .*{range_}"
    ):
        share_out(ratio, sparsity, [((64, 64, 3, 3), PATTERN)] * 3)


@given(
    st.lists(layers(20), min_size=1, max_size=6),
    st.sampled_from([PROPORTIONAL, "1.12:1", "1:3", "5:1", "1:1"]),
    st.floats(0.01, 0.99),
)
def test_the_overall_sparsity_is_as_asked_and_every_layer_in_its_range(its_layers, ratio, sparsity):
    its_layers = [(shape, scheme) for scheme, shape in its_layers]
    try:
        shares = share_out(ratio, sparsity, its_layers)
    except ProfileError:
        assume(False)
    assert overall(shares, its_layers) == pytest.approx(sparsity, abs=1e-6)
    free = []
    for share, (shape, scheme) in zip(shares, its_layers, strict=True):
        highest = max(scheme.lowest, min(LIMIT, scheme.highest(shape)))
        assert scheme.lowest <= share <= highest
        scheme.check_ratio("a layer", share)
        if share == 0 or scheme.kept_units(shape, share):
            free += [(prod(shape), shape, share)] if scheme.lowest + 1e-5 < share < highest - 1e-5 else []
    for size, shape, share in free:
        for other_size, other_shape, other in free:
            if ratio == PROPORTIONAL:
                assert size <= other_size or share >= other - 2e-6
                assert (1 - share) * size**0.25 == pytest.approx((1 - other) * other_size**0.25, rel=1e-3, abs=1e-4)
            elif (max(shape[2:]) == 1) == (max(other_shape[2:]) == 1):
                assert share == pytest.approx(other, abs=2e-6)
