"""Capture: from a torch module to functional ATen graphs, because the backward pass is cheapest to get from
the one who differentiates anyway.

PyTorch's ahead-of-time autograd traces the forward pass, the loss and the backward pass into one graph
without side effects. Its inputs and outputs are known by descriptors, not by
position, and every node carries the name of the module it comes from in `node.meta["custom"]["module"]`
(backward nodes too), which error messages need later.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.fx.traceback as fx_traceback
from torch import nn
from torch._functorch._aot_autograd.descriptors import (
    BufferAOTInput,
    GradAOTOutput,
    InputMutationAOTOutput,
    ParamAOTInput,
    PlainAOTInput,
    PlainAOTOutput,
    TangentAOTInput,
)
from torch._functorch.aot_autograd import aot_export_joint_with_descriptors
from torch._subclasses.fake_tensor import DataDependentOutputException

from ..errors import ModelError
from ..losses import Loss
from ..losses.outputs import arguments_of, outputs_of
from ..signature import LOSS, WEIGHT, Role
from .needless import CopiesForNeedless
from .origin import OUTSIDE

# WithLoss holds the user's model under this attribute; descriptors name parameters through it.
WRAPPED = "model"


@dataclass(frozen=True)
class CapturedGraph:
    """A functional ATen graph and what its inputs and outputs stand for.

    Attributes
    ----------
    module : the graph, as torch.fx calls it.
    parameters, frozen, buffers : torch name -> placeholder node, in the order of the torch module; frozen ones are
    parameters that need no gradient.
    inputs, targets : their names -> placeholder node.
    tangents : placeholders of the gradient of the loss with respect to itself; the constant 1.
    results : the nodes whose values the function returns, by role and name, in order. step: loss (and its weight), the
    model's outputs, the gradient of every parameter, the new value of every buffer; predict: the outputs.
    """

    module: torch.fx.GraphModule
    parameters: dict[str, torch.fx.Node]
    frozen: dict[str, torch.fx.Node]
    buffers: dict[str, torch.fx.Node]
    inputs: dict[str, torch.fx.Node]
    targets: dict[str, torch.fx.Node]
    tangents: tuple[torch.fx.Node, ...]
    results: dict[tuple[Role, str], torch.fx.Node]


def capture_step(
    model: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    targets: Mapping[str, torch.Tensor],
    loss: Loss,
    in_parts: bool = False,
) -> CapturedGraph:
    """Capture forward, loss and backward of `model` in train mode; the model itself is not changed.

    Parameters
    ----------
    model : maps the inputs to outputs; see `arguments_of` and `outputs_of`.
    inputs, targets : an example batch [N, ...] of each by name; only shapes and dtypes matter.
    loss : of the outputs and targets.
    in_parts : differentiate the loss's sum, and give its weight, instead of the mean.

    Raises
    ------
    ModelError
        if the model cannot be traced, or has a parameter that is shared or unused.
    """
    check_parameters(model, inputs)
    net = WithLoss(copy.deepcopy(model), loss, tuple(inputs), tuple(targets), in_parts).train()
    graph = _export(net, net.model, tuple(tensor.detach() for tensor in (*inputs.values(), *targets.values())))
    placeholders, outputs = _described(graph)
    parameters, frozen, buffers = _state_nodes(placeholders, model)
    new_buffers = buffers | _mutated(outputs)
    for desc in placeholders:
        if isinstance(desc, TangentAOTInput) and desc.output != PlainAOTOutput(idx=0):
            raise ModelError(
                "the model changes a buffer by an operation that autograd would differentiate; "
                "compute the buffer's new value under torch.no_grad()"
            )
    gradients = {_name(d.grad_of): n for d, n in outputs if isinstance(d, GradAOTOutput) and n is not None}
    for name in parameters:
        if name not in gradients:
            raise ModelError(
                f"parameter '{name}' gets no gradient because the loss does not depend on it; remove it from the model"
            )
    user = [n for d, n in sorted(outputs, key=lambda it: getattr(it[0], "idx", 0)) if isinstance(d, PlainAOTOutput)]
    values = dict(zip(net.given, user, strict=True))
    values |= {(Role.GRADIENT, name): gradients[name] for name in parameters}
    values |= {(Role.BUFFER, name): new_buffers[name] for name in buffers}
    nodes = _input_nodes(placeholders)
    return CapturedGraph(
        module=graph,
        parameters=parameters,
        frozen=frozen,
        buffers=buffers,
        inputs=dict(zip(inputs, nodes, strict=False)),
        targets=dict(zip(targets, nodes[len(inputs) :], strict=True)),
        tangents=tuple(n for d, n in placeholders.items() if isinstance(d, TangentAOTInput)),
        results=values,
    )


def capture_predict(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> CapturedGraph:
    """Capture the forward pass of `model` in eval mode (batch norm with its running statistics); the model
    itself is not changed.

    Parameters and errors are those of `capture_step`.
    """
    check_parameters(model, inputs)
    net = Outputs(copy.deepcopy(model), inputs).eval()
    with torch.no_grad():
        graph = _export(net, net.model, tuple(tensor.detach() for tensor in inputs.values()))
    placeholders, outputs = _described(graph)
    parameters, frozen, buffers = _state_nodes(placeholders, model)
    for name in _mutated(outputs):
        raise ModelError(f"the model changes buffer '{name}' in eval mode; a prediction must leave the model as it is")
    user = [n for d, n in outputs if isinstance(d, PlainAOTOutput)]
    return CapturedGraph(
        module=graph,
        parameters=parameters,
        frozen=frozen,
        buffers=buffers,
        inputs=dict(zip(inputs, _input_nodes(placeholders), strict=True)),
        targets={},
        tangents=(),
        results=dict(zip(net.given, user, strict=True)),
    )


def check_parameters(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> None:
    """Refuse what would make a wrong step: no parameters to train, several dtypes, shared parameters.

    Shared ones because the tracer gives every name a gradient of its own instead of their sum.
    """
    names: dict[int, str] = {}
    dtypes: dict[torch.dtype, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in names:
            raise ModelError(
                f"parameters '{names[id(parameter)]}' and '{name}' are one tensor; "
                "give each layer a parameter of its own"
            )
        names[id(parameter)] = name
        dtypes.setdefault(parameter.dtype, name)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError("the model has no parameters that are trained; there is nothing to train")
    if len(dtypes) > 1:
        listed = ", ".join(f"'{name}' is {_spelled(dtype)}" for dtype, name in dtypes.items())
        raise ModelError(f"all parameters must have one dtype, but {listed}; convert the model with .to(dtype)")
    (dtype,) = dtypes
    if dtype not in (torch.float32, torch.float64):
        raise ModelError(f"parameters must be float32 or float64, but are {_spelled(dtype)}; convert the model")
    for name, x in inputs.items():
        if x.dtype.is_floating_point and x.dtype != dtype:
            raise ModelError(f"{name} is {dtype_name(x)} but the parameters are {_spelled(dtype)}; convert one of them")


def dtype_name(tensor: torch.Tensor) -> str:
    """The dtype as NumPy and TVM spell it, e.g. "float32"."""
    return _spelled(tensor.dtype)


def _spelled(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def module_of(node: torch.fx.Node) -> str:
    """Where a node comes from, as a phrase for an error message: "module 'layer1.0.conv1'", "the model's own
    forward" or "the loss".
    """
    name = module_name(node)
    if name == OUTSIDE:
        return "the loss"
    return f"module '{name}'" if name else "the model's own forward"


def module_name(node: torch.fx.Node) -> str:
    """Name of the module that a node comes from: "" is the model's own forward, OUTSIDE what no module computes."""
    name = (node.meta.get("custom") or {}).get("module")
    return OUTSIDE if name is None else name


