"""How many lines of Python something runs: what tells a loop over millions from NumPy, on a busy machine too."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")
MOST_LINES = 50_000
"""Far more than work on whole arrays needs, far less than a loop over units."""


def counted(function: Callable[[], Result]) -> tuple[Result, int]:
    """What a function gives, and how many lines ran for it."""
    count, before = 0, sys.gettrace()

    def trace(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        return function(), count
    finally:
        sys.settrace(before)
