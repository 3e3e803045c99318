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
