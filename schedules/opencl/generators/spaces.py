"""The knobs of each kernel on OpenCL: which values a search may try, and what the device's limits forbid."""

from __future__ import annotations

from collections.abc import Iterable

from mest_compiler.devices.opencl import OpenClProfile
from mest_compiler.kernels.geometry import ConvGeometry

from ...choice import Choice
from ...generator import space_of
from ..emit import QUAD
from ..local_sums import Layout
from ..weight_gradient import MOST_SUMS
from .rules import MOST_ACCUMULATORS

ROWS = (1, 2, 4)
COLS = (1, 2, 3, 4, 6, 8, 12)
TILES = (1, 2, 3, 4, 6, 8, 12, 16, 32)
POWERS = (1, 2, 4, 8, 16)
OUTPUTS = (1, 2, 4)
ENTRIES = tuple(n for n in (1, 2, 3, 4, 6, 8, 9, 12) if n <= MOST_SUMS)
PIXELS = (2, 4, 6, 8, 12)


def gather_space(
    direction: str, choice: Choice, device: OpenClProfile, g: ConvGeometry, outputs: bool = False
) -> dict[str, list[int]]:
    """Of a gather. outputs: whether output planes of a work-item are a knob."""
    quads, plane = g.lanes // QUAD, g.y if direction == "forward" else g.dx
    return space_of(choice, {
        "rows": [n for n in ROWS if n <= plane.height],
        "cols": [n for n in COLS if n <= max(plane.width, 1)],
        "tiles": [n for n in TILES if n * quads <= device.work_group],
        "parts": [n for n in POWERS if n * quads <= device.work_group],
        "rows_first": (0, 1),
        "unroll": (1, 2, 4),
        **({"outputs": OUTPUTS} if outputs else {}),
    })  # fmt: skip


def gradient_space(
    choice: Choice, device: OpenClProfile, g: ConvGeometry, entries: Iterable[int] = ENTRIES, pixels: bool = False
) -> dict[str, list[int]]:
    """Of a weight gradient. pixels: whether those of dY that an item holds are a knob."""
    shares = [n for n in POWERS if n * (g.lanes // QUAD) <= device.work_group]
    return space_of(choice, {
        **({"pixels": PIXELS} if pixels else {}),
        "entries": entries,
        "rows": [n for n in shares if n <= g.tiles * g.dy.height],
        "shares": shares,
        "spread": POWERS,
        "splits": POWERS,
    })  # fmt: skip


def refused_gather(choice: Choice, outputs: int) -> str | None:
    """Why a gather of so many output planes an item cannot be; what makes one checks its own limits besides."""
    sums = choice.knobs.rows * choice.knobs.cols * outputs
    return None if sums <= MOST_ACCUMULATORS else f"{sums} accumulators an item are too many"


def refused_gradient(
    choice: Choice, device: OpenClProfile, g: ConvGeometry, filters: int, in_registers: bool = True
) -> str | None:
    """Why a weight gradient cannot be. filters: sums of each entry; in_registers: whether an item holds all of them."""
    knobs = choice.knobs
    sums, items = knobs.entries * filters, g.lanes // QUAD * knobs.rows * knobs.shares
    if items > device.work_group:
        return f"{items} items a work-group are more than {device.work_group}"
    if in_registers and sums > MOST_SUMS:
        return f"{sums} sums an item are too many"
    size = Layout(g.dtype, sums, g.lanes // QUAD * knobs.rows, knobs.shares).bytes
    return None if size <= device.local_bytes else f"{size} bytes of local memory are more than {device.local_bytes}"
