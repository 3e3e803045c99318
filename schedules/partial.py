"""A generator with its arguments as a value: two are equal where they make the same kernel.

Tables of kernels are keyed by it. Since a generator gets nothing but what stands in the key, no fact that its code
depends on can be missing there, as it can where a key is written beside the call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class _Pairs(tuple):
    """A mapping's items in their order, which is that of a kernel's arguments."""


class Partial:
    """`functools.partial` of positional arguments, compared by value; lists are kept as tuples, mappings in order.

    Calling it with more arguments appends them. Raises TypeError for an argument that has no hash.
    """

    __slots__ = ("_args", "_function", "_hash")

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._function, self._args = function, tuple(map(_frozen, args))
        self._hash = hash((function, self._args))

    def __call__(self, *more: Any) -> Any:
        return self._function(*map(_thawed, self._args), *more)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Partial) and (self._function, self._args) == (other._function, other._args)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Partial({self._function.__module__}.{self._function.__qualname__}, *{self._args!r})"


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _Pairs((key, _frozen(one)) for key, one in value.items())
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) and type(value) in (list, tuple) else value


def _thawed(value: Any) -> Any:
    return dict(value) if isinstance(value, _Pairs) else value
