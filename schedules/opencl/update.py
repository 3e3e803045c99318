"""An optimiser's step in place on OpenCL devices: on dense weights and on the filled part of compact ones."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.optimizers import Optimizer

from ..emit import Buffer, Expr, Index, function
from .each_number import Place, each_number
from .emit import Vec, flat


def _arguments(
    rule: Optimizer, shape: tuple[int, ...], vec: Vec, shared: bool
) -> tuple[dict[str, Buffer], list[Buffer]]:
    """W, the slots and G; the hypers, and the weight by which gradients are divided."""
    tensors = {name: T.arg(name, T.buffer(shape, vec.dtype)) for name in ("W", *rule.slots, "G")}
    scalars = [T.arg("HYPER", T.buffer((len(rule.hypers),), vec.dtype))]
    return tensors, scalars + ([T.arg("WEIGHT", T.buffer((), vec.dtype))] if shared else [])


def _run(
    rule: Optimizer,
    vec: Vec,
    size: int,
    filled: Callable[[], Expr] | None,
    tensors: dict[str, Buffer],
    scalars: list[Buffer],
) -> None:
    tensors = {name: flat(buffer) for name, buffer in tensors.items()}
    hyper, *weight = scalars

    def body(place: Place) -> None:
        old = {name: place.read(buffer) for name, buffer in tensors.items()}
        h = {name: place.splat(hyper[k]) for k, name in enumerate(rule.hypers)}
        for one in weight:
            old["G"] = T.Bind(old["G"] / place.splat(one[()]))
        w, slots = rule.update(place, old["W"], old["G"], {slot: old[slot] for slot in rule.slots}, h)
        for name, value in (slots | {"W": w}).items():
            place.write(tensors[name], value)

    each_number(vec, size, filled, body)


def dense(rule: Optimizer, shape: tuple[int, ...], vec: Vec, chunks: int, shared: bool = False) -> tirx.PrimFunc:
    """Whole tensors. Arguments: W, the slots, G [shape], HYPER [hypers], and if `shared` WEIGHT [], by which G is
    divided. `chunks` is for other kinds of devices."""

    def emit() -> None:
        tensors, scalars = _arguments(rule, shape, vec, shared)
        _run(rule, vec, prod(shape), None, tensors, scalars)

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

    def emit() -> None:
        tensors, scalars = _arguments(rule, (capacity, unit_size), vec, shared)
        entries_ = Index(T.arg("ENTRIES", T.buffer((1,), entries)))
        _run(rule, vec, capacity * unit_size, lambda: entries_[0] * unit_size, tensors, scalars)

    return function(f"{rule.name}_compact", emit)
