"""Batch norm over a batch that several processes share: the network trains as if one process held all of it.

torch's own SyncBatchNorm does this on GPUs only and refuses tensors of a CPU, and its statistics are in the precision
of the input; this one runs wherever the process group does.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from mest_compiler.errors import ModelError

_KNOWN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class _Total(torch.autograd.Function):
    """Sum of the processes' tensors; what every process derives from it flows back into each of them.

    (torch.distributed.nn.functional.all_reduce does the same and warns that it will go.)
    """

    @staticmethod
    def forward(ctx, part: torch.Tensor) -> torch.Tensor:
        return _all_reduced(part)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        return _all_reduced(gradient)


def _all_reduced(part: torch.Tensor) -> torch.Tensor:
    total = part.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm of x [N, C, ...] whose training statistics are those of all processes' x together.

    All processes of the default group call it, with the same shape. Parameters, buffers, running statistics (unbiased
    variance of the whole batch) and evaluation mode are those of torch's batch norms. float32 or float64; statistics
    are summed in float64. Its gradients are those of the sum of the processes' losses, so their mean over the
    processes, which DistributedDataParallel takes, is the gradient of the mean loss.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x normalised, of its shape and dtype."""
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        over = [0, *range(2, x.dim())]
        channels = (1, -1, *[1] * (x.dim() - 2))
        count = x.numel() // x.shape[1] * dist.get_world_size()
        mean = _Total.apply(x.sum(over, dtype=torch.float64)) / count
        # Deviations from the mean and not squares of x, or a mean that is large beside the deviation would swallow the
        # variance. They are taken from the mean in x's precision; what that rounding cut off is made up for after.
        near = mean.detach().to(x.dtype)
        rest = mean - near
        deviations = x - near.view(channels)
        squares = _Total.apply(deviations.square().sum(over, dtype=torch.float64))
        variance = squares / count - rest.square()
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach() * (count / (count - 1)))
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        shift = -rest * scale
        if self.bias is not None:
            shift = shift + self.bias
        shift, scale = (each.to(x.dtype).view(channels) for each in (shift, scale))
        return torch.addcmul(shift, deviations, scale)

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected [N, C, ...], got {input.dim()} dimensions")

    @torch.no_grad()
    def _track(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        self.num_batches_tracked.add_(1)
        # Without a momentum the running statistics are plain means over all batches so far.
        factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
        self.running_var.lerp_(variance.to(self.running_var.dtype), factor)


def with_global_batch_norm(model: nn.Module) -> nn.Module:
    """Turn the model's batch norms into GlobalBatchNorms where they are; returns the model.

    Modules, parameters, buffers, their names and hooks stay the same objects.

    Raises:
        ModelError: a layer derives from torch's batch norms, so what it does beside them is unknown.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, GlobalBatchNorm):
            if type(module) not in _KNOWN:
                raise ModelError(
                    f"layer {name!r} is a {type(module).__name__}, and processes can share the statistics of torch's "
                    "own batch norms only: use nn.BatchNorm2d there, or train in one process"
                )
            # As torch does with its lazy modules: whoever refers to this module keeps doing so.
            module.__class__ = GlobalBatchNorm
    return model
