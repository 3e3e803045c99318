"""Models of one's own: a callable in a Python file that returns an nn.Module."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from mest_compiler.errors import ModelError

from .user_file import UserFile


def build_from_file(path: str, attribute: str, arguments: Mapping[str, object]) -> nn.Module:
    """What the callable `attribute` of a Python file returns, called with those arguments it accepts.

    The file is run as if Python ran it, but for its __name__: give only files you trust. Every call runs it anew, with
    the modules that it imports from its folder. Relative paths that it opens start at the working folder; from its own
    folder they are Path(__file__).parent / "name".

    Raises:
        ModelError: missing file, file that cannot be imported, no such callable in it, a callable that fails,
            needs other arguments or returns no nn.Module.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"There is no model file {path!r}: check the path before the colon in file.py:callable.")
    if file.suffix != ".py":
        raise ModelError(f"Model file {path!r} is no Python file: its name must end in .py.")
    user_file = UserFile(file)
    with user_file.importing():
        try:
            module = user_file.run()
        except (Exception, SystemExit) as error:  # a user's file may raise anything
            raise ModelError(f"Model file {path!r} failed with {user_file.described(error)}") from error
        factory = getattr(module, attribute, None)
        if not callable(factory):
            raise ModelError(f"Model file {path!r} has no callable {attribute!r}: define it or name another one.")
        accepted = _accepted(factory, f"{path}:{attribute}", arguments)
        try:
            model = factory(**accepted)
        except (Exception, SystemExit) as error:
            raise ModelError(f"{path}:{attribute} failed with {user_file.described(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{path}:{attribute} returned {type(model).__name__}: let it return a torch.nn.Module.")
    return model


def _accepted(factory: Callable[..., object], where: str, arguments: Mapping[str, object]) -> dict[str, object]:
    """The arguments that a callable's signature accepts by keyword."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError) as error:
        raise ModelError(f"{where} has no readable signature: wrap it in a function.") from error
    by_keyword = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    accepted = {key: value for key, value in arguments.items() if takes_all or key in by_keyword}
    for parameter in parameters:
        is_variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if parameter.default is parameter.empty and not is_variadic and parameter.name not in accepted:
            raise ModelError(
                f"{where} needs an argument {parameter.name!r}, but models get only {', '.join(arguments)}: "
                "give it a default."
            )
    return accepted
