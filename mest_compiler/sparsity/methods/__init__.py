"""Methods of sparse training: a file and a line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mest_compiler.errors import ProfileError

from ..mutation_schedule import EM, EM_S, STATIC, VANILLA
from .base import Clock, MaskedLayer, MaskUpdater, Need, Network
from .mest import ElasticMutation, Mest, SoftBoundedMutation, Static, Vanilla
from .set import Set

METHODS: dict[str, type[MaskUpdater]] = {
    STATIC: Static,
    VANILLA: Vanilla,
    EM: ElasticMutation,
    EM_S: SoftBoundedMutation,
    "set": Set,
}

__all__ = ["METHODS", "Clock", "MaskUpdater", "MaskedLayer", "Mest", "Need", "Network", "Set", "method_of"]


def method_of(name: str, settings: Mapping[str, Any]) -> MaskUpdater:
    """The method of this name; settings of others are left.

    Raises:
        ProfileError: there is none of this name, or a setting cannot be.
    """
    if name not in METHODS:
        raise ProfileError(f"There is no method {name!r}: choose {', '.join(METHODS)}.")
    kind = METHODS[name]
    return kind(**{key: settings[key] for key in kind.setting_names() if key in settings})
