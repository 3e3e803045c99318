"""AccumulateGradients on a small traced model: what the step hands out and writes in place, and what `update` takes."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import tvm
from torch import nn
from tvm import relax

from mest_compiler.devices import local_cpu
from mest_compiler.frontend import TrainingGraph, trace
from mest_compiler.optimizers import Sgd
from mest_compiler.passes.accumulate_gradients import AccumulateGradients
from mest_compiler.passes.pipeline import tile
from mest_compiler.passes.program import Program, op_name, shape_of
from mest_compiler.signature import UPDATE
from mest_compiler.sparsity.layer_spec import SparseLayerSpec

from .programs import bindings, kernel_calls

SPARSE = "3.weight"
LAYERS = {SPARSE: SparseLayerSpec("unstructured", (8, 8, 3, 3), 50)}


@cache
def modules() -> tuple[TrainingGraph, tvm.IRModule, tvm.IRModule]:
    """The traced model, and its module before and after; nobody may change them."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip
    graph = trace(model, torch.zeros(4, 3, 7, 7), in_parts=True)
    cpu = local_cpu(1)
    tiled = tile(graph, LAYERS, cpu)
    return graph, tiled.module, AccumulateGradients(cpu, Sgd(0.9, 5e-4, False))(tiled).module


def written(mod: tvm.IRModule, function: str) -> list[relax.Var]:
    """The parameters that a function writes in place, in the order in which it hands them out."""
    defined, found = dict(bindings(mod, function)), []
    for value in Program.of(mod[function]).outputs:
        while isinstance(value, relax.Var) and isinstance(defined[value], relax.Var):
            value = defined[value]
        item, index = defined[value], 0
        if isinstance(item, relax.TupleGetItem):
            item, index = defined[item.tuple_value], int(item.index)
        if op_name(item) == "relax.call_tir_inplace" and int(item.attrs.inplace_indices[index]) >= 0:
            found.append(item.args[1].fields[int(item.attrs.inplace_indices[index])])
    return found


def test_a_step_adds_its_gradients_to_the_sums() -> None:
    graph, before, after = modules()
    old, new = before["step"], after["step"]
    added = list(new.params)[len(old.params) :]
    sums, first = added[:-1], added[-1]
    assert [p.name for p in new.params][: len(old.params)] == [p.name for p in old.params]
    # of the gradients, and of the loss's weight
    assert [shape_of(s) for s in sums] == [*(shape_of(w) for w in new.params[: len(graph.parameters)]), ()]
    assert (shape_of(first), str(first.ty.dtype)) == ((), "int32")
    buffers = new.params[len(graph.parameters) :][: len(graph.buffers)]
    assert [v.name for v in written(after, "step")] == [v.name for v in (*sums, *buffers)]
    assert len(Program.of(new).outputs) == 3 + len(sums) + len(buffers)
    calls = kernel_calls(after, "step") - kernel_calls(before, "step")
    assert calls == {"accumulate": len(sums) - 1, "accumulate_compact": 1, "assign": 1}


def test_the_update_writes_weights_and_momenta() -> None:
    graph, _, after = modules()
    update, count = after[UPDATE], len(graph.parameters)
    weights, entries, sums, weight, momenta, hyper = (
        update.params[:count], update.params[count], update.params[count + 1 : 2 * count + 1],
        update.params[2 * count + 1], update.params[2 * count + 2 : -1], update.params[-1],
    )  # fmt: skip
    assert [shape_of(v) for v in weights] == [shape_of(v) for v in sums] == [shape_of(v) for v in momenta]
    assert shape_of(entries) == (1,) and shape_of(weight) == () and shape_of(hyper) == (3,)
    assert [v.name for v in written(after, UPDATE)] == [
        v.name for pair in zip(weights, momenta, strict=True) for v in pair
    ]
    assert kernel_calls(after, UPDATE) == {"sgd": count - 1, "sgd_compact": 1}
    read = {v.name for _, call in bindings(after, UPDATE) if op_name(call) for v in call.args[1].fields}
    assert read == {p.name for p in update.params}


@pytest.mark.parametrize("function", ["predict"])
def test_prediction_is_left_as_it_was(function: str) -> None:
    _, before, after = modules()
    assert kernel_calls(before, function) == kernel_calls(after, function)
    tvm.ir.assert_structural_equal(before[function].ret_ty, after[function].ret_ty)
