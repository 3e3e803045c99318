"""Few rows of a table of parameters, among which each two values of two parameters meet: most faults need no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import Any

Value = tuple[str, int]
"""A parameter and the place of one of its values."""


def pairwise(parameters: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Rows, a value of each parameter in each; the same ones for the same parameters, and about as many as the two
    longest parameters have pairs.

    A row begins with the first pair that no row has yet; then each parameter in turn takes the value that makes the
    most new pairs with what is there.
    """
    missing = {frozenset(pair): None for pair in _pairs(parameters)}  # a set that keeps its order
    rows = []
    while missing:
        row: dict[str, int] = dict(sorted(next(iter(missing))))
        for name, values in parameters.items():
            if name not in row:
                row[name] = max(
                    range(len(values)), key=lambda i: sum(_pair((name, i), o) in missing for o in row.items())
                )
        for one, other in combinations(row.items(), 2):
            missing.pop(_pair(one, other), None)
        rows.append({name: values[row[name]] for name, values in parameters.items()})
    return rows


def _pair(one: Value, other: Value) -> frozenset[Value]:
    return frozenset((one, other))


def _pairs(parameters: Mapping[str, Sequence[Any]]) -> list[tuple[Value, Value]]:
    """Every two values of two parameters."""
    return [
        ((a, i), (b, j))
        for a, b in combinations(parameters, 2)
        for i, j in product(range(len(parameters[a])), range(len(parameters[b])))
    ]
