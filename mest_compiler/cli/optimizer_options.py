"""The options that name an optimiser and its settings, and the optimiser that they make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mest_compiler.errors import MestError
from mest_compiler.optimizers import OPTIMIZERS, Sgd, optimizer_of

if TYPE_CHECKING:
    from mest_compiler.optimizers import Optimizer

PANEL = "Optimiser and its learning rate"


def betas_of(text: str | None) -> str | None:
    """Checks a callback's text.

    Raises:
        BadParameter: it is no pair of numbers.
    """
    if text is not None:
        try:
            _, _ = map(float, text.split(","))
        except ValueError as error:
            raise typer.BadParameter(f"{text!r} is no pair of numbers: write, for example, 0.9,0.99") from error
    return text


def _option(help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, show_default=False, rich_help_panel=PANEL, **more)


Name = Annotated[
    str | None,
    _option(f"{', '.join(OPTIMIZERS)}; sgd with 0.9 momentum if nothing is said.", "--optimizer", metavar="NAME"),
]
Momentum = Annotated[float | None, _option("SGD's momentum, below 1.", min=0)]
Nesterov = Annotated[bool | None, _option("Nesterov's momentum.")]
Betas = Annotated[str | None, _option("Adam's and AdamW's betas: 0.9,0.999.", metavar="B1,B2", callback=betas_of)]
Eps = Annotated[float | None, _option("Adam's and AdamW's eps, 1e-8.", min=0)]
WeightDecay = Annotated[
    float | None,
    _option("Weight decay, on all parameters: 5e-4 with sgd, 0 with adam, 0.01 with adamw.", min=0),
]


def chosen_optimizer(name: str | None, **given: Any) -> Optimizer:
    """The optimiser of `mest compile`. given: settings by name, None: not given.

    Raises:
        MestError: no such optimiser, or a setting of another one.
    """
    settings = {key: value for key, value in given.items() if value is not None}
    if "betas" in settings:
        settings["betas"] = tuple(map(float, settings["betas"].split(",")))
    rule = optimizer_of(name or Sgd.name, settings)
    for key in settings:
        if key not in rule.facts():
            raise MestError(f"--{key} says nothing about {rule.name}: leave it out.")
    return rule
