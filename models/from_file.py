"""Models of one's own: a callable in a Python file that returns an nn.Module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from mest_compiler.errors import ModelError

from .keywords import call
from .user_file import UserFile


def build_from_file(path: str, attribute: str, arguments: Mapping[str, object]) -> nn.Module:
    """What the callable `attribute` of a Python file returns, called with those arguments it takes.

    The file is run as if Python ran it, but for its __name__: give only files you trust. Every call runs it anew, with
    the modules that it imports from its folder. Relative paths that it opens start at the working folder; from its own
    folder they are Path(__file__).parent / "name".

    Raises:
        ModelError: missing file, file that cannot be imported, no such callable in it, a callable that fails,
            needs other arguments, takes none of those asked for (see `keywords`) or returns no nn.Module.
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
        model = call(factory, f"{path}:{attribute}", arguments, user_file.described)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{path}:{attribute} returned {type(model).__name__}: let it return a torch.nn.Module.")
    return model
