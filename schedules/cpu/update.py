"""An optimiser's step in place on any CPU: on dense weights and on the filled part of compact ones."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.optimizers import Optimizer

from ..emit import Buffer, Expr
from ..in_place import Count, Numbers, changed, kernel, scalars_of, tensors_of
from .emit import Vec
from .in_chunks import in_chunks


class _Vectors:
    """An optimiser's numbers as vectors; see `optimizers.base.Math`."""

    def __init__(self, vec: Vec) -> None:
        self.const = vec.const

    def sqrt(self, value: Expr) -> Expr:
        """Of each lane."""
        return T.sqrt(value)

    def select(self, condition: Expr, yes: Expr, no: Expr) -> Expr:
        """Lane by lane."""
        return tirx.Select(condition, yes, no)

    def bind(self, value: Expr) -> Expr:
        """Into a variable."""
        return T.Bind(value)


class _Scalars(_Vectors):
    """One by one."""

    def __init__(self, vec: Vec) -> None:
        self.const = lambda value: tirx.const(value, vec.dtype)


def update(rule: Optimizer, numbers: Numbers, vec: Vec, chunks: int, shared: bool = False) -> tirx.PrimFunc:
    """A step of an optimiser.

    Arguments: W, the slots, G; HYPER [hypers], and if `shared` WEIGHT [], by which G is divided; see `in_place.kernel`.
    """

    def body(tensors: dict[str, Buffer], scalars: dict[str, Buffer], count: Count) -> None:
        in_chunks(numbers.most, count, chunks, vec.lanes, lambda start, n: _run(rule, vec, tensors, scalars, start, n))

    return kernel(rule.name, numbers, vec.dtype, tensors_of(rule), scalars_of(rule, vec.dtype, shared), body)


def _run(
    rule: Optimizer, vec: Vec, tensors: dict[str, Buffer], scalars: dict[str, Buffer], start: Expr, count: Expr
) -> None:
    """Vectors first, then what is left one by one."""

    def step(m: _Vectors, at: Expr, hypers: list[Expr], weight: list[Expr]) -> None:
        old = {name: T.Bind(buffer[at]) for name, buffer in tensors.items()}
        for whole in weight:
            old["G"] = T.Bind(old["G"] / whole)
        for name, value in changed(rule, m, old, hypers).items():
            T.buffer_store(tensors[name], value, [at])

    hypers = [T.Bind(scalars["HYPER"][k]) for k in range(len(rule.hypers))]
    weight = [T.Bind(scalars["WEIGHT"][()])] if "WEIGHT" in scalars else []
    wide = [vec.splat(number) for number in hypers], [vec.splat(number) for number in weight]
    vectors = T.Bind(T.truncdiv(count, vec.lanes))
    with T.serial(vectors) as i:
        step(_Vectors(vec), vec.ramp(start + i * vec.lanes), *wide)
    with T.serial(count - vectors * vec.lanes) as i:
        step(_Scalars(vec), start + vectors * vec.lanes + i, hypers, weight)
