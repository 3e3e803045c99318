"""float32 to bfloat16 and back: kernels against PyTorch's, bit for bit."""

import numpy as np
import pytest
import torch
import tvm

from mest_compiler.schedules.cpu import narrow

from .tiles import NARROW, WIDE, compile_kernels, poisoned, vector

# Every bfloat16 (both zeros, denormals, infinities, NaNs), with what is cut off below it at all that rounding tells
# apart: nothing, something, just below a half, a half, just above, everything.
UPPER = np.arange(1 << 16, dtype=np.uint32) << 16
LOWER = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
SPECIAL = (UPPER[:, None] | LOWER).reshape(-1)
RANDOM = np.random.default_rng(0).integers(0, 1 << 32, 1 << 16, dtype=np.uint32)
every_machine = pytest.mark.parametrize(
    ("bits", "opt_level"), [(NARROW, 0), (NARROW, 3), (WIDE, 0), (WIDE, 3)], ids=str
)


def torchs(numbers: np.ndarray) -> np.ndarray:
    """uint16 bits of float32 numbers rounded by PyTorch."""
    return torch.from_numpy(numbers).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)


def packed(numbers: np.ndarray, tiles: int, bits: int, opt_level: int) -> np.ndarray:
    """uint16 bits of float32 numbers rounded by the kernel."""
    vec = vector(bits, "float32")
    x = tvm.runtime.tensor(numbers.reshape(tiles, -1, vec.lanes))
    y = tvm.runtime.tensor(np.full(x.shape, 0xABCD, np.uint16))
    kernel = compile_kernels({"pack": narrow.pack(tiles, x.shape[1], vec)}, opt_level)["pack"]
    kernel(x, y)
    return y.numpy().reshape(-1)


@every_machine
@pytest.mark.parametrize("given", [SPECIAL, RANDOM], ids=["every bfloat16", "random"])
def test_rounding_is_torchs(given: np.ndarray, bits: int, opt_level: int) -> None:
    numbers = given.view(np.float32)
    found, nan = packed(numbers, 2, bits, opt_level), np.isnan(numbers)
    np.testing.assert_array_equal(found[~nan], torchs(numbers)[~nan])
    # PyTorch gives another NaN with vectors than without; ours keeps the sign
    back = (found[nan].astype(np.uint32) << 16).view(np.float32)
    assert nan.any() and np.isnan(back).all()
    np.testing.assert_array_equal(np.signbit(back), np.signbit(numbers[nan]))


@every_machine
def test_widening_is_exact(bits: int, opt_level: int) -> None:
    vec = vector(bits, "float32")
    stored = np.arange(1 << 16, dtype=np.uint16).reshape(4, -1, vec.lanes)
    y = poisoned(stored.shape, "float32")
    kernel = compile_kernels({"unpack": narrow.unpack(4, stored.shape[1], vec)}, opt_level)["unpack"]
    kernel(tvm.runtime.tensor(stored), y)
    np.testing.assert_array_equal(y.numpy().view(np.uint32).reshape(-1), UPPER)


@pytest.mark.parametrize("tiles", [1, 3, 7])
def test_any_number_of_tiles(tiles: int) -> None:
    numbers = np.random.default_rng(tiles).standard_normal(tiles * 5 * 8).astype(np.float32)
    np.testing.assert_array_equal(packed(numbers, tiles, NARROW, 0), torchs(numbers))


def test_the_error_is_within_half_of_the_last_place() -> None:
    numbers = np.random.default_rng(1).standard_normal(1 << 12).astype(np.float32)
    back = (packed(numbers, 1, NARROW, 0).astype(np.uint32) << 16).view(np.float32)
    assert (np.abs(back - numbers) <= np.abs(numbers) * 2.0**-8).all() and (back != numbers).any()
