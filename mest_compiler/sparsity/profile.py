"""Which layer is sparse, under which scheme and at which ratio: the one place where a ratio is decided.

By default every convolution but the first is sparse at one uniform ratio (paper, section 5); a profile may give schemes
and ratios to kinds of layers and to single ones (Appendix K). As YAML, where only the first two keys are needed:

    scheme: block
    sparsity: 0.9           # overall, of the weights of all layers whose ratio is not said below
    first: dense            # the first convolution; `sparse` treats it as the others
    ratio: proportional     # how the sparsity is shared out: uniform, proportional or "1.12:1"; see `layer_ratios`
    kinds:                  # by kernel, or linear; a scheme, dense, or a mapping
      3x3: pattern
      1x1: {scheme: block, sparsity: 0.85}
      linear: dense
    layers:                 # names, or patterns with shell wildcards; the last that matches a layer counts
      "layer3.*": {scheme: unstructured, sparsity: 0.95}
      "layer1.0.conv1.weight": dense

Layers overrule kinds, and kinds the default; what a rule leaves out is as the next says. The form of the MEST authors'
scripts, `prune_ratios: {"layer1.0.conv1.weight": 0.9}` (or `prune_ratio`, and `scheme:`), is read too: exactly those
layers are sparse, and keys of other methods beside it are left. Its ratios are fractions of weights, or of kernels
where that is said: of a pattern network 0.775 of the kernels are 0.9 of the weights.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path

from mest_compiler.errors import ProfileError

from .decisions import (
    BY_PROFILE,
    CLASSIFIER,
    FIRST,
    LINEAR_BESIDE,
    NEVER_ASKED,
    NO_SHARE,
    Decision,
    Decisions,
)
from .layer_ratios import UNIFORM, check_ratio_rule, share_out
from .layer_rules import DENSE, LINEAR, Layer, LayerPlan, Rule, check_kind
from .profile_form import dump_profile, read_profile
from .profile_yaml import read_mapping
from .schemes import SCHEMES, Scheme, Shape, get_scheme

__all__ = ["DENSE", "LayerPlan", "Profile", "Rule"]

_FIRST = (DENSE, "sparse")
Rules = Mapping[str, Rule | LayerPlan | None]


@dataclass(frozen=True)
class Profile:
    """A default scheme and ratio, and exceptions from them.

    Attributes:
        default: the scheme of every convolution that nothing else is said about, and the overall sparsity of all
            layers whose ratio is not said; a sparsity of 0 means dense. It leaves those layers dense that it cannot
            take: whose shape the scheme cannot cut (the paper's own pattern networks keep dense 1x1 convolutions), or
            of whose few units rounding keeps all or none.
        first: "dense" or "sparse": whether the network's first convolution is treated as the others are.
            "dense" holds against kinds and wildcards too; only an entry of `layers` with its exact name overrules it.
        layers: name or pattern (fnmatch, case-sensitive) to a rule or a plan, or None for dense; the last match counts.
        ratio: how the sparsity is shared out, see `layer_ratios`.
        kinds: "HxW" (kernel) or "linear" to a rule or a plan, or None for dense. Linear layers are dense unless
            `linear` or an entry of `layers` says otherwise; a wildcard does that only where it matches no convolution.
            Where there is no convolution to make sparse, the default takes linear layers too, but for the last of
            several: that tells the classes apart, and MEST keeps it dense.
        notes: what whoever gave the file should know of how it was read, in words.
    """

    default: LayerPlan
    first: str = DENSE
    layers: Rules = field(default_factory=dict)
    ratio: str = UNIFORM
    kinds: Rules = field(default_factory=dict)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        """Make all rules `Rule`s; raise ProfileError for a word that is none of those known."""
        if self.first not in _FIRST:
            raise ProfileError(f"Key 'first' of a sparsity profile is {self.first!r}: use {' or '.join(_FIRST)}.")
        check_ratio_rule(self.ratio)
        for kind in self.kinds:
            check_kind(kind)
        for name in ("layers", "kinds"):
            rules = getattr(self, name).items()
            object.__setattr__(self, name, {key: rule and Rule(rule.scheme, rule.sparsity) for key, rule in rules})

    @classmethod
    def uniform(cls, scheme: str, sparsity: float) -> Profile:
        """Every convolution but the first at this ratio; of a network without such, every linear layer but the last.

        Raises:
            ProfileError: unknown scheme, or a sparsity outside [0, 1).
        """
        return cls(LayerPlan(scheme, sparsity))

    @classmethod
    def load(
        cls, path: str | Path, scheme: str | None = None, ratios: str | None = None, otherwise: str | None = None
    ) -> Profile:
        """The profile of a YAML file in one of the forms of this module's docstring.

        Args:
            path: the file.
            scheme: of a file with `prune_ratios` that does not say its own.
            ratios: "weights" or "kernels": what the ratios of such a file are fractions of; None: of weights.
            otherwise: the scheme of such a file where neither it nor `scheme` says one; None: that is refused.

        Raises:
            ProfileError: the file cannot be read or is no profile; the sentence names the file.
        """
        try:
            return cls.from_mapping(read_mapping(Path(path)), scheme, ratios, otherwise)
        except ProfileError as error:
            raise ProfileError(f"Sparsity profile {path}: {error}") from error

    @classmethod
    def from_mapping(
        cls,
        content: Mapping[str, object],
        scheme: str | None = None,
        ratios: str | None = None,
        otherwise: str | None = None,
    ) -> Profile:
        """The profile that a mapping in one of the YAML forms describes; the other arguments as in `load`.

        Raises:
            ProfileError: a key, scheme, ratio or rule is unknown, missing or said twice.
        """
        return cls(**read_profile(content, scheme, ratios, otherwise))

    def dump(self) -> str:
        """This profile as YAML text, which `load` reads back to an equal one."""
        return dump_profile(self.default, self.first, self.ratio, self.kinds, self.layers)

    def assign(
        self, layers: Mapping[str, Shape], linears: Mapping[str, tuple[int, int]] | None = None
    ) -> dict[str, LayerPlan]:
        """The plan of every sparse layer, as `decide`; layers that stay dense are absent."""
        return self.decide(layers, linears).plans

    def decide(
        self,
        layers: Mapping[str, Shape],
        linears: Mapping[str, tuple[int, int]] | None = None,
        dense: Mapping[str, tuple[Shape, str]] | None = None,
    ) -> Decisions:
        """What every layer gets, and why those that stay dense do, in the order of the arguments.

        Args:
            layers: weight shape (F, C, kh, kw) by parameter name of each convolution that may be sparse, in
                network order.
            linears: weight shape (F, C) by parameter name of each linear layer; None: they cannot be sparse here.
            dense: of layers that cannot be sparse, and why; see `unfit`.

        Raises:
            ProfileError: a pattern matches no layer, a ratio is out of its scheme's range, the overall sparsity cannot
                be had, or a layer is named that cannot be as it is said: its scheme cannot cut it, or its ratio
                leaves nothing of it.
        """
        known = [Layer(name, tuple(shape), first=not i) for i, (name, shape) in enumerate(layers.items())]
        known += [Layer(name, (*shape, 1, 1), linear=True) for name, shape in (linears or {}).items()]
        self._check_rules(known, linears is not None)
        of_convolutions = {pattern for pattern in self.layers if any(_matches(pattern, name) for name in layers)}
        by_default = self._linears_by_default(known)
        choices = {layer: self._choice(layer, of_convolutions, by_default) for layer in known}
        ruled = {layer: c.scheme for layer, c in choices.items() if c.scheme is not None and c.ratio is None}
        shares = share_out(self.ratio, self.default.sparsity, [(layer.shape, s) for layer, s in ruled.items()])
        share = dict(zip(ruled, shares, strict=True))
        found = [_decision(layer, choice, share.get(layer)) for layer, choice in choices.items()]
        found += [Decision(n, s, self.default.sparsity, None, why) for n, (s, why) in (dense or {}).items()]
        return Decisions(self.default.scheme, tuple(found))

    def resolved(self, layers: Mapping[str, Shape], linears: Mapping[str, tuple[int, int]] | None = None) -> Profile:
        """The profile that says the same of this network with an entry a layer; arguments and errors of `assign`."""
        plans = self.assign(layers, linears)
        every = {name: plans.get(name) for name in (*layers, *(linears or {}))}
        return Profile(LayerPlan(self.default.scheme, 0.0), layers=every)

    def _check_rules(self, known: list[Layer], with_linears: bool) -> None:
        """Raise ProfileError for a rule that matches no layer, or of linear layers where none can be sparse."""
        names = [layer.name for layer in known]
        for pattern in self.layers:
            if not any(_matches(pattern, name) for name in names):
                raise ProfileError(
                    f"{pattern!r} in the sparsity profile matches no convolution {'or linear layer ' * with_linears}"
                    f"of the model that can be sparse{_nearest(pattern, names)}."
                )
        if not with_linears and self.kinds.get(LINEAR) is not None:
            raise ProfileError(
                "The sparsity profile makes linear layers sparse, which cannot be had here: keep them dense."
            )

    def _linears_by_default(self, known: list[Layer]) -> dict[str, str | None]:
        """Of each linear layer, by name, why the default leaves it dense; None where it takes it."""
        linears = [layer.name for layer in known if layer.linear]
        if any(not layer.linear and not (layer.first and self.first == DENSE) for layer in known):
            return dict.fromkeys(linears, LINEAR_BESIDE)
        taken = linears if len(known) == 1 else linears[:-1]
        return {name: None if name in taken else CLASSIFIER for name in linears}

    def _choice(self, layer: Layer, of_convolutions: set[str], linears: Mapping[str, str | None]) -> _Choice:
        """A layer's scheme and ratio as the rules say, or why it stays dense. linears: of `_linears_by_default`."""
        usual, rules = self.default.sparsity, self._rules_of(layer, of_convolutions)
        if layer.linear and rules == [] and linears[layer.name] is not None:
            return _Choice(usual, why=linears[layer.name])
        if rules is None:
            first = layer.first and self.first == DENSE and layer.name not in self.layers
            return _Choice(usual, why=FIRST) if first else _Choice(0.0, why=BY_PROFILE)
        ratio = _first_said(rule.sparsity for rule in rules)
        if ratio == 0 or (ratio is None and not usual):
            return _Choice(0.0, why=BY_PROFILE)
        said = _first_said(rule.scheme for rule in rules)
        scheme = get_scheme(self.default.scheme if said is None else said)
        named = said is not None or layer.name in self.layers or self.kinds.get(layer.kind) is not None
        foreign = layer.linear and not scheme.of_linears
        why = f"linear layers, which scheme {scheme.name!r} is not for" if foreign else scheme.misfit(layer.shape)
        if why is not None and not named:
            return _Choice(usual if ratio is None else ratio, why=why)
        if foreign:
            raise ProfileError(
                f"Layer {layer.name!r} is linear, and scheme {scheme.name!r} is not for such: use "
                f"{', '.join(name for name, one in SCHEMES.items() if one.of_linears)} or block:MxN, or keep it dense."
            )
        scheme.check_shape(layer.name, layer.shape)
        return _Choice(ratio, scheme, named=named)

    def _rules_of(self, layer: Layer, of_convolutions: set[str]) -> list[Rule] | None:
        """What is said about a layer beside the default, the most special first; None for dense."""
        patterns = [pattern for pattern in self.layers if _matches(pattern, layer.name)]
        if layer.linear:
            patterns = [pattern for pattern in patterns if pattern == layer.name or pattern not in of_convolutions]
        kind = [self.kinds[layer.kind]] if layer.kind in self.kinds else []
        if layer.first and self.first == DENSE:
            said = [self.layers.get(layer.name), *kind]
        else:
            said = [*(self.layers[pattern] for pattern in patterns[-1:]), *kind]
        return None if said[:1] == [None] else [rule for rule in said if rule is not None]


@dataclass(frozen=True)
class _Choice:
    """What the rules say of one layer.

    ratio: as said, None where it is to be solved for. scheme: None: dense. why: it is. named: whether a rule means just
    this layer, or just its kind, or gives it its scheme.
    """

    ratio: float | None
    scheme: Scheme | None = None
    why: str = NEVER_ASKED
    named: bool = False


def _decision(layer: Layer, choice: _Choice, share: float | None) -> Decision:
    """The decision about a layer; share: its part of the overall sparsity, None where its ratio is said.

    Raises:
        ProfileError: a ratio that the scheme cannot have, or one that leaves nothing of a layer that is named.
    """
    ratio = choice.ratio if share is None else share
    if choice.scheme is None:
        return Decision(layer.name, layer.shape, ratio, None, choice.why)
    if not ratio:
        return Decision(layer.name, layer.shape, 0.0, None, NO_SHARE)
    scheme, shape = choice.scheme, layer.shape
    scheme.check_ratio(f"layer {layer.name!r}", ratio)
    kept, units = scheme.kept_units(shape, ratio), scheme.most_kept(shape)
    if not kept and choice.named:
        raise ProfileError(
            f"A sparsity of {ratio} keeps none of the {units} units of layer {layer.name!r}: lower it or keep the "
            "layer dense."
        )
    whole = kept * scheme.unit_size(shape) == prod(shape)
    if (not kept or whole) and not choice.named:
        verb = "removes" if whole else "keeps"
        why = f"a sparsity of {ratio:g} {verb} none of its {units} units of scheme {scheme.name!r}"
        return Decision(layer.name, layer.shape, ratio, None, why)
    return Decision(layer.name, layer.shape, ratio, LayerPlan(scheme.name, ratio))


def _first_said(values: Iterable) -> object:
    """The first value that is not None."""
    return next((value for value in values if value is not None), None)


def _matches(pattern: str, name: str) -> bool:
    """Whether an entry of `layers` is a layer's name, or a pattern of it."""
    return pattern == name or fnmatchcase(name, pattern)


def _nearest(pattern: str, names: list[str]) -> str:
    """Advice: the layer's name closest to a pattern, if one is close."""
    close = difflib.get_close_matches(pattern, names, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ": take a name of one of its parameters"
