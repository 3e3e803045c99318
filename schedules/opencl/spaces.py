"""The knobs of each kernel on OpenCL: which values a search may try, the default one first; and what limits forbid."""

from __future__ import annotations

from collections.abc import Iterable

from mest_compiler.devices.opencl import OpenClProfile
from mest_compiler.kernels.problem import LayerProblem

from ..choice import Choice
from . import dense_gradient, planes_gradient
from .choose import MOST_ACCUMULATORS
from .emit import QUAD
from .local_sums import Layout
from .weight_gradient import MOST_FILTERS, MOST_SUMS, cover

ROWS = (1, 2, 4)
COLS = (1, 2, 3, 4, 6, 8, 12)
TILES = (1, 2, 3, 4, 6, 8, 12, 16, 32)
POWERS = (1, 2, 4, 8, 16)
OUTPUTS = (1, 2, 4)
ENTRIES = (1, 2, 3, 4, 6, 8, 9, 12)
PIXELS = (2, 4, 6, 8, 12)


def space(direction: str, choice: Choice, device: OpenClProfile, layer: LayerProblem) -> dict[str, list[int]]:
    """Knob of the choice -> values to try, whole numbers, the choice's own first; knobs of one value are left out.

    layer: what the choice was made for.
    """
    g = layer.geometry
    quads = g.lanes // QUAD
    body, own = choice.kernel.startswith("body"), choice.kernel.startswith(("dense", "planes"))
    found: dict[str, Iterable[int]]
    if direction == "backward_weight":
        shares = [n for n in POWERS if n * quads <= device.work_group]
        found = {
            **({"pixels": PIXELS} if body else {}),
            "entries": (1, 2) if body else [n for n in ENTRIES if n <= MOST_SUMS],
            "rows": [n for n in shares if n <= g.tiles * g.dy.height],
            "shares": shares,
            "spread": POWERS,
            "splits": POWERS,
        }
    else:
        plane = g.y if direction == "forward" else g.dx
        found = {
            "rows": [n for n in ROWS if n <= plane.height],
            "cols": [n for n in COLS if n <= max(plane.width, 1)],
            "tiles": [n for n in TILES if n * quads <= device.work_group],
            "parts": [n for n in POWERS if n * quads <= device.work_group],
            "rows_first": (0, 1),
            "unroll": (1, 2, 4),
            **({"outputs": OUTPUTS} if own else {}),
        }
    firsts = {name: int(getattr(choice.knobs, name)) for name in found}
    spaces = {name: [firsts[name], *(n for n in values if n != firsts[name])] for name, values in found.items()}
    return {name: values for name, values in spaces.items() if len(values) > 1}


def refusal(direction: str, choice: Choice, device: OpenClProfile, layer: LayerProblem) -> str | None:
    """Why a choice is beyond the device's limits; None: it is not. What makes a gather checks its own."""
    knobs, g = choice.knobs, layer.geometry
    if direction != "backward_weight":
        own = choice.kernel.startswith(("dense", "planes"))
        sums = knobs.rows * knobs.cols * (knobs.outputs if own else 1)
        return None if sums <= MOST_ACCUMULATORS else f"{sums} accumulators an item are too many"
    sums = knobs.entries * _filters(choice, layer)
    items = g.lanes // QUAD * knobs.rows * knobs.shares
    if items > device.work_group:
        return f"{items} items a work-group are more than {device.work_group}"
    if not choice.kernel.startswith("body") and sums > MOST_SUMS:
        return f"{sums} sums an item are too many"
    size = Layout(g.dtype, sums, g.lanes // QUAD * knobs.rows, knobs.shares).bytes
    return None if size <= device.local_bytes else f"{size} bytes of local memory are more than {device.local_bytes}"


def _filters(choice: Choice, layer: LayerProblem) -> int:
    """Sums that a weight gradient has of each entry: filters of an item, or the weights of a straight-line body."""
    if layer.sparse is None:
        return dense_gradient.default_block(layer.geometry)
    if choice.kernel.startswith("planes"):
        return planes_gradient.default_block(layer)
    if choice.kernel.startswith("body"):
        return layer.sparse.unit_size
    return cover(layer.sparse.kind.filters, MOST_FILTERS).size
