"""The YAML forms of a sparsity profile: ours, and the `prune_ratios` of the MEST authors' scripts."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from mest_compiler.errors import ProfileError

from .layer_ratios import UNIFORM
from .layer_rules import DENSE, LayerPlan, Rule
from .schemes import check_sparsity, get_scheme

_PRUNE_RATIOS = ("prune_ratios", "prune_ratio")
_KEYS = ("scheme", "sparsity", "first", "ratio", "kinds", "layers")
_PRUNE_KEYS = (*_PRUNE_RATIOS, "scheme")
_RULE_KEYS = ("scheme", "sparsity")
KERNELS, WEIGHTS = "kernels", "weights"
RATIOS = (KERNELS, WEIGHTS)
"""What the ratios of `prune_ratios` can be fractions of."""
_PARALLEL, _WEIGHT = "module.", ".weight"
"""What DataParallel puts before a parameter's name, and how a weight's name ends."""


def read_profile(
    content: Mapping[str, object],
    scheme: str | None = None,
    ratios: str | None = None,
    otherwise: str | None = None,
) -> dict[str, object]:
    """The fields of the `Profile` that a mapping describes.

    Args:
        content: in one of the two forms.
        scheme: of the second form, where it does not say its own.
        ratios: one of RATIOS: what those of the second form are fractions of; None: of weights.
        otherwise: scheme of the second form where nothing says one; None: that is refused.

    Raises:
        ProfileError: a key, scheme, ratio or rule is unknown, missing or said twice.
    """
    if ratios is not None and ratios not in RATIOS:
        raise ProfileError(f"its ratios cannot be those of {ratios!r}: use {' or '.join(RATIOS)}.")
    if any(key in content for key in _PRUNE_RATIOS):
        return _read_prune_ratios(content, scheme, ratios, otherwise)
    if ratios == KERNELS:
        raise ProfileError(f"its ratios are of weights, as all but {_PRUNE_RATIOS[0]} are: do not say {KERNELS}.")
    if scheme is not None:
        raise ProfileError(f"it says its schemes itself: leave out the scheme {scheme!r} that was given beside it.")
    _check_keys("a sparsity profile", content, _KEYS)
    for key in _RULE_KEYS:
        if key not in content:
            raise ProfileError(f"A sparsity profile needs the key {key!r}: add it.")
    check_sparsity("the default", content["sparsity"])
    return {
        "default": LayerPlan(content["scheme"], content["sparsity"]),
        "first": content.get("first", DENSE),
        "ratio": content.get("ratio", UNIFORM),
        "kinds": {kind: _rule(f"kind {kind!r}", rule) for kind, rule in _mapping("kinds", content).items()},
        "layers": {
            str(pattern): _rule(f"layer {str(pattern)!r}", rule)
            for pattern, rule in _mapping("layers", content).items()
        },
    }


def dump_profile(
    default: LayerPlan, first: str, ratio: str, kinds: Mapping[str, Rule | None], layers: Mapping[str, Rule | None]
) -> str:
    """A profile's fields as YAML text, from which `read_profile` makes the same."""
    content: dict[str, object] = {
        "scheme": default.scheme,
        "sparsity": default.sparsity,
        "first": first,
        "ratio": ratio,
    }
    for key, rules in (("kinds", kinds), ("layers", layers)):
        if rules:
            content[key] = {name: _as_yaml(rule) for name, rule in rules.items()}
    return yaml.safe_dump(content, sort_keys=False)


def _read_prune_ratios(
    content: Mapping[str, object], scheme: str | None, ratios: str | None, otherwise: str | None
) -> dict[str, object]:
    """Exactly the named layers are sparse; a ratio of 0 means dense. Keys of other methods, such as ADMM's rho, are
    left; `notes` names them, and says what the ratios were taken for."""
    key, *second = [key for key in _PRUNE_RATIOS if key in content]
    if second:
        raise ProfileError(f"it has both {key!r} and {second[0]!r}: keep one of them.")
    if ours := [other for other in content if other in _KEYS and other not in _PRUNE_KEYS]:
        raise ProfileError(
            f"{ours[0]!r} is no key of a sparsity profile with {key}: use {key} and scheme, or layers instead of {key}."
        )
    if "scheme" in content and scheme is not None:
        raise ProfileError(f"it says its scheme itself: leave out the scheme {scheme!r} that was given beside it.")
    said = content.get("scheme", scheme)
    chosen = otherwise if said is None else said
    if chosen is None:
        raise ProfileError(f"{key} need a scheme: add the key 'scheme', or give --scheme.")
    kind = get_scheme(chosen)
    layers: dict[str, Rule] = {}
    for name, ratio in _mapping(key, content).items():
        parameter = str(name).removeprefix(_PARALLEL)
        parameter = parameter if parameter.endswith(_WEIGHT) else parameter + _WEIGHT
        if parameter in layers:
            raise ProfileError(
                f"The ratio of {parameter!r} is said twice, the second time as {name!r}: keep one of them."
            )
        where = f"layer {parameter!r}"
        check_sparsity(where, ratio)
        layers[parameter] = Rule(
            chosen, kind.sparsity_of_kernels(where, ratio) if ratios == KERNELS and ratio else ratio
        )
    notes = []
    if left := [str(other) for other in content if other not in _PRUNE_KEYS]:
        notes.append(f"keys that say nothing here were left: {', '.join(left)}")
    if said is None:
        notes.append(f"no scheme is said, so {chosen} is taken")
    taken = ratios or f"{WEIGHTS} (--profile-ratios says nothing else)"
    notes.append(f"{key} are taken as fractions of {taken}")
    return {"default": LayerPlan(chosen, 0.0), "layers": layers, "notes": tuple(notes)}


def _rule(where: str, rule: object) -> Rule | None:
    """The rule that one entry of `kinds` or `layers` gives, None for dense."""
    if rule == DENSE:
        return None
    if isinstance(rule, str):
        rule = {"scheme": rule}
    if not isinstance(rule, Mapping) or not rule:
        raise ProfileError(
            f"The rule of {where} is {rule!r}: write {DENSE}, a scheme, or a mapping with scheme and sparsity."
        )
    _check_keys(where, rule, _RULE_KEYS)
    if "sparsity" in rule:
        check_sparsity(where, rule["sparsity"])
    try:
        return Rule(_said("scheme", rule), rule.get("sparsity"))
    except ProfileError as error:
        raise ProfileError(f"The rule of {where} cannot be: {error}") from error


def _said(key: str, rule: Mapping[str, object]) -> object:
    """A key's value, None only where the key is absent."""
    return str(rule[key]) if key in rule else None


def _as_yaml(rule: Rule | None) -> object:
    """A rule in the YAML form."""
    if rule is None:
        return DENSE
    if rule.sparsity is None:
        return rule.scheme
    return {key: value for key in _RULE_KEYS if (value := getattr(rule, key)) is not None}


def _mapping(key: str, content: Mapping[str, object]) -> Mapping[object, object]:
    """The mapping under a key; empty where there is none."""
    found = content.get(key)
    if not isinstance(found, Mapping | None):
        raise ProfileError(f"Key {key!r} of a sparsity profile is no mapping: write `name: rule` lines.")
    return found or {}


def _check_keys(where: str, content: Mapping[str, object], known: tuple[str, ...]) -> None:
    """Raise ProfileError for the first key that is not known."""
    for key in content:
        if key not in known:
            raise ProfileError(f"{key!r} is no key of {where}: use {', '.join(known)}.")
