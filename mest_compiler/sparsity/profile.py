"""Which layer is sparse, under which scheme and at which ratio: the one place where a ratio is decided.

By default every convolution but the first is sparse at one uniform ratio (paper, section 5); a profile may
say otherwise layer by layer (Appendix K). As YAML:

    scheme: block
    sparsity: 0.9
    first: dense            # the first convolution; `sparse` gives it the default ratio too
    layers:                 # names, or patterns with shell wildcards; the last that matches a layer counts
      "layer3.*": {scheme: unstructured, sparsity: 0.95}
      "layer1.0.conv1.weight": dense
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from mest_compiler.errors import ProfileError

from .profile_yaml import read_mapping
from .schemes import Shape, check_sparsity, get_scheme

DENSE = "dense"
_FIRST = (DENSE, "sparse")
_KEYS = ("scheme", "sparsity", "first", "layers")
_LAYER_KEYS = ("scheme", "sparsity")


@dataclass(frozen=True)
class LayerPlan:
    """What one sparse layer gets.

    Attributes:
        scheme: a name in the registry; an alias is replaced by the name.
        sparsity: fraction of the layer's weights that are zero, in [0, 1).
    """

    scheme: str
    sparsity: float

    def __post_init__(self) -> None:
        """Normalise the spelling; raise ProfileError for an unknown scheme or a ratio outside [0, 1)."""
        check_sparsity("a layer", self.sparsity)
        object.__setattr__(self, "scheme", get_scheme(self.scheme).name)
        object.__setattr__(self, "sparsity", float(self.sparsity))


@dataclass(frozen=True)
class Profile:
    """A default scheme and ratio, a rule for the first convolution, and exceptions by layer.

    Attributes:
        default: of every convolution that nothing else is said about; a sparsity of 0 means dense.
        first: "dense" or "sparse": whether the network's first convolution is treated as the others are.
            "dense" holds against wildcards in `layers` too; only an entry with its exact name overrules it.
        layers: name or pattern (fnmatch, case-sensitive) to a plan, or None for dense; the last match counts.
    """

    default: LayerPlan
    first: str = DENSE
    layers: Mapping[str, LayerPlan | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ProfileError for a `first` that is neither dense nor sparse."""
        if self.first not in _FIRST:
            raise ProfileError(f"Key 'first' of a sparsity profile is {self.first!r}: use {' or '.join(_FIRST)}.")

    @classmethod
    def uniform(cls, scheme: str, sparsity: float) -> Profile:
        """Every convolution but the first at this ratio.

        Raises:
            ProfileError: unknown scheme, or a sparsity outside [0, 1).
        """
        return cls(LayerPlan(scheme, sparsity))

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """The profile of a YAML file in the form of this module's docstring.

        Raises:
            ProfileError: the file cannot be read or is no profile; the sentence names the file.
        """
        try:
            return cls.from_mapping(read_mapping(Path(path)))
        except ProfileError as error:
            raise ProfileError(f"Sparsity profile {path}: {error}") from error

    @classmethod
    def from_mapping(cls, content: Mapping[str, object]) -> Profile:
        """The profile that a mapping in the YAML form describes.

        Raises:
            ProfileError: a key, scheme, ratio or rule is unknown or missing.
        """
        _check_keys("a sparsity profile", content, _KEYS)
        for key in _LAYER_KEYS:
            if key not in content:
                raise ProfileError(f"A sparsity profile needs the key {key!r}: add it.")
        default = _plan("the default", content)
        rules = content.get("layers")
        if not isinstance(rules, Mapping | None):
            raise ProfileError("Key 'layers' of a sparsity profile is no mapping: write `name: rule` lines.")
        layers = {str(pattern): _rule(str(pattern), rule, default) for pattern, rule in (rules or {}).items()}
        return cls(default, content.get("first", DENSE), layers)

    def dump(self) -> str:
        """This profile as YAML text, which `load` reads back to an equal one."""
        content: dict[str, object] = {**_as_mapping(self.default), "first": self.first}
        if self.layers:
            content["layers"] = {
                pattern: DENSE if plan is None else _as_mapping(plan) for pattern, plan in self.layers.items()
            }
        return yaml.safe_dump(content, sort_keys=False)

    def assign(self, layers: Mapping[str, Shape]) -> dict[str, LayerPlan]:
        """The plan of every sparse layer, in network order; layers that stay dense are absent.

        Args:
            layers: weight shape (F, C, kh, kw) by parameter name of each convolution that may be sparse, in
                network order.

        Raises:
            ProfileError: a pattern matches no layer, a scheme cannot cut a layer's shape, or a ratio leaves
                nothing of a layer.
        """
        for pattern in self.layers:
            if not any(fnmatchcase(name, pattern) for name in layers):
                raise ProfileError(
                    f"{pattern!r} in the sparsity profile matches no convolution of the model"
                    f"{_nearest(pattern, layers)}."
                )
        plans = {}
        for position, (name, shape) in enumerate(layers.items()):
            plan = self._plan_of(name, is_first=position == 0)
            if plan is None or plan.sparsity == 0:
                continue
            scheme = get_scheme(plan.scheme)
            scheme.check_shape(name, shape)
            if not scheme.kept_units(shape, plan.sparsity):
                raise ProfileError(
                    f"A sparsity of {plan.sparsity} keeps none of the {scheme.units(shape)} units of layer "
                    f"{name!r}: lower it or keep the layer dense."
                )
            plans[name] = plan
        return plans

    def _plan_of(self, name: str, is_first: bool) -> LayerPlan | None:
        """The rule that counts for a layer, None for dense."""
        if is_first and self.first == DENSE:
            return self.layers.get(name)
        matching = [plan for pattern, plan in self.layers.items() if fnmatchcase(name, pattern)]
        return matching[-1] if matching else self.default


def _rule(pattern: str, rule: object, default: LayerPlan) -> LayerPlan | None:
    """The plan that one entry of `layers` gives, None for dense; what it leaves out is the default's."""
    if rule == DENSE:
        return None
    if not isinstance(rule, Mapping) or not rule:
        raise ProfileError(
            f"The rule of layer {pattern!r} is {rule!r}: write {DENSE} or a mapping with scheme and sparsity."
        )
    _check_keys(f"layer {pattern!r}", rule, _LAYER_KEYS)
    return _plan(f"layer {pattern!r}", {**_as_mapping(default), **rule})


def _plan(where: str, content: Mapping[str, object]) -> LayerPlan:
    """The plan of a mapping's scheme and sparsity; errors name the place."""
    check_sparsity(where, content["sparsity"])
    return LayerPlan(content["scheme"], content["sparsity"])


def _as_mapping(plan: LayerPlan) -> dict[str, object]:
    """A plan in the YAML form."""
    return {"scheme": plan.scheme, "sparsity": plan.sparsity}


def _check_keys(where: str, content: Mapping[str, object], known: tuple[str, ...]) -> None:
    """Raise ProfileError for the first key that is not known."""
    for key in content:
        if key not in known:
            raise ProfileError(f"{key!r} is no key of {where}: use {', '.join(known)}.")


def _nearest(pattern: str, names: Mapping[str, Shape]) -> str:
    """Advice: the layer's name closest to a pattern, if one is close."""
    close = difflib.get_close_matches(pattern, names, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ": take a name of one of its parameters"
