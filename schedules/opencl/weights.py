"""Weights that an update multiplies by, the same for all lanes: read by fours where they stand so."""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T

from ..emit import Buffer, Expr
from .emit import QUAD, Vec, part


class Weights:
    """Numbers of a flat buffer from element `first` on, each read once, when it is first asked for.

    `whole`: whether `first` is a multiple of four; a load then gives four of them.
    """

    def __init__(self, vec: Vec, buffer: Buffer, first: Expr, whole: bool) -> None:
        self._vec, self._buffer, self._first, self._whole = vec, buffer, first, whole
        self._read: dict[int, Expr] = {}

    def __getitem__(self, i: int) -> Expr:
        """Number `i` of them."""
        return part(self._quad(i // QUAD), i % QUAD) if self._whole else self._one(i)

    def _quad(self, i: int) -> Expr:
        if i not in self._read:
            self._read[i] = T.Bind(self._vec.load(self._buffer, T.floordiv(self._first, QUAD) + i))
        return self._read[i]

    def _one(self, i: int) -> Expr:
        if i not in self._read:
            self._read[i] = T.Bind(self._buffer[self._first + i])
        return self._read[i]
