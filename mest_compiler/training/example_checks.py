"""Whether a model, its loss and a data set fit each other, before anything is compiled or trained."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import numpy as np
from torch import nn

from mest_compiler.errors import DataError, MestError, ModelError
from mest_compiler.losses import Loss
from mest_compiler.signature import TensorSpec
from mest_compiler.training.examples import Examples


def check_inputs(model: nn.Module, data: Examples) -> None:
    """Raise DataError unless the model's forward takes the inputs by their names, or an only one by its place."""
    parameters = inspect.signature(model.forward).parameters.values()
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY, p.POSITIONAL_ONLY)}
    needed = {name for name, p in named.items() if p.default is p.empty}
    names, free = set(data.inputs), any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
    if needed <= names and (names <= set(named) or free):
        return
    if len(names) == 1 and len(needed) <= 1 and (named or free):
        return
    raise DataError(
        f"The model's forward takes {', '.join(named) or 'nothing'}, and data set {data.name} has the inputs "
        f"{', '.join(data.inputs)} (targets: {', '.join(data.targets)}): call them alike"
    )


def check_targets(loss: Loss, outputs: Mapping[str, TensorSpec], data: Examples) -> None:
    """Raise unless the loss can compare outputs, those of an example, with all targets of the data.

    Raises:
        ModelError: it takes no such outputs, or other targets.
        DataError: numbers that no target can be.
    """
    wanted, given = loss.targets(outputs), dict(data.targets)
    if wanted != given:
        raise ModelError(
            f"Loss {loss.name!r} takes {_listed(wanted)} of this model's outputs, and data set {data.name} has "
            f"{_listed(given)}: choose another loss, or make the two alike."
        )
    parts = {"training": (data.train_targets, data.train_count), "test": (data.test_targets, data.test_count)}
    for part, (targets, count) in parts.items():
        every = targets(np.arange(count))
        try:
            loss.check(every, outputs)
        except MestError as error:
            raise DataError(f"the {part} targets of data set {data.name} do not fit: {error}") from error
        if loss.labelled and any((labels < 0).any() for labels in every.values()):
            raise DataError(
                f"the {part} targets of data set {data.name} hold labels below 0: leave out examples without a label"
            )


def _listed(specs: Mapping[str, TensorSpec]) -> str:
    forms = {name: ", ".join(map(str, ("batch", *spec.shape))) for name, spec in specs.items()}
    return ", ".join(f"{name} {specs[name].dtype} [{form}]" for name, form in forms.items())