class Outputs(nn.Module):
    """The user's model with its outputs in a row. given: what they are, by role and name, once it has run."""

    def __init__(self, model: nn.Module, inputs: Iterable[str]) -> None:
        super().__init__()
        self.model, self.inputs = model, tuple(inputs)
        self.given: list[tuple[Role, str]] = []

    def outputs(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """The model's outputs by name."""
        with CopiesForNeedless():
            args, kwargs = arguments_of(self.model, dict(zip(self.inputs, inputs, strict=True)))
            found = outputs_of(self.model(*args, **kwargs))
        for name, output in found.items():
            if output.dim() == 0 or output.shape[0] != inputs[0].shape[0]:
                raise ModelError(
                    f"the model returns a tensor of shape {list(output.shape)} for a batch of {inputs[0].shape[0]}; "
                    f"{name!r} must have the batch as its first axis"
                )
        return found

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.outputs(*inputs)
        self.given = [(Role.OUTPUT, name) for name in found]
        return tuple(found.values())


class WithLoss(Outputs):
    """The user's model followed by a loss; only that is differentiated."""

    def __init__(
        self, model: nn.Module, loss: Loss, inputs: tuple[str, ...], targets: tuple[str, ...], in_parts: bool
    ) -> None:
        super().__init__(model, inputs)
        self.loss, self.targets, self.in_parts = loss, targets, in_parts

    def forward(self, *args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.outputs(*args[: len(self.inputs)])
        targets = dict(zip(self.targets, args[len(self.inputs) :], strict=True))
        total, weight = self.loss.sums(found, targets)
        if total.dim() != 0:
            raise ModelError(
                f"the loss returns a tensor of shape {list(total.shape)}; it must return a number, shape []"
            )
        self.given = [(Role.LOSS, LOSS), *((Role.OUTPUT, name) for name in found)]
        outputs = [output.detach() for output in found.values()]
        if not self.in_parts:
            return (total / weight, *outputs)
        self.given.insert(1, (Role.WEIGHT, WEIGHT))
        return (total, (torch.ones_like(total) * weight).detach(), *outputs)


class ModuleNames:
    """Writes the name of the module that runs into every node traced meanwhile (`nn_module_stack` stays empty
    in a joint graph).
    """

    def __init__(self) -> None:
        self.open: list[tuple[str, contextlib.AbstractContextManager]] = []

    @contextlib.contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        handles = []
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: self._enter(name)))
            handles.append(module.register_forward_hook(lambda *_: self._leave()))
        try:
            with fx_traceback.preserve_node_meta():
                yield
        finally:
            for handle in handles:
                handle.remove()

    def close(self) -> str | None:
        """Leave what an exception left open; the name of the innermost module, None if none was running."""
        innermost = self.open[-1][0] if self.open else None
        while self.open:
            self._leave()
        return innermost

    def _enter(self, name: str) -> None:
        annotation = fx_traceback.annotate({"module": name})
        annotation.__enter__()
        self.open.append((name, annotation))

    def _leave(self) -> None:
        self.open.pop()[1].__exit__(None, None, None)


