"""Which settings a recipe's optimiser, loss and method have, and their usual values."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mest_compiler.errors import MestError
from mest_compiler.losses import loss_of
from mest_compiler.optimizers import optimizer_of
from mest_compiler.sparsity.methods import method_of
from mest_compiler.training.recipe_values import converted

OF_OPTIMIZER = ("momentum", "nesterov", "betas", "eps", "weight_decay")
OF_METHOD = ("p", "mutate_every", "mutate_until", "p_milestones", "p_decay", "importance_lambda")
"""Fields of a recipe that are settings of its optimiser and of its method. None asks for the usual value; where there
is no such setting it stays None."""


def filled_settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The learning rate, OF_OPTIMIZER, OF_METHOD and "settings" of a recipe whose fields have their types.

    Settings of another optimiser are left out, as those that a recipe names for its own are where an option chooses
    another one.

    Raises:
        MestError: there is no such optimiser, loss or method, the method has no such setting, or nothing has it.
    """
    optimizer, loss = type(optimizer_of(recipe["optimizer"], {})), type(loss_of(recipe["loss"], {}))
    method = type(method_of(recipe["method"], {}))
    filled = {"lr": optimizer.usual_rate if recipe["lr"] is None else recipe["lr"]}
    for kind, names in ((optimizer, OF_OPTIMIZER), (method, OF_METHOD)):
        own = {field.name for field in fields(kind)}
        for name in names:
            filled[name] = recipe[name] if name in own else None
            if name in own and recipe[name] is None:
                filled[name] = getattr(kind, name)
            elif kind is method and name not in own and recipe[name] is not None:
                raise MestError(f"{name} of a recipe is no setting of method {recipe['method']!r}: leave it out")
    types = {field.name: field.type for kind in (optimizer, loss, method) for field in fields(kind) if field.init}
    filled["settings"] = {}
    for name, value in recipe["settings"].items():
        if name in recipe:
            raise MestError(f"settings of a recipe has {name!r}, which is a key beside it: move it there")
        if name not in types:
            raise MestError(
                f"settings of a recipe has {name!r}, which is none of optimiser {recipe['optimizer']!r}, loss "
                f"{recipe['loss']!r} or method {recipe['method']!r}: leave it out"
            )
        kind = types[name]
        kind = kind if isinstance(kind, str) else inspect.formatannotation(kind)
        filled["settings"][name] = converted(name, kind, value)
    return filled
