"""The table of converters, filled by the files beside this one: ATen operator -> function that emits its
Relax form.
"""

from __future__ import annotations

from collections.abc import Callable

Converter = Callable[..., object]

CONVERTERS: dict[object, Converter] = {}


def converts(*operators: object) -> Callable[[Converter], Converter]:
    """Enter a function as the converter of ATen operators.

    It is called with the Emission and the node's arguments, nodes replaced by their values, and returns an
    expression, or a tuple of them (None for a part that nobody may read).
    """

    def enter(converter: Converter) -> Converter:
        for operator in operators:
            if operator in CONVERTERS:
                raise ValueError(f"{operator} has two converters")
            CONVERTERS[operator] = converter
        return converter

    return enter
