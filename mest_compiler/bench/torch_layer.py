"""PyTorch's dense ways through one convolution layer, forward and both gradients: the opponents of a sparse
layer.

Which of them is fastest differs by machine, shape and PyTorch version, so all of them run and the fastest one
counts.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import conv2d

from mest_compiler.bench.child import Contestant
from mest_compiler.bench.inputs import layer_inputs
from mest_compiler.bench.layer_spec import LayerSpec


def contestants(
    layer: LayerSpec, *, batch: int, seed: int, scheme: str, sparsity: float, threads: int, uneven: bool = False
) -> list[Contestant]:
    """One contestant a factory of `FACTORIES`, named torch_<factory>; arguments as for
    `inputs.layer_inputs`."""
    arguments = {"layer": str(layer), "batch": batch, "seed": seed, "scheme": scheme, "sparsity": sparsity}
    arguments["uneven"] = uneven
    return [
        Contestant(f"torch_{factory.__name__}", f"{__name__}:{factory.__name__}", arguments, threads)
        for factory in FACTORIES
    ]


class _Layer:
    """Tensors of a layer in one memory format; a subclass says how y, dx and dw are made from them."""

    def __init__(self, memory_format: torch.memory_format, layer: str, **case: int | float | str) -> None:
        self.spec = LayerSpec.parse(layer)
        inputs = layer_inputs(self.spec, **case)
        self.x, self.weight, self.dy = (
            torch.from_numpy(array).contiguous(memory_format=memory_format)
            for array in (inputs.x, inputs.weight, inputs.dy)
        )

    def gradients(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """y [N, F, OH, OW], dx (shape of x) and dw (shape of weight)."""
        raise NotImplementedError

    def run(self) -> None:
        """One forward and both gradients."""
        self.gradients()

    def outputs(self, path: Path) -> None:
        """Save y, dx and dw, float32, as .npz."""
        arrays = (tensor.detach().contiguous().numpy() for tensor in self.gradients())
        np.savez(path, **dict(zip(("y", "dx", "dw"), arrays, strict=True)))


class AutogradLayer(_Layer):
    """What a training loop does: conv2d recorded by autograd."""

    def gradients(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """y, dx and dw by autograd."""
        x, weight = self.x.requires_grad_(), self.weight.requires_grad_()
        y = conv2d(x, weight, stride=self.spec.stride, padding=self.spec.padding)
        dx, dw = torch.autograd.grad(y, (x, weight), self.dy)
        return y, dx, dw


class DirectLayer(_Layer):
    """The two ATen operators without autograd's overhead."""

    def gradients(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """y, dx and dw by the operators."""
        stride, padding = [self.spec.stride] * 2, [self.spec.padding] * 2
        with torch.no_grad():
            y = conv2d(self.x, self.weight, stride=stride, padding=padding)
            dx, dw, _ = torch.ops.aten.convolution_backward(
                self.dy,
                self.x,
                self.weight,
                bias_sizes=None,
                stride=stride,
                padding=padding,
                dilation=[1, 1],
                transposed=False,
                output_padding=[0, 0],
                groups=1,
                output_mask=[True, True, False],
            )
        return y, dx, dw


def nchw_autograd(**case: int | float | str) -> AutogradLayer:
    """NCHW tensors, autograd."""
    return AutogradLayer(torch.contiguous_format, **case)


def nchw_direct(**case: int | float | str) -> DirectLayer:
    """NCHW tensors, operators called directly."""
    return DirectLayer(torch.contiguous_format, **case)


def channels_last_autograd(**case: int | float | str) -> AutogradLayer:
    """Channels-last tensors, autograd."""
    return AutogradLayer(torch.channels_last, **case)


def channels_last_direct(**case: int | float | str) -> DirectLayer:
    """Channels-last tensors, operators called directly."""
    return DirectLayer(torch.channels_last, **case)


FACTORIES = (nchw_autograd, nchw_direct, channels_last_autograd, channels_last_direct)
