"""Whole lowered modules: no dense trace of a sparse layer, no needless change of layout, updates in place."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from tvm import relax

from mest_compiler import models
from mest_compiler.devices import local_cpu
from mest_compiler.errors import ModelError
from mest_compiler.frontend import TrainingGraph, ops, trace
from mest_compiler.passes.pipeline import Lowered, lower
from mest_compiler.passes.program import op_name
from mest_compiler.passes.sparsify_convolutions import SparseLayer, SparsifyConvolutions
from mest_compiler.schedules.cpu.sgd import Sgd
from mest_compiler.sparsity.profile import Profile
from mest_compiler.sparsity.schemes import get_scheme

from .programs import bindings, kernel_calls, operators, size_of, tensors

RULE = Sgd(0.9, 5e-4, False)


def plan(graph: TrainingGraph, scheme: str, sparsity: float = 0.7) -> dict[str, SparseLayer]:
    """Every convolution that a uniform profile makes sparse."""
    shapes = {name: c.shape for name, c in graph.convolutions.items() if c.groups == 1}
    kind = get_scheme(scheme)
    return {
        name: SparseLayer(kind.kept_units(shapes[name], sparsity), kind.block)
        for name in Profile.uniform(scheme, sparsity).assign(shapes)
    }


def lowered(
    model: nn.Module, shape: tuple[int, int, int], scheme: str, batch: int = 6
) -> tuple[TrainingGraph, Lowered]:
    """A model's step and prediction as kernels."""
    graph = trace(model, torch.zeros(batch, *shape), torch.zeros(batch, dtype=torch.int64))
    return graph, lower(graph, plan(graph, scheme), RULE, local_cpu(1))


# Widths and planes for which no activation has as many numbers as a weight.
NETWORKS = {"resnet20": (1.25, (3, 8, 8)), "vgg19_bn": (0.3125, (3, 32, 32))}
SCHEMES = ("unstructured", "block")


@cache
def built(name: str, scheme: str) -> tuple[TrainingGraph, Lowered]:
    """A network of the registry as kernels; nobody may change it."""
    width, shape = NETWORKS[name]
    torch.manual_seed(0)
    return lowered(models.build(name, classes=7, in_channels=3, width=width), shape, scheme)


@pytest.fixture(params=SCHEMES)
def resnet(request: pytest.FixtureRequest) -> tuple[TrainingGraph, Lowered]:
    """ResNet-20 under each scheme."""
    return built("resnet20", request.param)


@pytest.fixture(params=[(name, scheme) for name in NETWORKS for scheme in SCHEMES], ids="-".join)
def network(request: pytest.FixtureRequest) -> tuple[TrainingGraph, Lowered]:
    """Both networks under each scheme."""
    return built(*request.param)


def test_nothing_dense_of_a_sparse_layer_is_left(network) -> None:
    graph, result = network
    sparse = {p: layer for p, layer in result.tiles.layers.items() if layer.block is not None}
    assert len(sparse) == len(graph.convolutions) - 1
    sizes = {size_of(graph.convolutions[p].shape): p for p in sparse}
    shapes = {tuple(graph.convolutions[p].shape): p for p in sparse}
    floats = [t for t in tensors(result.module) if t[2].startswith("float")]
    assert len(floats) > 100
    for where, shape, _ in floats:
        assert shape not in shapes, f"{where} has the shape of {shapes[shape]}"
        assert size_of(shape) not in sizes, f"{where} {shape} has as many numbers as {sizes[size_of(shape)]}"


def test_the_check_for_dense_tensors_sees_them() -> None:
    torch.manual_seed(0)
    model = models.build("resnet20", classes=10, in_channels=3, width=1.25)
    graph = trace(model, torch.zeros(6, 3, 8, 8), torch.zeros(6, dtype=torch.int64))
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


def test_kernels_of_a_step(resnet) -> None:
    graph, result = resnet
    calls, layers = kernel_calls(result.module, "step"), len(graph.convolutions)
    assert calls["forward"] == calls["backward_weight"] == layers - 1
    assert calls["dense_forward"] == calls["dense_backward_weight"] == 1
    assert calls["backward_data"] == layers - 1 and calls["dense_backward_data"] == 0  # the image gets no gradient
    assert calls["normalise"] == calls["normalise_backward"] == layers
    assert calls["sgd_compact"] == layers - 1 and calls["sgd"] == len(graph.parameters) - (layers - 1)
    assert calls["assign"] == layers  # the batch counters; running statistics are updated where they are
    assert calls["add"] == layers  # of the batch counters
    assert not {name for name in calls if name.startswith(("relu", "batch_norm", "conv2d"))}
    predicted = kernel_calls(result.module, "predict")
    assert predicted["normalise_inference"] == layers and predicted["forward"] == layers - 1


def test_equal_layers_share_their_kernels(resnet) -> None:
    _, result = resnet
    names = [gvar.name_hint for gvar in result.module.functions]
    kinds = [name.rstrip("_0123456789") for name in names]
    calls = kernel_calls(result.module, "step")
    # 3 shapes of 3x3 layers, 2 of stride 2, 2 projections
    assert kinds.count("forward") == kinds.count("backward_data") == kinds.count("backward_weight") == 7
    assert calls["forward"] == 20


def test_every_update_is_in_place(network) -> None:
    graph, result = network
    step = result.module["step"]
    defined = dict(bindings(result.module, "step"))
    p, b = len(graph.parameters), len(graph.buffers)
    parameters, buffers = step.params[:p], step.params[p : p + b]
    momenta = step.params[-1 - p : -1]
    _, _, *updated = program_outputs(step)
    assert len(updated) == 2 * p + b
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
    module, layers = builder.finalize(), {"body.conv.weight": SparseLayer(3, 1)}
    with pytest.raises(ModelError, match=r"'body\.conv\.weight' is read by relax\.sum, .*keep that layer dense"):
        SparsifyConvolutions(("body.conv.weight",), layers)(module)


def test_geometry_and_index_arrays_are_those_of_the_arguments(resnet) -> None:
    graph, result = resnet
    first = len(graph.parameters) + len(graph.buffers) + 2
    for function, start in (("step", first), ("predict", first - 1)):
        names = result.tiles.index_names[function]
        params = result.module[function].params[start : start + len(names)]
        for (param, array), var in zip(names, params, strict=True):
            assert [int(n) for n in var.ty.shape] == [result.tiles.layers[param].index_shapes()[array]]
            assert np.dtype(str(var.ty.dtype)) == np.int32
