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
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.fx.traceback as fx_traceback
import torch.nn.functional as F
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
from .needless import CopiesForNeedless

# WithLoss holds the user's model under this attribute; descriptors name parameters through it.
WRAPPED = "model"


@dataclass(frozen=True)
class CapturedGraph:
    """A functional ATen graph and what its inputs and outputs stand for.

    Attributes
    ----------
    module : the graph, as torch.fx calls it.
    parameters, buffers : torch name -> placeholder node, in the order of the torch module.
    inputs : placeholders of x (and y).
    tangents : placeholders of the gradient of the loss with respect to itself; the constant 1.
    results : the nodes whose values the function returns, in order. step: loss, logits, the gradient of every
    parameter, the new value of every buffer; predict: logits.
    """

    module: torch.fx.GraphModule
    parameters: dict[str, torch.fx.Node]
    buffers: dict[str, torch.fx.Node]
    inputs: tuple[torch.fx.Node, ...]
    tangents: tuple[torch.fx.Node, ...]
    results: tuple[torch.fx.Node, ...]


def capture_step(model: nn.Module, x: torch.Tensor, y: torch.Tensor, label_smoothing: float = 0.0) -> CapturedGraph:
    """Capture forward, mean cross-entropy and backward of `model` in train mode; the model itself is not
    changed.

    Parameters
    ----------
    model : maps a batch of shape x.shape to logits [N, classes].
    x : an example batch [N, ...] of the parameters' dtype; only its shape and dtype matter.
    y : labels int64 [N].
    label_smoothing : of the loss, as in cross_entropy.

    Raises
    ------
    ModelError
        if the model cannot be traced, returns something else than logits, or has a parameter that is frozen,
        shared or unused.
    """
    check_parameters(model, x)
    if y.dtype != torch.int64 or y.shape != x.shape[:1]:
        raise ModelError(
            f"labels must be int64 of shape [{x.shape[0]}], but are {dtype_name(y)} {list(y.shape)}; "
            "pass one class index an example"
        )
    net = WithLoss(copy.deepcopy(model), label_smoothing).train()
    graph = _export(net, net.model, (x.detach(), y))
    placeholders, outputs = _described(graph)
    parameters, buffers = _state_nodes(placeholders)
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
    user = {d.idx: n for d, n in outputs if isinstance(d, PlainAOTOutput)}
    return CapturedGraph(
        module=graph,
        parameters=parameters,
        buffers=buffers,
        inputs=_input_nodes(placeholders),
        tangents=tuple(n for d, n in placeholders.items() if isinstance(d, TangentAOTInput)),
        results=(user[0], user[1], *(gradients[p] for p in parameters), *(new_buffers[b] for b in buffers)),
    )


def capture_predict(model: nn.Module, x: torch.Tensor) -> CapturedGraph:
    """Capture the forward pass of `model` in eval mode (batch norm with its running statistics); the model
    itself is not changed.

    Parameters and errors are those of `capture_step`.
    """
    check_parameters(model, x)
    net = OneInput(copy.deepcopy(model)).eval()
    with torch.no_grad():
        graph = _export(net, net.model, (x.detach(),))
    placeholders, outputs = _described(graph)
    parameters, buffers = _state_nodes(placeholders)
    for name in _mutated(outputs):
        raise ModelError(f"the model changes buffer '{name}' in eval mode; a prediction must leave the model as it is")
    return CapturedGraph(
        module=graph,
        parameters=parameters,
        buffers=buffers,
        inputs=_input_nodes(placeholders),
        tangents=(),
        results=tuple(n for d, n in outputs if isinstance(d, PlainAOTOutput)),
    )


def check_parameters(model: nn.Module, x: torch.Tensor) -> None:
    """Refuse what would make a wrong step: no parameters, several dtypes, frozen or shared parameters.

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
        if not parameter.requires_grad:
            raise ModelError(
                f"parameter '{name}' has requires_grad=False, but the compiled step trains every parameter; "
                "make it trainable or register it as a buffer"
            )
        names[id(parameter)] = name
        dtypes.setdefault(parameter.dtype, name)
    if not names:
        raise ModelError("the model has no parameters; there is nothing to train")
    if len(dtypes) > 1:
        listed = ", ".join(f"'{name}' is {_spelled(dtype)}" for dtype, name in dtypes.items())
        raise ModelError(f"all parameters must have one dtype, but {listed}; convert the model with .to(dtype)")
    (dtype,) = dtypes
    if dtype not in (torch.float32, torch.float64):
        raise ModelError(f"parameters must be float32 or float64, but are {_spelled(dtype)}; convert the model")
    if x.dtype != dtype:
        raise ModelError(f"x is {dtype_name(x)} but the parameters are {_spelled(dtype)}; convert one of them")


def dtype_name(tensor: torch.Tensor) -> str:
    """The dtype as NumPy and TVM spell it, e.g. "float32"."""
    return _spelled(tensor.dtype)


def _spelled(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def module_of(node: torch.fx.Node) -> str:
    """Where a node comes from, as a phrase for an error message: "module 'layer1.0.conv1'", "the model's own
    forward" or "the loss".
    """
    name = (node.meta.get("custom") or {}).get("module")
    if name is None:
        return "the loss"
    return f"module '{name}'" if name else "the model's own forward"


class OneInput(nn.Module):
    """The user's model with its output checked: logits [N, classes]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with CopiesForNeedless():
            logits = self.model(x)
        if not isinstance(logits, torch.Tensor):
            raise ModelError(
                f"the model returns {type(logits).__name__}; it must return one tensor of logits [batch, classes]"
            )
        if logits.dim() != 2 or logits.shape[0] != x.shape[0]:
            raise ModelError(
                f"the model returns a tensor of shape {list(logits.shape)} for a batch of {x.shape[0]}; "
                "it must return logits [batch, classes]"
            )
        return logits


class WithLoss(OneInput):
    """The user's model followed by the mean cross-entropy; only the loss is differentiated."""

    def __init__(self, model: nn.Module, label_smoothing: float) -> None:
        super().__init__(model)
        self.label_smoothing = label_smoothing

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = super().forward(x)
        loss = F.cross_entropy(logits, y)
        if self.label_smoothing:
            # cross_entropy's own smoothing, in operators that need no mask for ignored labels
            even = -F.log_softmax(logits, dim=1).mean(dim=(0, 1))
            loss = (1 - self.label_smoothing) * loss + self.label_smoothing * even
        return loss, logits.detach()


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


def _state_nodes(placeholders: dict) -> tuple[dict[str, torch.fx.Node], dict[str, torch.fx.Node]]:
    parameters = {_name(d): n for d, n in placeholders.items() if isinstance(d, ParamAOTInput)}
    buffers = {_name(d): n for d, n in placeholders.items() if isinstance(d, BufferAOTInput)}
    return parameters, buffers


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
