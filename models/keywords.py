"""How a builder of one's own is called: with those of the usual keywords that it names, or lets through."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence

import torch

from mest_compiler.errors import ModelError

CLASSES = ("num_classes", "classes", "n_classes")
CHANNELS = ("in_channels", "in_chans", "input_channels", "n_channels")
WIDTH = ("width", "width_mult", "width_multiplier")
SPELLINGS: Mapping[str, tuple[str, ...]] = {"classes": CLASSES, "in_channels": CHANNELS, "width": WIDTH}
"""What builders call the arguments of `models.build`, the most usual first."""
AS_BUILT = {"width": 1}
"""The value of an argument that leaves a network as its builder makes it: nothing needs to be passed."""
_UNEXPECTED = re.compile(r"got an unexpected keyword argument '(\w+)'")


def call(
    factory: Callable[..., object],
    where: str,
    arguments: Mapping[str, object],
    described: Callable[[BaseException], str],
) -> object:
    """What a callable returns for those of the arguments that it takes, each under the name that it has for it.

    Names in its signature count; where that ends in **keywords, which it hands on to somebody, the usual ones are tried
    until nobody says that he did not expect them.

    Args:
        factory: the callable. where: it is, for errors.
        arguments: by the names of `SPELLINGS`.
        described: an error of the callable in words.

    Raises:
        ModelError: it needs other arguments, takes no width where one is asked for, has no signature, or fails.
    """
    try:
        parameters = list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError) as error:
        raise ModelError(f"{where} has no readable signature: wrap it in a function.") from error
    by_keyword = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    needed = {p.name for p in by_keyword.values() if p.default is p.empty}
    named, untried = {}, {}
    for argument, value in arguments.items():
        found = next((name for name in SPELLINGS[argument] if name in by_keyword), None)
        if AS_BUILT.get(argument) == value and found not in needed:
            continue
        if found is not None:
            named[found] = value
        elif any(p.kind is p.VAR_KEYWORD for p in parameters):
            untried[argument] = list(SPELLINGS[argument])
        else:
            _check_passed(argument, value, where)
    _check_complete(parameters, named, where)
    return _tried(factory, where, arguments, named, untried, described)


def _tried(
    factory: Callable[..., object],
    where: str,
    arguments: Mapping[str, object],
    named: Mapping[str, object],
    untried: dict[str, list[str]],
    described: Callable[[BaseException], str],
) -> object:
    """The call with `named`, and of each argument in `untried` the first spelling that is expected."""
    state = torch.get_rng_state()
    while True:
        guessed = {names[0]: argument for argument, names in untried.items()}
        torch.set_rng_state(state)  # what a call has drawn that was not expected
        try:
            return factory(**named, **{name: arguments[argument] for name, argument in guessed.items()})
        except (Exception, SystemExit) as error:  # a user's builder may raise anything
            refused = _UNEXPECTED.search(str(error)) if isinstance(error, TypeError) else None
            if refused is None or refused[1] not in guessed:
                raise ModelError(f"{where} failed with {described(error)}") from error
            argument = guessed[refused[1]]
            untried[argument].pop(0)
            if not untried[argument]:
                del untried[argument]
                _check_passed(argument, arguments[argument], where)


def _check_passed(argument: str, value: object, where: str) -> None:
    """Raise ModelError for an argument that only the builder could follow, and that it does not take.

    Another number of classes or channels than a model is made for shows when it is run.
    """
    if argument in AS_BUILT:
        raise ModelError(
            f"{where} takes no {argument}, and {value} was asked for: give it a parameter {argument!r}, or leave the "
            f"{argument} out."
        )


def _check_complete(parameters: Sequence[inspect.Parameter], named: Mapping[str, object], where: str) -> None:
    """Raise ModelError for a parameter that has no default and is none of ours."""
    for parameter in parameters:
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if parameter.default is parameter.empty and not variadic and parameter.name not in named:
            usual = ", ".join(names[0] for names in SPELLINGS.values())
            raise ModelError(
                f"{where} needs an argument {parameter.name!r}, but models get only {usual} (or other usual names of "
                "these): give it a default."
            )
