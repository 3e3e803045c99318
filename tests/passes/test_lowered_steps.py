"""Whole lowered modules: no dense trace of a sparse layer, no needless change of layout, updates in place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from torch import nn
from tvm import relax

from mest_compiler import models
from mest_compiler.devices import local_cpu
from mest_compiler.errors import ModelError
from mest_compiler.frontend import TrainingGraph, ops, trace
from mest_compiler.frontend.signing import signed
from mest_compiler.kernels.problem import DIRECTIONS, LayerProblem
from mest_compiler.optimizers import Sgd
from mest_compiler.passes.pipeline import lower
from mest_compiler.passes.program import op_name, shape_of
from mest_compiler.passes.sparsify_layers import SparsifyLayers
from mest_compiler.passes.step_program import StepProgram
from mest_compiler.schedules.choice import Choice
from mest_compiler.signature import Role
from mest_compiler.sparsity.layer_spec import SparseLayerSpec
from mest_compiler.sparsity.profile import Profile
from mest_compiler.sparsity.schemes import get_scheme

from .programs import bindings, kernel_calls, operators, size_of, tensors

RULE = Sgd(0.9, 5e-4, False)


def plan(graph: TrainingGraph, scheme: str, sparsity: float = 0.7) -> dict[str, SparseLayerSpec]:
    """Every convolution that a uniform profile makes sparse."""
    shapes = {name: c.shape for name, c in graph.convolutions.items() if c.groups == 1}
    kind = get_scheme(scheme)
    return {
        name: SparseLayerSpec(scheme, shapes[name], kind.kept_units(shapes[name], sparsity))
        for name in Profile.uniform(scheme, sparsity).assign(shapes)
    }


def lowered(
    model: nn.Module, shape: tuple[int, int, int], scheme: str, batch: int = 6
) -> tuple[TrainingGraph, StepProgram]:
    """A model's step and prediction as kernels."""
    return _with_kernels(trace(model, torch.zeros(batch, *shape)), scheme)


def _with_kernels(graph: TrainingGraph, scheme: str) -> tuple[TrainingGraph, StepProgram]:
    return graph, lower(graph, plan(graph, scheme), RULE, local_cpu(1))


# Widths and planes for which no activation has as many numbers as a weight.
NETWORKS = {"resnet20": (1.25, (3, 8, 8)), "vgg19_bn": (0.3125, (3, 32, 32))}
# Blocks of any size have the kernels of single weights.
SCHEMES = ("unstructured", pytest.param("block:4x4", marks=pytest.mark.slow), "pattern", "channel")
KERNELS = {"unstructured": "block", "block:4x4": "block", "pattern": "body", "channel": "planes"}


@cache
def traced(name: str) -> TrainingGraph:
    """A network of the registry, traced once for all schemes; nobody may change it."""
    width, shape = NETWORKS[name]
    torch.manual_seed(0)
    return trace(models.build(name, classes=7, in_channels=3, width=width), torch.zeros(6, *shape))


@cache
def built(name: str, scheme: str) -> tuple[TrainingGraph, StepProgram]:
    """It as kernels; nobody may change it."""
    return _with_kernels(traced(name), scheme)


@pytest.fixture(params=SCHEMES)
def resnet(request: pytest.FixtureRequest) -> tuple[TrainingGraph, StepProgram]:
    """ResNet-20 under each scheme."""
    return built("resnet20", request.param)


@pytest.fixture(
    params=[
        *(("resnet20", scheme) for scheme in ("unstructured",)),
        *(pytest.param(("resnet20", scheme), marks=pytest.mark.slow) for scheme in ("pattern", "channel", "block:4x4")),
        pytest.param(("vgg19_bn", "block"), marks=pytest.mark.slow),
    ],
    ids="-".join,
)
def network(request: pytest.FixtureRequest) -> tuple[TrainingGraph, StepProgram]:
    """Both networks under several schemes."""
    return built(*request.param)


def test_nothing_dense_of_a_sparse_layer_is_left(network) -> None:
    graph, result = network
    sparse = {p for p, layer in result.layers.items() if layer.problem.sparse is not None}
    assert sparse and sparse == set(plan(graph, next(result.layers[p].problem.sparse.scheme for p in sparse)))
    sizes = {size_of(graph.convolutions[p].shape): p for p in sparse}
    shapes = {tuple(graph.convolutions[p].shape): p for p in sparse}
    floats = [t for t in tensors(result.module) if t[2].startswith("float")]
    assert len(floats) > 100
    for where, shape, _ in floats:
        assert shape not in shapes, f"{where} has the shape of {shapes[shape]}"
        assert size_of(shape) not in sizes, f"{where} {shape} has as many numbers as {sizes[size_of(shape)]}"