def _export(net: nn.Module, model: nn.Module, args: tuple[torch.Tensor, ...]) -> torch.fx.GraphModule:
    names = ModuleNames()
    with contextlib.ExitStack() as stack, names.watch(model):
        try:
            return aot_export_joint_with_descriptors(stack, net, args).graph_module
        except ModelError:
            names.close()
            raise
        except DataDependentOutputException as error:
            raise ModelError(
                f"the model cannot be traced: {_place(names.close())} reads the value of a tensor to decide "
                "what to compute (.item(), an if on a tensor, or a batch norm with momentum=None); "
                "make it independent of the data"
            ) from error
        except Exception as error:  # a user's forward may raise anything
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(
                f"the model cannot be traced for an input of shape {list(args[0].shape)}: "
                f"{_place(names.close())} fails with {reason!r}; check that the model runs on such an input"
            ) from error


def _place(name: str | None) -> str:
    return "its forward" if not name else f"module '{name}'"


def _described(graph: torch.fx.GraphModule) -> tuple[dict, list[tuple]]:
    """Placeholders by their descriptor, and (descriptor, node) of every output that has one."""
    placeholders = {n.meta["desc"]: n for n in graph.graph.nodes if n.op == "placeholder"}
    output = next(n for n in graph.graph.nodes if n.op == "output")
    outputs = [(desc, node) for desc, node in zip(output.meta["desc"], output.args[0], strict=True) if desc is not None]
    known = (ParamAOTInput, BufferAOTInput, PlainAOTInput, TangentAOTInput)
    for desc, node in placeholders.items():
        if not isinstance(desc, known):
            raise ModelError(
                f"the traced model has an input '{node.name}' of an unknown kind ({desc}); "
                "models whose parameters or inputs are views of each other cannot be compiled"
            )
    return placeholders, outputs


def _name(desc: object) -> str:
    return desc.target.removeprefix(f"{WRAPPED}.")


def _state_nodes(placeholders: dict, model: nn.Module) -> tuple[dict[str, torch.fx.Node], ...]:
    """Placeholders of the parameters that are trained, of those that are not, and of buffers."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    every = {_name(d): n for d, n in placeholders.items() if isinstance(d, ParamAOTInput)}
    parameters = {name: n for name, n in every.items() if name in trained}
    frozen = {name: n for name, n in every.items() if name not in trained}
    buffers = {_name(d): n for d, n in placeholders.items() if isinstance(d, BufferAOTInput)}
    return parameters, frozen, buffers


def _input_nodes(placeholders: dict) -> tuple[torch.fx.Node, ...]:
    by_index = {d.idx: n for d, n in placeholders.items() if isinstance(d, PlainAOTInput)}
    return tuple(by_index[i] for i in sorted(by_index))


def _mutated(outputs: list[tuple]) -> dict[str, torch.fx.Node]:
    """New values of the buffers that the graph changes. (A change of x in place stays inside the graph:
    nobody reads x afterwards.)
    """
    changed = {}
    for desc, node in outputs:
        if not isinstance(desc, InputMutationAOTOutput) or isinstance(desc.mutated_input, PlainAOTInput):
            continue
        name = _name(desc.mutated_input)
        if isinstance(desc.mutated_input, ParamAOTInput):
            raise ModelError(f"the model changes parameter '{name}' in its forward; only the optimiser may do that")
        changed[name] = node
    return changed
