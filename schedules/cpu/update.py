"""An optimiser's step in place on any CPU: on dense weights and on the filled part of compact ones."""

from __future__ import annotations

from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.optimizers import Optimizer

from ..emit import Buffer, Expr, Index, function
from .emit import Vec
from .in_chunks import in_chunks


class _Vectors:
    """An optimiser's numbers as vectors; see `optimizers.base.Math`."""

    def __init__(self, vec: Vec) -> None:
        self.const = vec.const

    def sqrt(self, value: Expr) -> Expr:
        """Of each lane."""
        return T.sqrt(value)

    def bind(self, value: Expr) -> Expr:
        """Into a variable."""
        return T.Bind(value)


class _Scalars(_Vectors):
    """One by one."""

    def __init__(self, vec: Vec) -> None:
        self.const = lambda value: tirx.const(value, vec.dtype)


def _run(
    rule: Optimizer, vec: Vec, tensors: dict[str, Buffer], scalars: list[Buffer], start: Expr, count: Expr
) -> None:
    """Vectors first, then what is left one by one. tensors: W, G and the slots; scalars: HYPER, and WEIGHT if any."""

    def step(m: _Vectors, at: Expr, h: dict[str, Expr]) -> None:
        old = {name: T.Bind(buffer[at]) for name, buffer in tensors.items()}
        if "weight" in h:
            old["G"] = T.Bind(old["G"] / h["weight"])
        w, slots = rule.update(m, old["W"], old["G"], {slot: old[slot] for slot in rule.slots}, h)
        for name, value in (slots | {"W": w}).items():
            T.buffer_store(tensors[name], value, [at])

    hyper, *weight = scalars
    numbers = {name: T.Bind(hyper[k]) for k, name in enumerate(rule.hypers)}
    if weight:
        numbers["weight"] = T.Bind(weight[0][()])
    wide = {name: vec.splat(number) for name, number in numbers.items()}
    vectors = T.Bind(T.truncdiv(count, vec.lanes))
    with T.serial(vectors) as i:
        step(_Vectors(vec), vec.ramp(start + i * vec.lanes), wide)
    with T.serial(count - vectors * vec.lanes) as i:
        step(_Scalars(vec), start + vectors * vec.lanes + i, numbers)


def _arguments(
    rule: Optimizer, shape: tuple[int, ...], vec: Vec, shared: bool
) -> tuple[dict[str, Buffer], list[Buffer]]:
    """W, the slots and G; the hypers, and the weight by which gradients are divided."""
    tensors = {name: T.arg(name, T.buffer(shape, vec.dtype)) for name in ("W", *rule.slots, "G")}
    scalars = [T.arg("HYPER", T.buffer((len(rule.hypers),), vec.dtype))]
    return tensors, scalars + ([T.arg("WEIGHT", T.buffer((), vec.dtype))] if shared else [])


def _flat(tensors: dict[str, Buffer], size: int, dtype: str) -> dict[str, Buffer]:
    return {name: T.decl_buffer((max(size, 1),), dtype, data=b.data) for name, b in tensors.items()}


def dense(rule: Optimizer, shape: tuple[int, ...], vec: Vec, chunks: int, shared: bool = False) -> tirx.PrimFunc:
    """Whole tensors. Arguments: W, the slots, G [shape], HYPER [hypers], and if `shared` WEIGHT [], by which G is
    divided."""
    size = prod(shape)

    def emit() -> None:
        tensors, scalars = _arguments(rule, shape, vec, shared)
        tensors, count = _flat(tensors, size, vec.dtype), T.int32(size)
        in_chunks(size, count, chunks, vec.lanes, lambda start, n: _run(rule, vec, tensors, scalars, start, n))

    return function(rule.name, emit)


def compact(
    rule: Optimizer,
    capacity: int,
    unit_size: int,
    entries: str,
    vec: Vec,
    chunks: int,
    shared: bool = False,
) -> tirx.PrimFunc:
    """The filled part of compact values.

    Arguments: W, the slots, G [capacity, unit_size], HYPER [hypers], if `shared` WEIGHT [], and ENTRIES [1] of the
    integer type `entries`.
    """
    size = capacity * unit_size

    def emit() -> None:
        tensors, scalars = _arguments(rule, (capacity, unit_size), vec, shared)
        filled = Index(T.arg("ENTRIES", T.buffer((1,), entries)))
        tensors = _flat(tensors, size, vec.dtype)
        count = T.Bind(filled[0] * unit_size)
        in_chunks(size, count, chunks, vec.lanes, lambda start, n: _run(rule, vec, tensors, scalars, start, n))

    return function(f"{rule.name}_compact", emit)
