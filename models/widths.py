"""Channels of widened networks, in one place so that all models round alike."""

from __future__ import annotations

from mest_compiler.errors import ModelError


def widened(channels: int, width: float) -> int:
    """Channels of a layer at this width factor: the nearest whole number, halves to even.

    Raises:
        ModelError: nothing would be left of the layer.
    """
    scaled = round(channels * width)
    if scaled < 1:
        raise ModelError(f"A width of {width} leaves nothing of a layer of {channels} channels: use a larger one.")
    return scaled


def widened_to_multiple(channels: int, width: float, of: int = 8) -> int:
    """Channels at this width factor as MobileNets round them: the nearest multiple of `of`, halves up, at least `of`,
    and never more than a tenth below channels * width.
    """
    scaled = channels * width
    rounded = max(of, int(scaled + of / 2) // of * of)
    return rounded if rounded >= 0.9 * scaled else rounded + of
