"""What a traced graph says about its model, and that tracing leaves the model alone."""

import numpy as np
import pytest
import torch
from torch import nn
from tvm import relax

from mest_compiler.frontend import Convolution, ops, trace
from mest_compiler.signature import Arg, Role


def make_model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))


@pytest.fixture
def model_and_graph(batch):
    model = make_model()
    x, _ = batch(torch.float32)
    return model, trace(model, x)


def test_names_and_shapes(model_and_graph):
    _, graph = model_and_graph
    assert graph.parameters == ("0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias")
    assert graph.buffers == ("1.running_mean", "1.running_var", "1.num_batches_tracked")
    assert graph.step.arguments[-2:] == (
        Arg(Role.INPUT, "x", (4, 3, 8, 8), "float32"),
        Arg(Role.TARGET, "y", (4,), "int64"),
    )
    assert graph.step.results[:2] == (
        Arg(Role.LOSS, "loss", (), "float32"),
        Arg(Role.OUTPUT, "output", (4, 5), "float32"),
    )
    assert (graph.batch, graph.dtype) == (4, "float32")
    assert graph.convolutions == {
        "0.weight": Convolution("0.weight", (8, 3, 3, 3), (2, 2), (1, 1), (1, 1), 1, (8, 8), (4, 4))
    }
    assert list(graph.state) == [*graph.parameters, *graph.buffers]


def test_functions_are_one_dataflow_block_returning_its_output(model_and_graph):
    _, graph = model_and_graph
    relax.analysis.well_formed(graph.module)
    for name, arguments in (("step", 6 + 3 + 2), ("predict", 6 + 3 + 1)):
        function = graph.module[name]
        assert len(function.params) == arguments
        (block,) = function.body.blocks
        assert isinstance(block, relax.DataflowBlock)
        assert function.body.body.same_as(block.bindings[-1].var)
    names = [v.name for v in graph.module["predict"].params]
    assert names[:2] == ["_0_weight", "_0_bias"]
    assert all(name.isidentifier() for name in names)  # kernels in C call their arguments so
    assert len(graph.module["step"].ret_ty.fields) == 2 + 6 + 3


def test_state_is_a_copy(model_and_graph):
    model, graph = model_and_graph
    before = graph.state["0.weight"].copy()
    with torch.no_grad():
        model[0].weight.zero_()
    np.testing.assert_array_equal(graph.state["0.weight"], before)


def test_model_is_left_as_it_was(batch):
    model = make_model().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x, _ = batch(torch.float32)
    trace(model, x)
    assert not model.training and not model[1].training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_convolutions_carry_their_parameter_and_no_gradient_flows_into_the_input(model_and_graph):
    _, graph = model_and_graph
    layers = []

    def note(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call) and getattr(expr.op, "name", "").startswith("mest.conv2d"):
            layers.append((expr.op.name, ops.attributes(expr)["param"]))

    relax.analysis.post_order_visit(graph.module["step"], note)
    assert layers == [("mest.conv2d", "0.weight"), ("mest.conv2d_backward_weight", "0.weight")]


def test_views_that_cancel_leave_nothing(batch):
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x, _ = batch(torch.float32)
    text = trace(model, x).module["step"].script()
    assert "reshape" not in text
    assert "mest.global_avg_pool" in text and "mest.spatial_broadcast" in text
