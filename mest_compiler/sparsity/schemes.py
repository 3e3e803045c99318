"""The registry of sparsity schemes: names, spellings, and the one place that lists them."""

from __future__ import annotations

import difflib
import re

from mest_compiler.errors import ProfileError

from .block import Block
from .pattern import Pattern
from .planes import Planes
from .scheme import Scheme, Shape, check_sparsity, kernel_shape

__all__ = ["SCHEMES", "Scheme", "Shape", "check_sparsity", "get_scheme", "kernel_shape"]

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Block("unstructured", 1, aliases=("block:1x1",)),
        Block("block", 4, aliases=("block:4x1",)),
        Pattern(),
        Planes("channel", 1),
        Planes("filter", 0),
    )
}
_BLOCK, _LARGEST = re.compile(r"block:(\d{1,3})x(\d{1,3})"), 16


def get_scheme(name: str) -> Scheme:
    """The scheme of this name or alias; "block:MxN" is a block of M filters by N input channels.

    Raises:
        ProfileError: no such scheme; the sentence lists those there are.
    """
    if isinstance(name, str):
        if name in SCHEMES:
            return SCHEMES[name]
        size = _BLOCK.fullmatch(name)
        if size is not None:
            filters, channels = int(size[1]), int(size[2])
            if not (1 <= filters <= _LARGEST and 1 <= channels <= _LARGEST):
                raise ProfileError(f"Blocks of scheme {name!r} are out of range: use 1 to {_LARGEST} each way.")
            spelled = f"block:{filters}x{channels}"
            known = (scheme for scheme in SCHEMES.values() if spelled in scheme.aliases)
            return next(known, None) or Block(spelled, filters, channels)
    spellings = [one for scheme in SCHEMES.values() for one in (scheme.name, *scheme.aliases)]
    close = difflib.get_close_matches(str(name), spellings, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    names = ", ".join(SCHEMES)
    raise ProfileError(f"There is no sparsity scheme {name!r}{hint}: use one of {names}, block:MxN.")
