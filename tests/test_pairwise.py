"""The rows of a pairwise table: all pairs, and not many more than there must be."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from .pairwise import pairwise

TABLES = {
    "one parameter beside another": {"a": "xyz", "b": "uv"},
    "equal ones": {"a": "xyz", "b": "xyz", "c": "xyz", "d": "xyz"},
    "of all lengths": {"a": range(9), "b": range(5), "c": range(4), "d": range(4), "e": range(3), "f": range(1)},
}


@pytest.mark.parametrize("parameters", TABLES.values(), ids=TABLES)
def test_every_pair_is_there_in_few_rows(parameters: dict) -> None:
    rows = pairwise(parameters)
    assert rows == pairwise(parameters) and all(list(row) == list(parameters) for row in rows)
    for a, b in combinations(parameters, 2):
        assert {(row[a], row[b]) for row in rows} == set(product(parameters[a], parameters[b]))
    longest = sorted((len(values) for values in parameters.values()), reverse=True)
    assert longest[0] * longest[1] <= len(rows) <= 1.5 * longest[0] * longest[1]
    assert len(rows) == len({tuple(row.values()) for row in rows})