def test_the_check_for_dense_tensors_sees_them() -> None:
    graph = traced("resnet20")
    module = lower(graph, {}, RULE, local_cpu(1)).module
    shape = tuple(graph.convolutions["layer1.0.conv1.weight"].shape)
    places = {where.split(":")[0] for where, found, _ in tensors(module) if found == shape}
    kinds = {name.rstrip("_0123456789") for name in places}
    assert {"step", "predict", "dense_forward", "dense_backward_data", "dense_backward_weight", "sgd"} <= kinds


def test_layout_changes_once_where_the_image_enters(network) -> None:
    _, result = network
    for function in ("step", "predict"):
        calls = kernel_calls(result.module, function)
        assert calls["tile_in"] == 1 and calls["tile_out"] == 0
        assert calls["add_border"] == 0  # whoever writes an activation writes the border its readers want


def sparse_layers(result: StepProgram) -> dict[str, SparseLayerSpec]:
    """Those by parameter name."""
    return {p: layer.problem.sparse for p, layer in result.layers.items() if layer.problem.sparse is not None}


def test_kernels_of_a_step(resnet) -> None:
    graph, result = resnet
    calls, layers, sparse = kernel_calls(result.module, "step"), len(graph.convolutions), sparse_layers(result)
    kind, dense = KERNELS[next(iter(sparse.values())).scheme], layers - len(sparse)
    assert dense == (3 if kind == "body" else 1)  # the first; patterns leave the two 1x1 projections too
    # The second convolution of a residual block computes the normalisation in front of it itself.
    second = {p for p in graph.convolutions if p.endswith("conv2.weight")}
    assert calls[f"{kind}_forward_normalised"] == calls["batch_statistics"] == len(second) and second <= set(sparse)
    assert calls[f"{kind}_forward"] + len(second) == calls[f"{kind}_backward_weight"] == len(sparse)
    assert calls["dense_forward"] == calls["dense_backward_weight"] == dense
    assert calls[f"{kind}_backward_data"] == len(sparse)
    assert calls["dense_backward_data"] == dense - 1  # the image gets no gradient
    assert calls["normalise"] + len(second) == calls["normalise_backward"] == layers
    assert calls["sgd_compact"] == len(sparse) and calls["sgd"] == len(graph.parameters) - len(sparse)
    assert calls["assign"] == layers  # the batch counters; running statistics are updated where they are
    assert calls["add"] == layers + 1  # of the batch counters, and the classifier's bias
    assert not {name for name in calls if name.startswith(("relu", "batch_norm", "conv2d", "expand", "compact"))}
    predicted = kernel_calls(result.module, "predict")
    assert predicted["normalise_inference"] == layers and predicted[f"{kind}_forward"] == len(sparse)


def test_equal_layers_share_their_kernels(resnet) -> None:
    _, result = resnet
    sparse = sparse_layers(result)
    kind = KERNELS[next(iter(sparse.values())).scheme]
    names = [gvar.name_hint for gvar in result.module.functions]
    kinds = [name.rstrip("_0123456789") for name in names]
    # 3 shapes of 3x3 layers, 2 of stride 2, 2 projections
    wanted = 5 if kind == "body" else 7
    assert len(sparse) > wanted
    for direction in DIRECTIONS:
        # 3 shapes stand behind batch norms with and without a residual, and only without it is that computed again
        recompute = 3 if direction == "backward_weight" else 0
        assert kinds.count(f"{kind}_{direction}") == wanted + recompute


def test_a_dense_kernel_between_expansion_and_compaction() -> None:
    graph = traced("resnet20")
    layers = plan(graph, "unstructured", 0.6)

    def zeros(direction: str, layer: LayerProblem, found: Sequence[Choice]) -> Choice:
        return next((choice for choice in found if choice.family == "zeros"), found[0])  # dense layers have none

    result = lower(graph, layers, RULE, local_cpu(1), zeros)
    calls = kernel_calls(result.module, "step")
    assert calls["expand"] == 2 * len(layers) and calls["compact"] == len(layers)
    forward = calls["dense_forward"] + calls["dense_forward_normalised"]
    assert forward == calls["dense_backward_weight"] == len(graph.convolutions)
    assert kernel_calls(result.module, "predict")["expand"] == len(layers)
    assert {arg.part for arg in result.signature["step"].of(Role.INDEX)} == {"entries", "place"}


