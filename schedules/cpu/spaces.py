"""The knobs of each kernel on a CPU: which values a search may try, the default one first.

Not among them: parts that threads share (a thread pool deals parts out in runs, so more of them change nothing) and
batch lanes (a vector's, for the whole step).
"""

from __future__ import annotations

from collections.abc import Iterable

from mest_compiler.devices.cpu import CpuProfile
from mest_compiler.kernels.geometry import ConvGeometry
from mest_compiler.kernels.problem import LayerProblem

from ..choice import Choice
from ..emit import split, tile_shape
from .gather import reach_of

PIXELS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28)
GROUPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
LEAST_PLANES = 4  # in a group: fewer, and sums move more than the planes that are read
OUTPUTS = (1, 2, 3, 4, 6, 8)
ENTRIES = (1, 2, 3, 4, 5, 6, 8, 9)
ROWS = (1, 2, 4, 8, 16, 32, 64)
CHAINS = (1, 2, 3, 4)
SPILLED = 1.25  # accumulators to registers: a few that spill may still pay, many never do


def space(direction: str, choice: Choice, device: CpuProfile, layer: LayerProblem) -> dict[str, list[int]]:
    """Knob of the choice -> values to try, whole numbers, the choice's own first; knobs of one value are left out.

    layer: what the choice was made for.
    """
    g = layer.geometry
    most = int(device.registers * SPILLED)
    if direction != "backward_weight":
        found = _gather(direction, choice, g, layer, most)
    elif _held(choice, layer):
        found = {
            "pixels": _tiles([(g.dy.height, g.dy.width)], [n for n in PIXELS if 4 <= n <= most], g.kernel),
            "groups": _groups(g.channels // g.groups),
            "chains": CHAINS,
        }
    else:
        own = choice.kernel.startswith(("dense", "planes"))
        found = {
            "entries": [n for n in ENTRIES if n <= most],
            "rows": _bands(g.dy.height),
            **({"filters": [n for n in OUTPUTS if n <= g.filters // g.groups]} if own else {}),
            **({} if own else {"groups": _groups(g.channels)}),
        }
    return {name: values for name, values in _defaults_first(choice, found).items() if len(values) > 1}


def refusal(direction: str, choice: Choice, device: CpuProfile, layer: LayerProblem) -> str | None:
    """Why a choice is not worth building; None: it is."""
    knobs, blocks = choice.knobs, _block(direction, choice, layer)
    if direction != "backward_weight":
        accumulators = knobs.pixels * blocks
    elif _held(choice, layer):
        accumulators = knobs.pixels + knobs.chains
    else:
        accumulators = knobs.entries * blocks
    if accumulators > device.registers * SPILLED:
        return f"{accumulators} accumulators do not fit {device.registers} registers"
    return None


def _gather(
    direction: str, choice: Choice, g: ConvGeometry, layer: LayerProblem, most: int
) -> dict[str, Iterable[int]]:
    grids = [g.forward_grid] if direction == "forward" else [grid for grid, _ in g.backward_grids]
    sources, targets = (g.channels, g.filters) if direction == "forward" else (g.filters, g.channels)
    own = choice.kernel.startswith(("dense", "planes"))
    block = 1 if own else _block(direction, choice, layer)
    return {
        "pixels": _tiles(
            [(grid.rows, grid.cols) for grid in grids],
            [n for n in PIXELS if n * block <= most],
            (1, 1) if own else reach_of(g, block),
        ),
        "groups": _groups(sources // g.groups),
        "pixels_inner": (1, 0),
        **({"outputs": [n for n in OUTPUTS if n <= targets // g.groups]} if own else {}),
    }


def _held(choice: Choice, layer: LayerProblem) -> bool:
    """Whether a weight gradient holds pixels of dY in registers, and no sums."""
    return choice.kernel.startswith("body") or (choice.kernel.startswith("block") and layer.sparse.kind.filters == 1)


def _block(direction: str, choice: Choice, layer: LayerProblem) -> int:
    """Output planes a register tile."""
    if choice.kernel.startswith(("dense", "planes")):
        return choice.knobs.filters if direction == "backward_weight" else choice.knobs.outputs
    if choice.kernel.startswith("body"):
        return 1
    return min(layer.sparse.kind.channels if direction == "backward_data" else layer.sparse.kind.filters, 4)


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


def _defaults_first(choice: Choice, found: dict[str, Iterable[int]]) -> dict[str, list[int]]:
    own = {name: int(getattr(choice.knobs, name)) for name in found}
    return {name: [own[name], *(n for n in values if n != own[name])] for name, values in found.items()}
