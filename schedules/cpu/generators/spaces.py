"""The knobs of each kernel on a CPU: which values a search may try.

Not among them: parts that threads share (a thread pool deals parts out in runs, so more of them change nothing) and
batch lanes (a vector's, for the whole step).
"""

from __future__ import annotations

from collections.abc import Iterable

from mest_compiler.devices.cpu import CpuProfile
from mest_compiler.kernels.geometry import ConvGeometry

from ...choice import Choice
from ...emit import split, tile_shape
from ...generator import space_of

PIXELS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28)
GROUPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
LEAST_PLANES = 4  # in a group: fewer, and sums move more than the planes that are read
OUTPUTS = (1, 2, 3, 4, 6, 8)
ENTRIES = (1, 2, 3, 4, 5, 6, 8, 9)
ROWS = (1, 2, 4, 8, 16, 32, 64)
CHAINS = (1, 2, 3, 4)
SPILLED = 1.25  # accumulators to registers: a few that spill may still pay, many never do


def most_of(device: CpuProfile) -> int:
    """Accumulators that are worth a try."""
    return int(device.registers * SPILLED)


def too_many(accumulators: int, device: CpuProfile) -> str | None:
    """Why so many are not worth building; None: they are."""
    if accumulators > device.registers * SPILLED:
        return f"{accumulators} accumulators do not fit {device.registers} registers"
    return None


def gather_space(
    direction: str, choice: Choice, device: CpuProfile, g: ConvGeometry, block: int, reach: tuple[int, int],
    outputs: bool = False,
) -> dict[str, list[int]]:  # fmt: skip
    """Of a gather. block: output planes a register tile that it always has; reach: see `tile_shape`; outputs: whether
    they are a knob."""
    grids = [g.forward_grid] if direction == "forward" else [grid for grid, _ in g.backward_grids]
    sources, targets = (g.channels, g.filters) if direction == "forward" else (g.filters, g.channels)
    pixels = [n for n in PIXELS if n * block <= most_of(device)]
    return space_of(choice, {
        "pixels": _tiles([(grid.rows, grid.cols) for grid in grids], pixels, reach),
        "groups": _groups(sources // g.groups),
        "pixels_inner": (1, 0),
        **({"outputs": [n for n in OUTPUTS if n <= targets // g.groups]} if outputs else {}),
    })  # fmt: skip


def dots_space(choice: Choice, device: CpuProfile, g: ConvGeometry) -> dict[str, list[int]]:
    """Of a weight gradient that holds pixels of dY in registers, and no sums."""
    pixels = [n for n in PIXELS if 4 <= n <= most_of(device)]
    return space_of(choice, {
        "pixels": _tiles([(g.dy.height, g.dy.width)], pixels, g.kernel),
        "groups": _groups(g.channels // g.groups),
        "chains": CHAINS,
    })  # fmt: skip


def sums_space(choice: Choice, device: CpuProfile, g: ConvGeometry, filters: bool) -> dict[str, list[int]]:
    """Of a weight gradient that holds sums in registers. filters: whether those of a register tile are a knob; groups
    are one otherwise."""
    tile: dict[str, Iterable[int]] = {"filters": [n for n in OUTPUTS if n <= g.filters // g.groups]}
    return space_of(choice, {
        "entries": [n for n in ENTRIES if n <= most_of(device)],
        "rows": _bands(g.dy.height),
        **(tile if filters else {"groups": _groups(g.channels)}),
    })  # fmt: skip


def _tiles(planes: list[tuple[int, int]], values: list[int], reach: tuple[int, int]) -> list[int]:
    """Of the values that give the same register tiles, the smallest."""
    shapes: dict[object, int] = {}
    for value in values:
        tiles = [tile_shape(rows, cols, value, reach) for rows, cols in planes]
        key = tuple(
            tuple(tuple(part.size for part in split(size, most)) for size, most in zip(plane, tile, strict=True))
            for plane, tile in zip(planes, tiles, strict=True)
        )
        shapes.setdefault(key, value)
    return list(shapes.values())


def _groups(planes: int) -> list[int]:
    return [n for n in GROUPS if n == 1 or planes // n >= LEAST_PLANES]


def _bands(height: int) -> list[int]:
    """Of the values that cut an image's rows alike, the smallest."""
    return list({tuple((p.size, p.count) for p in split(height, n)): n for n in reversed(ROWS)}.values())[::-1]
