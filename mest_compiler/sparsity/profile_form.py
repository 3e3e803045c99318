"""The YAML forms of a sparsity profile: ours, and the `prune_ratios` of the MEST authors' scripts."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from mest_compiler.errors import ProfileError

from .layer_ratios import UNIFORM
from .layer_rules import DENSE, LayerPlan, Rule
from .schemes import check_sparsity

_PRUNE_RATIOS = "prune_ratios"
_KEYS = ("scheme", "sparsity", "first", "ratio", "kinds", "layers")
_PRUNE_KEYS = (_PRUNE_RATIOS, "scheme")
_RULE_KEYS = ("scheme", "sparsity")
_PARALLEL, _WEIGHT = "module.", ".weight"
"""What DataParallel puts before a parameter's name, and how a weight's name ends."""


def read_profile(content: Mapping[str, object], scheme: str | None = None) -> dict[str, object]:
    """The fields of the `Profile` that a mapping describes.

    Args:
        content: in one of the two forms.
        scheme: of the second form, where it does not say its own.

    Raises:
        ProfileError: a key, scheme, ratio or rule is unknown, missing or said twice.
    """
    if _PRUNE_RATIOS in content:
        return _read_prune_ratios(content, scheme)
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


def _read_prune_ratios(content: Mapping[str, object], scheme: str | None) -> dict[str, object]:
    """Exactly the named layers are sparse; a ratio of 0 means dense."""
    _check_keys(f"a sparsity profile with {_PRUNE_RATIOS}", content, _PRUNE_KEYS)
    if "scheme" in content and scheme is not None:
        raise ProfileError(f"it says its scheme itself: leave out the scheme {scheme!r} that was given beside it.")
    chosen = content.get("scheme", scheme)
    if chosen is None:
        raise ProfileError(f"{_PRUNE_RATIOS} need a scheme: add the key 'scheme', or give --scheme.")
    layers: dict[str, Rule] = {}
    for name, sparsity in _mapping(_PRUNE_RATIOS, content).items():
        parameter = str(name).removeprefix(_PARALLEL)
        parameter = parameter if parameter.endswith(_WEIGHT) else parameter + _WEIGHT
        if parameter in layers:
            raise ProfileError(
                f"The ratio of {parameter!r} is said twice, the second time as {name!r}: keep one of them."
            )
        check_sparsity(f"layer {parameter!r}", sparsity)
        layers[parameter] = Rule(chosen, sparsity)
    return {"default": LayerPlan(chosen, 0.0), "layers": layers}


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
