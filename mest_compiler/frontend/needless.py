"""Calls that change nothing as they are configured, such as padding by zero in whatever mode: traced as copies, since
PyTorch traces them as what they would do with other arguments.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

# Their samples at the same size are the pixels themselves; "area" and antialiasing are left to PyTorch.
EXACT_MODES = ("nearest", "nearest-exact", "bilinear", "bicubic")


def _pads_nothing(x: torch.Tensor, pad: Sequence[int], *_: object) -> bool:
    return not any(pad)


def _keeps_the_size(
    x: torch.Tensor,
    size: int | Sequence[int] | None,
    scale_factor: float | Sequence[float] | None,
    mode: str,
    _align_corners: bool | None,
    _recompute: bool | None,
    antialias: bool,
) -> bool:
    """A scale that only rounds to the same size takes other samples, so it must be 1."""
    wanted, found = (scale_factor, [1.0] * (x.dim() - 2)) if size is None else (size, list(x.shape[2:]))
    wanted = list(wanted) if isinstance(wanted, Sequence) else [wanted] * len(found)
    return wanted == found and mode in EXACT_MODES and not antialias


NEEDLESS: Mapping[Callable[..., torch.Tensor], Callable[..., bool]] = {
    F.pad: _pads_nothing,
    F.interpolate: _keeps_the_size,
}
"""Function -> whether a call with all of these arguments, in their order, returns its first one."""


class CopiesForNeedless(TorchFunctionMode):
    """While it is entered, a needless call returns a copy of its input and is not made."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in NEEDLESS:
            given = inspect.signature(func).bind(*args, **kwargs)
            given.apply_defaults()
            if NEEDLESS[func](*given.args):
                return given.args[0].clone()
        return func(*args, **kwargs)
