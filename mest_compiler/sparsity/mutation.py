"""Mutation of one layer on unit ids: which units are removed, which are grown (paper, Algorithm 1, Eq. 1, Appendix D).

Every engine calls these with the same generator, so all walk through the same masks. Ids are the scheme's (see
`Scheme.grid`), ascending. Grown units start at zero, with zero momentum; so does one that is removed and drawn again
in the same mutation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mest_compiler.errors import MaskError

from .scheme import Scheme, Shape


@dataclass(frozen=True, eq=False)
class Change:
    """What a mutation does to one layer.

    survivors: int32 [n], ascending ids of the units that keep their values and momentum. kept: int32 [m], ascending ids
    of all units kept from now on; those that are no survivors were grown and start at zero.
    """

    survivors: np.ndarray
    kept: np.ndarray

    @property
    def grown(self) -> int:
        """How many units start at zero."""
        return len(self.kept) - len(self.survivors)


def importance(values: np.ndarray, gradients: np.ndarray, coefficient: float) -> np.ndarray:
    """float64 [n]: sum over a unit's weights of |w| + |coefficient * dl/dw|, of values and gradients [n, unit_size]."""
    values, gradients = values.astype(np.float64), gradients.astype(np.float64)
    return (np.abs(values) + np.abs(coefficient * gradients)).sum(axis=1)


def remove_to(scheme: Scheme, shape: Shape, kept: np.ndarray, weight: np.ndarray, count: int) -> np.ndarray:
    """int32, ascending: the `count` most important of the kept units; all where there are no more.

    Where the scheme is balanced every row keeps count / rows of its own. Of equals the one with the smaller id goes.

    Args:
        kept: integers [n], ascending.
        weight: float64 [n], importance of each.

    Raises:
        MaskError: as many importances as units, or a count that no mask of the scheme can have.
    """
    if weight.shape != kept.shape:
        raise MaskError(f"There are {len(weight)} importances for {len(kept)} units of a layer of shape {shape}.")
    kept = kept.astype(np.int32)
    if not scheme.balanced:
        _check_count(scheme, shape, count)
        ranked = np.lexsort((kept, weight))
        return np.sort(kept[ranked[max(len(kept) - count, 0) :]])
    each, row = _quota(scheme, shape, count), kept // scheme.grid(shape)[1]
    ranked = np.lexsort((kept, weight, row))
    of_row = np.bincount(row, minlength=scheme.grid(shape)[0])
    # places behind the unit in its row's ranking: the last `each` of a row stay
    behind = np.repeat(np.cumsum(of_row), of_row) - np.arange(len(kept)) - 1
    return np.sort(kept[ranked[behind < each]])


def grow_to(scheme: Scheme, shape: Shape, kept: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """int32, ascending: the kept units and random empty ones, `count` in all; as they are where they are as many.

    Where the scheme is balanced every row grows to count / rows. Where several units exclude each other (the patterns
    of a kernel) one is drawn evenly. All is drawn with `rng.random` alone.

    Raises:
        MaskError: a count that no mask of the scheme can have.
    """
    rows, columns = scheme.grid(shape)
    sites = int(scheme.site(np.array([columns - 1]))[0]) + 1
    kinds = columns // sites  # units of a site, of which a mask keeps one at most
    row, column = np.divmod(kept.astype(np.int64), columns)
    taken = row * sites + scheme.site(column)
    noise = rng.random(rows * sites)
    noise[taken] = 2.0  # above all that is drawn
    if scheme.balanced:
        need = np.maximum(_quota(scheme, shape, count) - np.bincount(row, minlength=rows), 0)
        ranked = np.argsort(noise.reshape(rows, sites), axis=1)
        new = (np.arange(rows)[:, None] * sites + ranked)[np.arange(sites) < need[:, None]]
    else:
        _check_count(scheme, shape, count)
        need = max(count - len(kept), 0)
        new = np.argpartition(noise, need - 1)[:need] if need else np.empty(0, np.int64)
    new = np.sort(new)
    grown = new * kinds + (rng.random(len(new)) * kinds).astype(np.int64)
    return np.sort(np.concatenate([kept.astype(np.int64), grown])).astype(np.int32)


def check_balanced(name: str, scheme: Scheme, shape: Shape, kept: np.ndarray) -> None:
    """Raise MaskError, naming the layer, unless its rows can mutate alike: where the scheme is balanced each must keep
    equally many of the kept units, int [n]."""
    rows, columns = scheme.grid(shape)
    of_row = np.bincount(kept // columns, minlength=rows)
    if scheme.balanced and of_row.min() != of_row.max():
        raise MaskError(
            f"Layer {name!r} keeps {of_row.min()} to {of_row.max()} units in its {rows} rows, but scheme "
            f"{scheme.name!r} mutates only where all rows keep equally many: give it another mask or no mutation."
        )


def _check_count(scheme: Scheme, shape: Shape, count: int) -> None:
    """Raise MaskError unless a mask can keep so many units."""
    if not 0 <= count <= scheme.most_kept(shape):
        raise MaskError(
            f"A layer of shape {shape} under scheme {scheme.name!r} can keep 0 to {scheme.most_kept(shape)} units, "
            f"not {count}."
        )


def _quota(scheme: Scheme, shape: Shape, count: int) -> int:
    """Units a row of a balanced scheme."""
    _check_count(scheme, shape, count)
    each, rest = divmod(count, scheme.grid(shape)[0])
    if rest:
        raise MaskError(
            f"{count} units cannot be shared out evenly to the {scheme.grid(shape)[0]} rows of a layer of shape "
            f"{shape}, as scheme {scheme.name!r} needs."
        )
    return each
