"""Methods that ask a device for something, which may go away meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])


class OnDevice(Protocol):
    """Who has such methods."""

    session: Any


def asks(what: str) -> Callable[[Method], Method]:
    """Of a method that asks the device for something, called `what` in sentences about a device that fails."""

    def decorated(method: Method) -> Method:
        @wraps(method)
        def asking(self: OnDevice, *args: Any, **options: Any) -> Any:
            with self.session.during(what):
                return method(self, *args, **options)

        return asking

    return decorated
