"""Optimisers' kernels on OpenCL: dense and compact, tails of quads, several work-groups."""

import pytest

from mest_compiler.optimizers import Optimizer
from mest_compiler.schedules.in_place import Numbers
from mest_compiler.schedules.opencl import update
from mest_compiler.schedules.opencl.emit import Vec
from mest_compiler.schedules.opencl.planes import GROUP

from ..updates import RULES, check_compact, check_dense, check_shared
from .launching import compile_kernels

SHAPES = ((), (3,), (64,), (3, 65), (8, 4 * GROUP), (4 * GROUP + 5,))
OFTEN = ((0, "float32"), (1, "float64"), (6, "float32"), (8, "float64"))
"""In the default suite; all are in the slow one."""


def rules() -> list:
    """Each with both dtypes."""
    pairs = [(i, dtype) for i in range(len(RULES)) for dtype in ("float32", "float64")]
    return [pytest.param(RULES[i], d, marks=() if (i, d) in OFTEN else pytest.mark.slow) for i, d in pairs]


@pytest.mark.parametrize(("rule", "dtype"), rules())
def test_dense(rule: Optimizer, dtype: str) -> None:
    vec = Vec(64, dtype)
    for shape, kernel in compile_kernels(
        {shape: update.update(rule, Numbers(shape), vec, 1) for shape in SHAPES}
    ).items():
        check_dense(kernel, rule, shape, dtype)


UNITS = ((1, "int32"), (4, "uint16"), (27, "int32"))
LAYERS = ((1, RULES[1]), (13, RULES[7]), (2 * GROUP, RULES[8]))


# Each twice; the other pairs are slow.
@pytest.mark.parametrize(
    ("capacity", "rule", "unit_size", "dtype"),
    [
        pytest.param(*layer, *unit, marks=pytest.mark.slow if (i + j) % 3 == 1 else ())
        for i, layer in enumerate(LAYERS)
        for j, unit in enumerate(UNITS)
    ],
)
def test_compact_updates_what_is_filled_and_nothing_else(
    capacity: int, rule: Optimizer, unit_size: int, dtype: str
) -> None:
    vec = Vec(64, "float32")
    kernel = compile_kernels({"update": update.update(rule, Numbers((capacity, unit_size), dtype), vec, 1)})["update"]
    check_compact(kernel, rule, capacity, unit_size, dtype)


@pytest.mark.parametrize("rule", [RULES[1], RULES[8]], ids=str)
def test_gradients_of_parts_are_divided_by_their_weight(rule: Optimizer) -> None:
    vec, shape = Vec(64, "float32"), (3, 65)
    kernel = compile_kernels({"update": update.update(rule, Numbers(shape), vec, 1, shared=True)})["update"]
    check_shared(kernel, rule, shape, "float32")
