"""Sparse weight gradients of every scheme on OpenCL against dense float64 ones, over layers, masks, knobs and lanes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mest_compiler.devices.opencl import OpenClProfile
from mest_compiler.errors import DeviceError
from mest_compiler.schedules.opencl import block_gradient
from mest_compiler.schedules.opencl.emit import Vec
from mest_compiler.schedules.opencl.local_sums import Layout
from mest_compiler.schedules.opencl.weight_gradient import ITEMS

from ..convolutions import Conv
from ..generators import families_of
from ..sparse_layers import SCHEMES, SparseCase, fitted, hostile_masks, sparse_conv
from ..test_sparse_convolution import ALL, CASES, SOME
from .gradients import BLOCKS, KNOBS, PHONE, VECTORS, Gradient, default_gradient, run_sparse, sparse_gradient
from .launching import compile_kernels


def check(conv: Conv, scheme: str, vec: Vec, number: int, gradients: list[Gradient], masks: int | None = None) -> None:
    """Kernels of one layer, on all or some of the hostile masks."""
    layer = gradients_layer(conv, scheme, vec, number)
    kernels = compile_kernels({str(i): gradient.make() for i, gradient in enumerate(gradients)})
    hostile = list(hostile_masks(scheme, conv.weight_shape, number).items())
    for turn, (mask_name, mask) in enumerate(hostile[:masks]):
        case = SparseCase.make(conv, layer, mask, parts=(1, 2, 3, None)[turn % 4])
        for i, gradient in enumerate(gradients):
            run_sparse(f"{gradient} on mask {mask_name!r}", gradient, kernels[str(i)], case)


def gradients_layer(conv: Conv, scheme: str, vec: Vec, number: int):
    """The layer, with no, some or much room for more entries."""
    return sparse_conv(conv, vec, scheme, spare=3 * (number % 3))


def fitting(name: str, scheme: str, vec: Vec) -> Conv:
    """A case's convolution, with more than one batch tile and an odd batch."""
    conv = fitted(CASES[name], scheme)
    return replace(conv, batch=conv.batch + vec.lanes if vec.lanes > 16 else conv.batch)


FEW = {scheme: [name for name, other in SOME if other == scheme][-1] for scheme in SCHEMES}
CASES_OF_SUITE = [(name, scheme) for scheme, name in FEW.items()] + [("3x3, odd plane", "unstructured")]


@pytest.mark.parametrize(
    ("name", "scheme"),
    [case if case in CASES_OF_SUITE else pytest.param(*case, marks=pytest.mark.slow) for case in SOME],
)
def test_layer(name: str, scheme: str) -> None:
    number = ALL.index((name, scheme))
    vec = VECTORS[number % len(VECTORS)]
    conv = fitting(name, scheme, vec)
    layer = gradients_layer(conv, scheme, vec, number)
    family = families_of(scheme, conv.stride)[-1]
    knobs, block = KNOBS[number % len(KNOBS)], BLOCKS[number % len(BLOCKS)]
    check(conv, scheme, vec, number, [sparse_gradient(layer, family, knobs, block)])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(VECTORS)))
@pytest.mark.parametrize(("name", "scheme"), ALL)
def test_every_layer_with_every_knob(name: str, scheme: str, number: int) -> None:
    vec = VECTORS[number]
    conv = fitting(name, scheme, vec)
    layer = gradients_layer(conv, scheme, vec, number)
    gradients = []
    for family in families_of(scheme, conv.stride):
        gradients += [
            sparse_gradient(layer, family, knobs, BLOCKS[(number + i) % len(BLOCKS)]) for i, knobs in enumerate(KNOBS)
        ]
        gradients.append(default_gradient(layer, family))
    check(conv, scheme, vec, number, gradients)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_default_knobs_fit_a_phone(scheme: str) -> None:
    for dtype in ("float32", "float64"):
        for conv in (Conv(16, 32, (16, 16), batch=64), Conv(3, 4, (1, 1), batch=70), Conv(64, 64, (7, 7), batch=1)):
            layer = sparse_conv(fitted(conv, scheme), Vec(64, dtype), scheme)
            for family in families_of(scheme, conv.stride):
                k = default_gradient(layer, family).knobs
                assert 16 * k.rows * k.shares <= ITEMS
                assert k.groups == 1
                layout = Layout(dtype, 12, 16 * k.rows, k.shares)
                assert layout.bytes <= PHONE.local_bytes


def test_few_entries_are_split_over_image_rows() -> None:
    few, many = (sparse_conv(Conv(c, 4, (32, 32), batch=64), Vec(64, "float32"), "block") for c in (1, 256))
    assert block_gradient.default_knobs(PHONE, few).splits > 1
    assert block_gradient.default_knobs(PHONE, many).splits == 1
    assert block_gradient.workspace(many, block_gradient.default_knobs(PHONE, many)) is None


def test_a_device_too_small_is_refused() -> None:
    layer = sparse_conv(CASES["1x1"], Vec(64, "float32"), "block")
    with pytest.raises(DeviceError, match="groups of 16 items"):
        block_gradient.default_knobs(OpenClProfile("a toy", work_group=8), layer)
    with pytest.raises(DeviceError, match="bytes of local memory"):
        block_gradient.default_knobs(OpenClProfile("a toy", local_bytes=256), layer)
