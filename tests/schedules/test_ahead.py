"""What a register tile reads and writes is asked for ahead, once; whole rows of the image are not."""

from __future__ import annotations

import re

import pytest
import tvm

from mest_compiler.schedules.cpu.gather import GatherKnobs
from mest_compiler.schedules.cpu.weight_gradient import WeightGradientKnobs

from .convolutions import Conv
from .generators import Kernel, gathers, gradients
from .sparse_layers import sparse_conv
from .tiles import WIDE, vector

CONV = Conv(16, 16, (4, 4), batch=16)  # one register tile of 16 pixels; with the border that it reads 36
READ, WRITTEN = 36, 16


def asked(kernel: Kernel) -> tuple[int, int]:
    """Requests for vectors to be read and to be written in the code of a kernel."""
    text = tvm.IRModule({"main": kernel.make()}).script()
    flags = re.findall(r"llvm\.prefetch.*?T\.address_of\(.*?\), (\d), 3, 1\)", text)
    return flags.count("0"), flags.count("1")


@pytest.mark.parametrize("scheme, indexing", [("unstructured", "block"), ("pattern", "pattern")])
def test_gather(scheme: str, indexing: str) -> None:
    layer = sparse_conv(CONV, vector(WIDE, "float32"), scheme)
    for kernel in gathers(layer, indexing, [GatherKnobs(16, 1, False)]):
        assert asked(kernel) == (READ, WRITTEN), kernel
    for kernel in gathers(layer, indexing, [GatherKnobs(16, 1, True)]):
        assert asked(kernel) == (0, WRITTEN), kernel


@pytest.mark.parametrize("scheme, indexing", [("unstructured", "block"), ("pattern", "pattern")])
def test_gradient_of_the_weight(scheme: str, indexing: str) -> None:
    layer = sparse_conv(CONV, vector(WIDE, "float32"), scheme)
    dots = [one for one in gradients(layer, indexing, [WeightGradientKnobs(pixels=16)]) if "dots" in one.made_with]
    # The next row's tile of dY has as many pixels as a tile that a gather writes.
    assert [asked(kernel) for kernel in dots] == [(READ + WRITTEN, 0)]
