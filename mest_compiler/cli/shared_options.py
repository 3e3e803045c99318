"""Options that several commands share: told once, as the fields of a dataclass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints


def takes(**groups: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator for commands: in place of a parameter named here the command line has an option for each field of its
    dataclass, whose annotation is the option's."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints, parameters = get_type_hints(command, include_extras=True), []
        for name, own in signature(command).parameters.items():
            if name not in groups:
                parameters.append(own.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[name]))
                continue
            theirs = get_type_hints(groups[name], include_extras=True)
            parameters += [
                Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=theirs[field.name])
                for field in fields(groups[name])
            ]

        @wraps(command)
        def run(**given: Any) -> None:
            made = {
                name: kind(**{field.name: given.pop(field.name) for field in fields(kind)})
                for name, kind in groups.items()
            }
            command(**given, **made)

        run.__signature__ = Signature(parameters)
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate
