"""Activations between NCHW and the batch tiles that compiled kernels read, so that a single layer can be timed without
a network around it."""

from __future__ import annotations

import numpy as np

from mest_compiler.kernels.geometry import Plane


def to_tiles(array: np.ndarray, lanes: int, border: int) -> np.ndarray:
    """Batch tiles [tiles, C * rows * cols, lanes] of array [N, C, H, W]; border and unused lanes are zero."""
    n, channels, height, width = array.shape
    plane, tiles = Plane(height, width, border), -(-n // lanes)
    padded = np.zeros((tiles * lanes, channels, plane.rows, plane.cols), array.dtype)
    padded[:n, :, border : border + height, border : border + width] = array
    tiled = padded.reshape(tiles, lanes, channels * plane.size).transpose(0, 2, 1)
    return np.ascontiguousarray(tiled)


def from_tiles(tiled: np.ndarray, batch: int, channels: int, plane: Plane) -> np.ndarray:
    """Array [batch, channels, H, W] of batch tiles whose planes have this form."""
    tiles, _, lanes = tiled.shape
    whole = tiled.transpose(0, 2, 1).reshape(tiles * lanes, channels, plane.rows, plane.cols)
    inner = slice(plane.border, plane.border + plane.height), slice(plane.border, plane.border + plane.width)
    return np.ascontiguousarray(whole[(slice(batch), slice(None), *inner)])
