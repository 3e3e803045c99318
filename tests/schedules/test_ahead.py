"""What is read and written is asked for ahead, once: by a register tile, or by a row of the image for the next one."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import tvm

from mest_compiler.schedules.cpu.gather import GatherKnobs
from mest_compiler.schedules.cpu.weight_gradient import WeightGradientKnobs

from .convolutions import Conv
from .generators import Kernel, gathers, gradients
from .sparse_layers import sparse_conv
from .tiles import NARROW, WIDE, vector

CONV = Conv(16, 16, (4, 8), batch=16)  # register tiles of 16 pixels are 4x4, and read 6 rows of 6 with the border
LINES = pytest.mark.parametrize(
    "bits, read, written",
    [
        (WIDE, 6 * 6, 4 * 4),  # a vector is a line of the caches
        (NARROW, 6 * 4, 4 * 3),  # two are, and where a line begins is not known
    ],
)
SCHEMES = pytest.mark.parametrize("scheme, family", [("unstructured", "block"), ("pattern", "pattern")])


def asked(kernel: Kernel) -> Counter[str]:
    """Requests in the code of a kernel: for vectors to be read now and later, and to be written."""
    text = tvm.IRModule({"main": kernel.make()}).script()
    kinds = {("0", "3"): "read", ("0", "2"): "later", ("1", "3"): "written"}
    return Counter(
        kinds[flags] for flags in re.findall(r"llvm\.prefetch.*?T\.address_of\(.*?\), (\d), (\d), 1\)", text)
    )


@LINES
@SCHEMES
def test_gather(scheme: str, family: str, bits: int, read: int, written: int) -> None:
    layer = sparse_conv(CONV, vector(bits, "float32"), scheme)
    for kernel in gathers(layer, family, [GatherKnobs(16, 1, False)]):
        assert asked(kernel) == {"read": read, "written": written}, kernel
    for kernel in gathers(layer, family, [GatherKnobs(16, 1, True)]):  # there is no row of tiles below
        assert asked(kernel) == {"written": written}, kernel


@SCHEMES
def test_gather_of_whole_rows(scheme: str, family: str) -> None:
    layer = sparse_conv(CONV, vector(WIDE, "float32"), scheme)
    for kernel in gathers(layer, family, [GatherKnobs(4, 1, True)]):  # register tiles are 2x2
        # Two more rows of 10, which are neighbours: a loop, and the last vector.
        assert asked(kernel) == {"later": 2, "written": 4}, kernel


@SCHEMES
def test_whole_rows_that_no_cache_keeps(scheme: str, family: str) -> None:
    # Of each channel 6 rows of 10 vectors, 3.75 KiB.
    layer = sparse_conv(Conv(256, 16, (4, 8), batch=16), vector(WIDE, "float32"), scheme)
    kept = [asked(one)["later"] for one in gathers(layer, family, [GatherKnobs(4, 1, True)])]
    split = [asked(one)["later"] for one in gathers(layer, family, [GatherKnobs(4, 8, True)])]
    assert (sorted(kept), split) == ([0, 2], [2, 2]), "backward-data reads 16 planes, forward 256 or 32"


@LINES
@SCHEMES
def test_gradient_of_the_weight(scheme: str, family: str, bits: int, read: int, written: int) -> None:
    layer = sparse_conv(CONV, vector(bits, "float32"), scheme)
    dots = [one for one in gradients(layer, family, [WeightGradientKnobs(pixels=16)]) if "dots" in one.made_with]
    # The next row's tile of dY has as many pixels as a tile that a gather writes.
    assert [asked(kernel) for kernel in dots] == [{"read": read + written}]
