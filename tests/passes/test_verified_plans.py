"""Plans that the planner makes, of drawn programs and of networks, pass the verifier; with one tensor moved, they do as
long as every call finds what earlier ones left."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product

import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from mest_compiler.compile import planned_memory
from mest_compiler.devices import get_device, local_cpu
from mest_compiler.errors import MemoryLimitError, PlanError
from mest_compiler.passes.fit_memory import Fitter
from mest_compiler.passes.options import PLAIN, StepOptions
from mest_compiler.passes.pipeline import build
from mest_compiler.passes.plan_memory import PlanMemory, tensor_bytes
from mest_compiler.passes.program import op_name
from mest_compiler.passes.step_program import StepProgram
from mest_compiler.passes.verify_plan import verify_plan

from ..whole_step.cases import Case, model_of
from .programs import bindings, parsed

# ---- drawn programs
SIZES = (64, 100, 256)  # float32
Call = tuple[int, int, int]
"""Size of what it makes, and the two that it reads: numbers of earlier calls, or -1 for the argument."""


@st.composite
def programs(draw: st.DrawFn) -> list[Call]:
    """Calls in order."""
    count = draw(st.integers(2, 8))
    return [(draw(st.sampled_from(SIZES)), *(draw(st.integers(-1, i - 1)) for _ in range(2))) for i in range(count)]


@cache
def mixes() -> tvm.IRModule:
    """A kernel for every two sizes that are read and size that is made."""
    kernels = ""
    for p, q, r in product(SIZES, repeat=3):
        args = ", ".join(f'{name}: T.Buffer(({size},), "float32")' for name, size in (("a", p), ("b", q), ("y", r)))
        kernels += f"""
    @T.prim_func(private=True)
    def mix_{p}_{q}_{r}({args}):
        for i in range({r}):
            y[i] = a[i % {p}] + b[i % {q}]
"""
    return parsed(f"@I.ir_module\nclass Module:{kernels}")


def module_of(calls: list[Call]) -> tvm.IRModule:
    """The program before its memory is planned; the last call's result is returned."""
    argument = relax.Var("x", relax.TensorType((SIZES[0],), "float32"))
    builder, made = relax.BlockBuilder(mixes()), {-1: argument}
    with builder.function("step", [argument], attrs={"relax.force_pure": True}):
        for i, (size, *read) in enumerate(calls):
            shape = relax.ShapeExpr([size])
            out = builder.emit(relax.op.builtin.alloc_tensor(shape, "float32", 0), f"m{i}")
            sizes = [int(made[n].ty.shape[0]) for n in read]
            kernel = mixes().get_global_var("_".join(map(str, ("mix", *sizes, size))))
            builder.emit(relax.Call(kernel, [*(made[n] for n in read), out]))
            made[i] = builder.emit(out, f"v{i}")
        builder.emit_func_output(made[len(calls) - 1])
    return builder.get()


def places(mod: tvm.IRModule) -> dict[str, int]:
    """Offset of each tensor in the arena, by name without `_part`."""
    placed = [(var, expr) for var, expr in bindings(mod, "step") if op_name(expr) == "relax.memory.alloc_tensor"]
    return {var.name.removesuffix("_part"): int(expr.args[1].value) for var, expr in placed}


def arena_bytes(mod: tvm.IRModule) -> int:
    """Bytes of the one block."""
    (block,) = (expr for _, expr in bindings(mod, "step") if op_name(expr) == "relax.memory.alloc_storage")
    return int(block.args[0].values[0])


def moved(mod: tvm.IRModule, name: str, offset: int) -> tvm.IRModule:
    """The planned module with a tensor elsewhere in the arena."""
    builder, changed = relax.BlockBuilder(), []
    for var, expr in bindings(mod, "step"):
        if var.name == f"{name}_part":
            block, _, *form = expr.args
            expr = builder.normalize(relax.op.memory.alloc_tensor(block, offset, *form[:2]))
        changed.append(relax.VarBinding(var, expr))
    step = mod["step"]
    body = relax.SeqExpr([relax.BindingBlock(changed)], step.body.body)
    new = tvm.IRModule(dict(mod.functions.items()), attrs=mod.attrs)
    new.update_func(
        mod.get_global_var("step"), relax.Function(step.params, body, step.ret_ty, step.is_pure, step.attrs)
    )
    return new


def computes(calls: list[Call], offsets: dict[str, int]) -> bool:
    """Whether every call finds what earlier calls left, followed byte by byte, and none writes what it reads."""
    owner: dict[int, int] = {}

    def held(n: int) -> range:
        start = offsets.get(f"m{n}", 0)
        return range(start, start + 4 * calls[n][0]) if f"m{n}" in offsets else range(0)

    for i, (_, *read) in enumerate(calls):
        for n in read:
            if n >= 0 and (any(owner[byte] != n for byte in held(n)) or set(held(n)) & set(held(i))):
                return False
        owner |= dict.fromkeys(held(i), i)
    return True