def test_every_update_is_in_place(network) -> None:
    graph, result = network
    step = result.module["step"]
    defined = dict(bindings(result.module, "step"))
    p, b = len(graph.parameters), len(graph.buffers)
    parameters, buffers = step.params[:p], step.params[p : p + b]
    momenta = step.params[-1 - p : -1]
    sparse = [i for i, name in enumerate(graph.parameters) if name in sparse_layers(result)]
    _, _, *rest = outputs = program_outputs(step)
    gradients, updated = rest[: len(sparse)], rest[len(sparse) : len(sparse) + 2 * p + b]
    # behind them the arguments that no step changes: x, y, index arrays and the learning rate
    others = rest[len(sparse) + 2 * p + b :]
    assert [value.name for value in others] == [a.name for a in (*step.params[p + b : -1 - p], step.params[-1])]
    handed_out = result.signature["step"].handed_out
    assert len(handed_out) == len(step.params) == len(set(handed_out.values()))
    for at, argument in enumerate(step.params):
        value = outputs[handed_out[at]]
        assert value.same_as(argument) or written_in_place(value, defined, argument), argument.name
    # a gradient for each sparse layer, compact as its values are: what a mutation needs
    assert [shape_of(gradient) for gradient in gradients] == [shape_of(parameters[i]) for i in sparse]
    for i, (weight, momentum) in enumerate(zip(parameters, momenta, strict=True)):
        assert written_in_place(updated[2 * i], defined, weight), weight.name
        assert written_in_place(updated[2 * i + 1], defined, momentum), momentum.name
    for value, old in zip(updated[2 * p :], buffers, strict=True):
        assert written_in_place(value, defined, old), old.name
    copies = [name for name in operators(result.module) if "copy" in name or "clone" in name]
    assert copies == []


def program_outputs(function: relax.Function) -> list[relax.Expr]:
    """Fields of the tuple that a function returns."""
    bound = {binding.var: binding.value for block in function.body.blocks for binding in block.bindings}
    result = function.body.body
    while isinstance(result, relax.Var):
        result = bound[result]
    return list(result.fields)


def written_in_place(value: relax.Expr, defined: dict, old: relax.Var) -> bool:
    """Whether a value is the output of an in-place call that stands in `old`."""
    index = 0
    while not (isinstance(value, relax.Var) and op_name(defined[value]) == "relax.call_tir_inplace"):
        value = defined[value] if isinstance(value, relax.Var) else value
        if isinstance(value, relax.TupleGetItem):
            index, value = int(value.index), value.tuple_value
    call = defined[value]
    place = int(call.attrs.inplace_indices[index])
    return place >= 0 and call.args[1].fields[place].same_as(old)


def test_a_sparse_weight_that_others_read_is_refused() -> None:
    tensor = relax.TensorType
    x, w = relax.Var("x", tensor((2, 3, 4, 4), "float32")), relax.Var("w", tensor((4, 3, 1, 1), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("step", [w, x]):
        with builder.dataflow():
            attrs = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1, "param": "body.conv.weight"}
            y = builder.emit(ops.conv2d(x, w, oshape=(2, 4, 4, 4), **attrs))
            result = builder.emit_output(relax.Tuple([y, builder.emit(relax.op.sum(w))]))
        builder.emit_func_output(result)
    module = builder.finalize()
    arguments = [(Role.PARAMETER, "body.conv.weight"), (Role.INPUT, "x")]
    signature = {"step": signed(module["step"], arguments, [(Role.OUTPUT, name, None) for name in ("y", "sum")])}
    layers = {"body.conv.weight": SparseLayerSpec("unstructured", (4, 4, 1, 1), 3)}
    with pytest.raises(ModelError, match=r"'body\.conv\.weight' is read by relax\.sum, .*keep that layer dense"):
        SparsifyLayers(layers)(StepProgram(module, signature))


def test_geometry_and_index_arrays_are_those_of_the_arguments(resnet) -> None:
    _, result = resnet
    dtypes = set()
    for function in ("step", "predict"):
        for name, place in result.signature[function].places(Role.INDEX).items():
            param, _, array = name.rpartition("/")
            form, var = result.layers[param].forms()[array], result.module[function].params[place]
            assert [int(n) for n in var.ty.shape] == [form.length]
            assert str(var.ty.dtype) == form.dtype
            dtypes.add(form.dtype)
    assert {arg.part for arg in result.signature["step"].of(Role.INDEX)} >= {"entries"}
    assert "uint16" in dtypes
