"""Optimisers' kernels on a CPU: dense and compact, vector tails, several chunks."""

import pytest

from mest_compiler.optimizers import Optimizer
from mest_compiler.schedules.cpu import update
from mest_compiler.schedules.cpu.in_chunks import PARALLEL_FROM
from mest_compiler.schedules.in_place import Numbers

from .tiles import NARROW, compile_kernels, vector
from .updates import RULES, check_compact, check_dense, check_shared


# Each rule in one type; in the other one it is slow.
@pytest.mark.parametrize(
    ("rule", "dtype"),
    [
        pytest.param(rule, dtype, marks=() if (i + j) % 2 else pytest.mark.slow, id=f"{rule}-{dtype}")
        for i, rule in enumerate(RULES)
        for j, dtype in enumerate(("float64", "float32"))
    ],
)
def test_dense(rule: Optimizer, dtype: str) -> None:
    vec = vector(NARROW, dtype)
    cases = [((), 1), ((1,), 2), ((vec.lanes,), 1), ((3, vec.lanes + 1), 2), ((PARALLEL_FROM + 5,), 3)]
    kernels = compile_kernels(
        {(shape, chunks): update.update(rule, Numbers(shape), vec, chunks) for shape, chunks in cases}
    )
    for (shape, _), kernel in kernels.items():
        check_dense(kernel, rule, shape, dtype)


UNITS = ((1, "int32"), (4, "uint16"), (27, "int32"))
LAYERS = ((1, RULES[1]), (13, RULES[7]), (PARALLEL_FROM, RULES[8]))


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
    vec = vector(NARROW, "float32")
    kernel = compile_kernels({"update": update.update(rule, Numbers((capacity, unit_size), dtype), vec, 3)})["update"]
    check_compact(kernel, rule, capacity, unit_size, dtype)


@pytest.mark.parametrize("rule", [RULES[1], RULES[8]], ids=str)
def test_gradients_of_parts_are_divided_by_their_weight(rule: Optimizer) -> None:
    vec, shape = vector(NARROW, "float64"), (3, 65)
    kernel = compile_kernels({"update": update.update(rule, Numbers(shape), vec, 1, shared=True)})["update"]
    check_shared(kernel, rule, shape, "float64")
