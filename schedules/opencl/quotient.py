"""Division of small numbers by a constant without a division, which costs a mobile GPU as much as dozens of sums."""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T

from ..emit import Expr
from .emit import cell

INT32 = 1 << 31


def reciprocal(by: int, below: int) -> tuple[int, int] | None:
    """(factor, shift): n // by is n * factor >> shift for n in 0..below-1; None: not in 32 bits."""
    for shift in range(31):
        factor = -(-(1 << shift) // by)
        too_much = factor * by - (1 << shift)  # n * factor / 2**shift is n / by and n * too_much / (by * 2**shift)
        if (below - 1) * factor >= INT32:
            return None
        if too_much * (below - 1) < 1 << shift:
            return factor, shift
    return None


def quotient(number: Expr, by: int, below: int) -> tuple[Expr, Expr]:
    """(number // by, what is left) of a number in 0..below-1."""
    if by == 1:
        return number, T.int32(0)
    found = reciprocal(by, below)
    whole = T.floordiv(number, by) if found is None else T.shift_right(number * found[0], T.int32(found[1]))
    whole = cell(whole)[0]
    return whole, number - whole * by
