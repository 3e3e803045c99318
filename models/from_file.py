"""Models of one's own: a callable in a Python file that returns an nn.Module."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

from torch import nn

from mest_compiler.errors import ModelError


def build_from_file(path: str, attribute: str, arguments: Mapping[str, object]) -> nn.Module:
    """What the callable `attribute` of a Python file returns, called with those arguments it accepts.

    The file is run: give only files you trust. Every call runs it anew.

    Raises:
        ModelError: missing file, file that cannot be imported, no such callable in it, a callable that fails,
            needs other arguments or returns no nn.Module.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"There is no model file {path!r}: check the path before the colon in file.py:callable.")
    factory = getattr(_import(file), attribute, None)
    if not callable(factory):
        raise ModelError(f"Model file {path!r} has no callable {attribute!r}: define it or name another one.")
    accepted = _accepted(factory, f"{path}:{attribute}", arguments)
    try:
        model = factory(**accepted)
    except Exception as error:
        raise ModelError(f"{path}:{attribute} failed with {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{path}:{attribute} returned {type(model).__name__}: let it return a torch.nn.Module.")
    return model


def _import(file: Path) -> ModuleType:
    """The file's module, registered under a name of its own.

    It stays in sys.modules, where torch.compile and inspect look for a class's module, but under a name made
    from the whole path, so that a user's json.py shadows nobody's `json`.
    """
    resolved = file.resolve()
    name = f"_mest_model_{hashlib.sha256(str(resolved).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise ModelError(f"Model file {str(file)!r} is no Python file: its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ModelError(f"Model file {str(file)!r} failed with {type(error).__name__}: {error}") from error
    return module


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
