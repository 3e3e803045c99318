"""Generators with their arguments: equal exactly where they make the same kernel."""

from __future__ import annotations

import pytest

from mest_compiler.devices.opencl import OpenClProfile
from mest_compiler.kernels.problem import DIRECTIONS
from mest_compiler.schedules import generators
from mest_compiler.schedules.candidates import candidates
from mest_compiler.schedules.choice import Choice
from mest_compiler.schedules.partial import Partial

from .convolutions import Conv
from .sparse_layers import SCHEMES, fitted, sparse_conv
from .tiles import NARROW, profile, vector


def test_calls_and_compares_by_value() -> None:
    def said(*args: object) -> tuple[object, ...]:
        return args

    assert Partial(said, [1, 2], {"b": 1, "a": 2})(3) == ((1, 2), {"b": 1, "a": 2}, 3)
    assert Partial(Partial(said, 1), 2)(3) == (1, 2, 3)
    same = [Partial(said, [1, (2,)], {"a": 1}), Partial(said, (1, [2]), {"a": 1})]
    assert same[0] == same[1] and hash(same[0]) == hash(same[1])
    others = [Partial(said, {"a": 1, "b": 2}), Partial(said, {"b": 2, "a": 1}), Partial(said), Partial(print), said]
    assert all(a != b for i, a in enumerate(others) for b in others[i + 1 :])  # the order of index arrays counts
    with pytest.raises(TypeError, match="unhashable"):
        Partial(said, {1})


def _choices(kind: str, scheme: str, spare: int) -> list[Choice]:
    device = profile(NARROW) if kind == "cpu" else OpenClProfile("opencl", batch_lanes=8)
    vec = vector(NARROW, "float32") if kind == "cpu" else generators(device).emit.Vec(8, "float32")
    layer = sparse_conv(fitted(Conv(8, 8, (5, 4)), scheme), vec, scheme, spare=-spare)
    return [choice for direction in DIRECTIONS for choice in candidates(direction, device, layer)]


@pytest.mark.parametrize("kind", ["cpu", "opencl"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_kernels_are_equal_for_equal_layers_only(kind: str, scheme: str) -> None:
    layer, same, smaller = (_choices(kind, scheme, spare) for spare in (0, 0, 1))
    assert [choice.make for choice in layer] == [choice.make for choice in same]
    # A layer of another capacity has kernels of its own, but for dense ones.
    for one, other in zip(layer, smaller, strict=True):
        assert (one.make == other.make) == (one.family == "zeros")
