"""A task as MetaSchedule knows it: the plain definition of what is computed, in a block that knobs are written on."""

from __future__ import annotations

import tvm
from tvm import tirx
from tvm.s_tir import SBlock, SBlockRealize
from tvm.s_tir import meta_schedule as ms

from mest_compiler.devices import Device
from mest_compiler.kernels.families import FAMILIES

from .tasks import FACTS, Task, facts

BLOCK = "task"
"""Name of the block."""


def definition(task: Task) -> tirx.PrimFunc:
    """What the task's kernels compute, with index arrays of one group of planes."""
    return FAMILIES[task.family].definition(task.problem, task.direction, 1)


def workload(task: Task, device: Device) -> tvm.IRModule:
    """The module that a database knows the task by: its definition with the lengths of its arrays, and its `facts`."""
    function = definition(task)
    if task.problem.sparse is not None:
        function = function.specialize(_sized(task, function))
    return ms.tune_context._normalize_mod(_in_block(function).with_attr(FACTS, facts(task, device)))


def _sized(task: Task, function: tirx.PrimFunc) -> dict[tirx.Var, tirx.Buffer]:
    """The parameters of unknown length -> the same with one."""
    layer, g = task.problem, task.problem.geometry
    arrays = [(form.length,) for form in FAMILIES[task.family].index_arrays(layer, task.direction, 1).values()]
    values, sums = layer.held_shape, (layer.held, g.lanes)
    if task.direction == "backward_weight":
        shapes = [None, None, *arrays, values, sums]
    else:
        shapes = [None, values, *arrays, None]
    return {
        param: tirx.decl_buffer(shape, str(param.dtype), param.name)
        for param, shape in zip(function.params, shapes, strict=True)
        if shape is not None
    }


def _in_block(function: tirx.PrimFunc) -> tirx.PrimFunc:
    body = function.body
    for name in (BLOCK, "root"):
        body = SBlockRealize([], tirx.const(True, "bool"), SBlock([], [], [], name, body))
    return tirx.PrimFunc(function.params, body, function.ret_type, function.attrs).with_attr("s_tir", True)
