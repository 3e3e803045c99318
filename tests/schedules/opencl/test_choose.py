"""Which kernels OpenCL layers get, that their default knobs keep a device's limits, and that they compute."""

from __future__ import annotations

import re
from math import prod

import pytest
from tvm import tirx

from mest_compiler.devices.opencl import OpenClProfile
from mest_compiler.errors import DeviceError
from mest_compiler.kernels.problem import DIRECTIONS, LayerProblem
from mest_compiler.schedules.candidates import candidates, generator
from mest_compiler.schedules.choice import Choice
from mest_compiler.schedules.opencl.emit import Vec
from mest_compiler.schedules.opencl.generators import rules
from mest_compiler.sparsity.schemes import get_scheme

from ..convolutions import Conv
from ..sparse_layers import SCHEMES, SparseCase, fitted, hostile_masks, sparse_conv
from .launching import compile_kernels

PHONE = OpenClProfile("a phone")
LAYER, STRIDED = Conv(64, 64, (16, 16), batch=64), Conv(32, 64, (32, 32), stride=(2, 2), batch=64)
VEC = Vec(64, "float32")


def layer_of(conv: Conv, scheme: str, kept: float = 0.1) -> LayerProblem:
    """A layer with room for so many of a scheme's units."""
    return LayerProblem.of(conv.geometry(VEC), scheme, int(kept * get_scheme(scheme).most_kept(conv.weight_shape)))


def dense(direction: str, device: OpenClProfile, conv: Conv) -> Choice:
    """The only kernel of a dense layer."""
    (choice,) = candidates(direction, device, LayerProblem(conv.geometry(VEC)))
    return choice


def items(kernel: tirx.PrimFunc) -> int:
    """Work-items of a work-group."""
    found = re.findall(r'T\.thread_binding\((\d+), thread="threadIdx\.\w"\)', kernel.script())
    assert len(found) == 3
    return prod(int(extent) for extent in found)


@pytest.mark.parametrize("direction", DIRECTIONS[:2])
@pytest.mark.parametrize("conv", [LAYER, STRIDED, Conv(64, 64, (4, 4), batch=64)])
def test_work_groups_hold_a_phone_busy_and_no_more(conv: Conv, direction: str) -> None:
    schemes = [scheme for scheme in SCHEMES if fitted(conv, scheme) == conv]
    choices = [dense(direction, PHONE, conv)]
    choices += [candidates(direction, PHONE, layer_of(conv, scheme))[0] for scheme in schemes]
    for choice in choices:
        assert 64 <= items(choice.make()) <= rules.ITEMS, choice
        assert choice.knobs.rows * choice.knobs.cols <= rules.ACCUMULATORS, choice


@pytest.mark.parametrize("work_group", [16, 40, 64])
def test_small_devices_get_small_work_groups(work_group: int) -> None:
    device = OpenClProfile("a small one", work_group=work_group)
    for direction in DIRECTIONS[:2]:
        for choice in candidates(direction, device, layer_of(LAYER, "block")):
            assert items(choice.make()) <= work_group, choice


def test_a_device_too_small_for_a_pixels_lanes_is_refused() -> None:
    with pytest.raises(DeviceError, match="use fewer tiles or parts, smaller tiles, or fewer batch lanes"):
        dense("forward", OpenClProfile("a tiny one", work_group=8), LAYER)


@pytest.mark.parametrize("changed", [{"tiles": 128}, {"rows": 4, "cols": 4}])
def test_knobs_beyond_limits_are_refused(changed: dict[str, int]) -> None:
    choice = dense("forward", PHONE, LAYER)
    with pytest.raises(DeviceError, match="a phone has 1024 items with 12"):
        choice.with_knobs(**changed)


def test_dense_takes_over_where_most_is_kept() -> None:
    def families(kept: float) -> list[str]:
        return [choice.family for choice in candidates("forward", PHONE, layer_of(LAYER, "block", kept))]

    assert families(0.1) == ["block"]
    assert families(0.5) == ["block", "zeros"]
    assert families(0.9) == ["zeros", "block"]


def test_rows_of_places_are_no_candidates() -> None:
    (choice,) = candidates("forward", PHONE, layer_of(LAYER, "unstructured", 0.2))
    assert choice.kernel == "block_forward"


def test_tiles_fit_odd_planes() -> None:
    knobs = dense("forward", PHONE, Conv(16, 1, (9, 7), batch=64)).knobs
    assert (knobs.rows, knobs.cols, knobs.tiles) == (1, 7, 5)  # 9 tiles: two work-groups


@pytest.mark.parametrize("scheme", ["block", pytest.param("pattern", marks=pytest.mark.slow)])
def test_default_kernels_compute(scheme: str) -> None:
    conv, vec = fitted(Conv(8, 8, (9, 7), batch=9), scheme), Vec(8, "float64")
    layer = sparse_conv(conv, vec, scheme)
    choices = {d: generator(PHONE, scheme).choice(d, PHONE, layer) for d in DIRECTIONS[:2]}
    kernels = compile_kernels({direction: choice.make() for direction, choice in choices.items()})
    case = SparseCase.make(conv, layer, hostile_masks(scheme, conv.weight_shape)["random"])
    for direction, choice in choices.items():
        case.run(f"{scheme} {direction}", kernels[direction], direction, *choice.used)
