"""What `auto` chooses among: the schemes that can have a ratio, or that a mask is one of."""

import numpy as np
import pytest

from mest_compiler.errors import MaskError, ProfileError
from mest_compiler.sparsity.automatic import Automatic
from mest_compiler.sparsity.schemes import get_scheme

SHAPE = (8, 6, 3, 3)


def names(plans: dict) -> set[str]:
    return {plan.scheme for plan in plans}


def test_fine_grained_schemes_compete_at_a_ratio() -> None:
    plans = Automatic(0.75).plans("conv", SHAPE)
    assert names(plans) == {"unstructured", "block", "pattern"}
    for plan, kept in plans.items():
        assert plan.sparsity == 0.75
        assert kept == get_scheme(plan.scheme).kept_units(SHAPE, 0.75)


@pytest.mark.parametrize(
    ("shape", "sparsity", "expected"),
    [
        ((8, 6, 1, 1), 0.75, {"unstructured", "block"}),
        ((6, 6, 3, 3), 0.75, {"unstructured", "pattern"}),
        (SHAPE, 0.5, {"unstructured", "block"}),
    ],
    ids=["pattern needs 3x3", "block needs a multiple of 4", "pattern needs 5/9"],
)
def test_what_does_not_fit_stays_out(shape: tuple, sparsity: float, expected: set[str]) -> None:
    assert names(Automatic(sparsity).plans("conv", shape)) == expected


@pytest.mark.parametrize("sparsity", [0.99, 0.01], ids=["keeps nothing", "keeps all"])
def test_nothing_fits_a_layer_of_which_rounding_leaves_all_or_nothing(sparsity: float) -> None:
    assert Automatic(sparsity).plans("tiny", (4, 1, 1, 1)) == {}


@pytest.mark.parametrize("scheme", ["unstructured", "block", "pattern", "channel", "filter"])
def test_a_mask_is_computed_by_every_scheme_it_is_one_of(scheme: str) -> None:
    mask = get_scheme(scheme).random_mask(SHAPE, 0.75, np.random.default_rng(0))
    found = names(Automatic(None).plans("conv", SHAPE, mask))
    assert {scheme, "unstructured"} <= found
    for plan, kept in Automatic(None).plans("conv", SHAPE, mask).items():
        kind = get_scheme(plan.scheme)
        assert kept * kind.unit_size(SHAPE) == mask.sum()
        np.testing.assert_array_equal(kind.units_to_mask(kind.mask_to_units(mask), SHAPE), mask)


def test_refusals() -> None:
    with pytest.raises(ProfileError, match="above 0"):
        Automatic(0.0)
    with pytest.raises(ProfileError, match="sparsity"):
        Automatic(1.0)
    with pytest.raises(ProfileError, match="either a sparsity or masks"):
        Automatic(0.5).plans("conv", SHAPE, np.ones(SHAPE, bool))
    with pytest.raises(ProfileError, match="either a sparsity or masks"):
        Automatic(None).plans("conv", SHAPE)
    with pytest.raises(MaskError, match="keeps nothing"):
        Automatic(None).plans("conv", SHAPE, np.zeros(SHAPE, bool))