@settings(deadline=None, max_examples=25)
@given(programs(), st.data())
def test_the_verdict_is_that_of_following_every_byte(calls: list[Call], data: st.DataObject) -> None:
    planned, _ = PlanMemory().planned(module_of(calls))
    verify_plan(planned, local_cpu(1), {})
    offsets = places(planned)
    assert computes(calls, offsets)
    if not offsets:
        return
    name = data.draw(st.sampled_from(sorted(offsets)))
    room = arena_bytes(planned) - 4 * calls[int(name[1:])][0]
    offset = 64 * data.draw(st.integers(0, room // 64))
    changed = moved(planned, name, offset)
    if computes(calls, offsets | {name: offset}):
        verify_plan(changed, local_cpu(1), {})
    else:
        with pytest.raises(PlanError, match=rf"{name} \(bytes .* share \d+ bytes"):
            verify_plan(changed, local_cpu(1), {})


@settings(deadline=None, max_examples=10)
@given(programs())
def test_blocks_of_one_tensor_at_a_time_pass(calls: list[Call]) -> None:
    planned, _ = PlanMemory(offsets=False).planned(module_of(calls))
    verify_plan(planned, get_device("opencl"), {})


# ---- networks
HALF, UPPER_HALF = StepOptions(stored="float16"), StepOptions(stored="bfloat16")
PARTS, LIMITED = StepOptions(micro_batch=2), StepOptions(memory_limit=1, micro_batch=4)
SUMS = StepOptions(forward_sums=True, backward_sums=True)
UNFUSED = StepOptions(weight_gradients=False, forward_inputs=False)
PLANS = [
    ("cpu", "odd activations", "block", PARTS),
    ("cpu", "pre-activation", "unstructured", LIMITED),
    ("opencl", "pre-activation", "block", HALF),
    ("opencl", "pre-activation", None, StepOptions(schedules="tvm")),
]
NETWORKS = ("resnet20", "vgg19_bn", "mobilenet_v2_cifar", "odd convolutions", "odd activations")
SCHEMES = ("block", "unstructured", None, "pattern", "channel", "filter")
# Every network under every option, the schemes in turn.
SWEEP = [
    (device, network, SCHEMES[(i + k) % len(SCHEMES)], options)
    for device, asked in (("cpu", (UPPER_HALF, SUMS)), ("opencl", (HALF,)))
    for i, network in enumerate(NETWORKS)
    for k, options in enumerate((PLAIN, PARTS, LIMITED, UNFUSED, *asked))
]


@cache
def planned(device: str, network: str, scheme: str | None, options: StepOptions) -> StepProgram:
    """The plan of a network's step, where a limit of one byte stands for the smallest that there is."""
    case, found = Case(network, scheme, dtype="float32", device=device), []
    fit = Fitter.fit

    def plan() -> None:
        asked = {"input_shape": case.shape, "batch": case.batch, "profile": case.profile(), "device": device}
        planned_memory(model_of(case), **asked, options=options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fitter, "fit", lambda *args: found.append(fit(*args)) or found[-1])
        try:
            plan()
        except MemoryLimitError as error:
            options = replace(options, memory_limit=error.smallest)
            plan()
    return found[-1].planned


def check_network(device: str, network: str, scheme: str | None, options: StepOptions) -> None:
    """Fails unless the plan passes, and does not where an argument that it updates is not said to be."""
    found, target = planned(device, network, scheme, options), get_device(device)
    donated = {name: function.donated for name, function in found.signature.items()}
    verify_plan(found.module, target, donated)
    for name, arguments in donated.items():
        if not arguments:
            continue
        with pytest.raises(PlanError, match=f"plan of {name} is wrong: .* writes .*, an argument that is not donated"):
            verify_plan(found.module, target, {**donated, name: set(arguments) - {max(arguments)}})


@pytest.mark.parametrize(("device", "network", "scheme", "options"), PLANS)
def test_plans_of_networks_pass(device: str, network: str, scheme: str | None, options: StepOptions) -> None:
    check_network(device, network, scheme, options)


@pytest.mark.slow
@pytest.mark.parametrize(("device", "network", "scheme", "options"), SWEEP)
def test_plans_of_every_network_pass(device: str, network: str, scheme: str | None, options: StepOptions) -> None:
    check_network(device, network, scheme, options)


def test_no_code_is_made_of_a_wrong_plan() -> None:
    device, right = get_device("cpu"), planned(*PLANS[0])
    offsets = places(right.module)
    sizes = {var.name: tensor_bytes(var.ty) for var, _ in bindings(right.module, "step") if var.name in offsets}
    # The image in batch tiles is read until the first layer's gradient is computed: nearly to the end.
    image, *others = offsets
    other = next(name for name in others if sizes[name] <= sizes[image])
    wrong = moved(right.module, other, offsets[image])
    with pytest.raises(PlanError, match=f"plan of step is wrong: {image} .* and {other} .* share {sizes[other]} bytes"):
        build(replace(right, module=wrong), device)
