"""Which kernels can compute a layer on a device."""

from __future__ import annotations

from dataclasses import replace

from mest_compiler.devices import Device
from mest_compiler.kernels.families import FAMILIES
from mest_compiler.kernels.problem import LayerProblem

from . import backend_of
from .choice import Choice
from .generator import Generator
from .partial import Partial

EXPANDED, DENSE = "zeros", ""
"""Names of the families that every kind of device has."""

SPARSEST_DENSE = 0.25
"""Kept share below which the dense kernel, doing 4 times the work, is not even tried beside others."""


def generator(device: Device, family: str) -> Generator:
    """Of a family on a device's kind; KeyError: it has none."""
    return backend_of(device).families[family]


def candidates(direction: str, device: Device, problem: LayerProblem) -> list[Choice]:
    """Kernels that compute a direction of a layer, the one that is probably the fastest first.

    A sparse layer has those of every family that serves it, and the dense one with zeros put back: where much is kept,
    and where there is no other.
    """
    made, own = backend_of(device).families, {}
    for name, family in FAMILIES.items():
        if name in made and family.serves(problem, direction):
            choice = made[name].choice(direction, device, problem)
            if choice is not None:
                own[name] = choice
    if problem.sparse is None:
        return list(own.values())
    if own and problem.kept < SPARSEST_DENSE:
        return list(own.values())
    expanded = _expanded(direction, device, problem)
    likely_dense = not own or problem.kept > FAMILIES[next(iter(own))].dense_above
    return [expanded, *own.values()] if likely_dense else [*own.values(), expanded]


def _expanded(direction: str, device: Device, problem: LayerProblem) -> Choice:
    """The dense kernel, with what puts zeros back before it or takes them out behind it."""
    backend, family = backend_of(device), FAMILIES[EXPANDED]
    dense = backend.families[DENSE].choice(direction, device, LayerProblem(problem.geometry))
    make = backend.generators.zeros.compact if direction == "backward_weight" else backend.generators.zeros.expand
    return replace(dense, family=EXPANDED, beside=Partial(make, problem, family.dtypes(problem, direction, 1)))
