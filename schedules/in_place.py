"""Kernels that change tensors of a weight's shape number by number: the optimisers' steps, and sums of gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.optimizers import Optimizer
from mest_compiler.optimizers.base import Math

from .emit import Buffer, Expr, Index, function

Count = Callable[[], Expr] | None
"""Emits how many numbers there are; None: all of them."""
Body = Callable[[dict[str, Buffer], dict[str, Buffer], Count], None]
"""body(the tensors as one dimension each, the scalars, how many numbers there are)."""


@dataclass(frozen=True)
class Numbers:
    """The numbers of a weight. shape: of a dense one, or [capacity, unit_size] of compact values. entries: integer type
    of the argument that says how many entries those have now, None of a dense one."""

    shape: tuple[int, ...]
    entries: str | None = None

    @property
    def most(self) -> int:
        """How many there can be."""
        return prod(self.shape)


def kernel(
    name: str,
    numbers: Numbers,
    dtype: str,
    tensors: Sequence[str],
    scalars: Mapping[str, tuple[tuple[int, ...], str]],
    body: Body,
) -> tirx.PrimFunc:
    """A kernel of one of each weight.

    Arguments: the tensors, each of the numbers' shape; the scalars, each of its shape and dtype; and of compact values
    ENTRIES [1].
    """

    def emit() -> None:
        whole = {key: T.arg(key, T.buffer(numbers.shape, dtype)) for key in tensors}
        given = {key: T.arg(key, T.buffer(*form)) for key, form in scalars.items()}
        entries = None if numbers.entries is None else T.arg("ENTRIES", T.buffer((1,), numbers.entries))

        def count() -> Expr:
            return Index(entries)[0] * numbers.shape[1]

        flat = {key: T.decl_buffer((max(numbers.most, 1),), dtype, data=b.data) for key, b in whole.items()}
        body(flat, given, None if entries is None else count)

    return function(name if numbers.entries is None else f"{name}_compact", emit)


def tensors_of(rule: Optimizer) -> tuple[str, ...]:
    """The tensors of an optimiser's kernel."""
    return "W", *rule.slots, "G"


def scalars_of(rule: Optimizer, dtype: str, shared: bool) -> dict[str, tuple[tuple[int, ...], str]]:
    """Its scalars; `shared`: with the weight by which gradients are divided."""
    hyper = {"HYPER": ((len(rule.hypers),), dtype)}
    return hyper | {"WEIGHT": ((), dtype)} if shared else hyper


def changed(rule: Optimizer, m: Math, old: Mapping[str, Expr], hypers: Sequence[Expr]) -> dict[str, Expr]:
    """New slots and W from the old tensors and the hypers."""
    slots = {slot: old[slot] for slot in rule.slots}
    w, slots = rule.update(m, old["W"], old["G"], slots, dict(zip(rule.hypers, hypers, strict=True)))
    return slots | {"W": w}
