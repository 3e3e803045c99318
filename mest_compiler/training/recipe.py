"""Recipes: everything that decides what a training run computes, in one file a person can read."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from mest_compiler.errors import MestError
from mest_compiler.files import write_text
from mest_compiler.losses import Loss, loss_of
from mest_compiler.optimizers import Optimizer, optimizer_of
from mest_compiler.sparsity.mutation_schedule import EM, EM_S, METHODS, STATIC, MutationSchedule
from mest_compiler.training.data_arrays import ARRAYS
from mest_compiler.training.schedule import cosine, step_decay

RECIPES = "mest_compiler.training.recipes"
SCHEDULES = ("cosine", "step")
FILES = ("profile", "data_root", "weights", "masks", "masks_from")
"""Fields that name a file or a folder."""
PLAIN_TYPES = {"int": (int, "a whole number"), "bool": (bool, "true or false"), "str": (str, "a text")}


@dataclass(frozen=True)
class Recipe:
    """One training run.

    model: a name from the models' registry or "file.py:callable"; width: the model's width factor; data: a data set's
    name, data_root the folder (of "arrays" the file) it is read from, size the height and width of its images where
    they are not the usual ones, and noise the deviation of Gaussian noise that is added to them, in normalised units,
    to make an easy set harder; optimizer: "sgd", "adam" or "adamw"; lr, end_lr: first and last learning rate (None: the
    usual one of the optimiser);
    warmup_epochs: linear warm-up before `lr`; schedule: "cosine", or "step" with `milestones` (epochs) at
    which the rate is multiplied by `decay`; momentum, nesterov of sgd, betas, eps of the others, and weight_decay
    (None: the usual one): as torch.optim has them; scheme
    and sparsity (fraction of weights that are zero, in [0, 1)) for one ratio everywhere, or profile, a YAML
    file with ratios by layer (profile_ratios says whether they are those of "weights" or of "kernels", scheme what a
    file without schemes means), or none of the three for a dense run; weights: a file of weights to start from, under
    weights_key in it, which scheme or profile prune by magnitude; masks: a file of masks to start from, or masks_from,
    one of pruned weights with their zeros, and with either a scheme is enough; seed: draws weights, masks, order,
    augmentation, dropouts and mutation; augment: whether images are moved as their data set says; examples: only so
    many training examples, equally many of each class; loss: "cross_entropy", "mse" or "bce_with_logits";
    label_smoothing of the first: as in torch.

    mutation: "static" (masks stay), "vanilla", "em" or "em&s", of the fraction p of each layer's weights, every
    mutate_every epochs (the paper's delta tau) until mutate_until (tau stop), p times p_decay at each of p_milestones;
    importance_lambda: of Eq. 1; see `sparsity.mutation_schedule`. de_epoch: data efficiency: after so many epochs the
    training examples that were forgotten at most de_threshold times are left out, or the de_remove ones that were
    forgotten least; see `forgetting`; it needs labels. MestError when a value cannot be.
    """

    model: str
    data: str
    epochs: int
    batch: int = 64
    optimizer: str = "sgd"
    lr: float | None = None
    end_lr: float = 0.0
    warmup_epochs: int = 0
    schedule: str = "cosine"
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, ...] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float | None = None
    width: float = 1.0
    scheme: str | None = None
    sparsity: float | None = None
    profile: str | None = None
    profile_ratios: str | None = None
    weights: str | None = None
    weights_key: str | None = None
    masks: str | None = None
    masks_from: str | None = None
    data_root: str | None = None
    augment: bool = True
    examples: int | None = None
    noise: float = 0.0
    size: int | None = None
    loss: str = "cross_entropy"
    label_smoothing: float = 0.0
    mutation: str = STATIC
    p: float = 0.05
    mutate_every: int = 5
    mutate_until: int = 0
    p_milestones: tuple[int, ...] = ()
    p_decay: float = 0.5
    importance_lambda: float = 0.01
    de_epoch: int | None = None
    de_threshold: int | None = None
    de_remove: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, _converted(field.name, field.type, value))
        kind = type(optimizer_of(self.optimizer, {}))
        for name, usual in (("lr", "usual_rate"), ("weight_decay", "weight_decay")):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(kind, usual))
        self._check_ranges()
        _ = self.rule, self.rule_of_loss  # raise where a setting cannot be
        if self.profile is not None and self.sparsity is not None:
            raise MestError("a recipe has either a profile or a scheme with its sparsity, not both: remove one of them")
        masked = self.masks is not None or self.masks_from is not None
        complete = self.profile is not None or masked or self.sparsity is not None
        if (self.scheme is not None and not complete) or (self.scheme is None and self.sparsity is not None):
            raise MestError(
                "a recipe names a scheme and its sparsity together: add the missing one or remove the other"
            )

    def _check_ranges(self) -> None:
        ranges = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch": (self.batch >= 1, "at least 1"),
            "lr": (self.lr > 0, "above 0"),
            "end_lr": (0 <= self.end_lr <= self.lr, "between 0 and lr"),
            "warmup_epochs": (0 <= self.warmup_epochs < self.epochs, "at least 0 and below epochs"),
            "schedule": (self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            "milestones": (
                self.schedule == "step" or not self.milestones,
                'left out unless schedule is "step"',
            ),
            "decay": (0 < self.decay <= 1, "above 0 and at most 1"),
            "width": (self.width > 0, "above 0"),
            "examples": (self.examples is None or self.examples >= 1, "at least 1"),
            "noise": (self.noise >= 0, "at least 0"),
            "size": (self.size is None or self.size >= 1, "at least 1"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "at least 0 and below 1"),
            "mutation": (self.mutation in METHODS, f"one of {', '.join(METHODS)}"),
            "p": (0 < self.p < 1, "above 0 and below 1"),
            "mutate_every": (self.mutate_every >= 1, "at least 1"),
            "mutate_until": (0 <= self.mutate_until <= self.epochs, f"at least 0 and at most epochs ({self.epochs})"),
            "p_decay": (0 < self.p_decay <= 1, "above 0 and at most 1"),
            "importance_lambda": (self.importance_lambda >= 0, "at least 0"),
            "de_epoch": (
                self.de_epoch is None or 1 <= self.de_epoch < self.epochs,
                f"at least 1 and below epochs ({self.epochs})",
            ),
            "de_threshold": (self.de_threshold is None or self.de_threshold >= 0, "at least 0"),
            "de_remove": (self.de_remove is None or self.de_remove >= 1, "at least 1"),
            "sparsity": (self.sparsity is None or 0 <= self.sparsity < 1, "at least 0 and below 1"),
            "seed": (self.seed >= 0, "at least 0"),
        }
        for name, (holds, rule) in ranges.items():
            if not holds:
                raise MestError(f"{name} of a recipe is {rule}, not {getattr(self, name)!r}")

        if self.mutation != STATIC and not self.mutate_until:
            raise MestError(f"mutation {self.mutation!r} of a recipe needs mutate_until, the epoch at which it ends")
        if self.mutation != STATIC and self.scheme is None and self.profile is None:
            raise MestError(f"mutation {self.mutation!r} of a recipe needs a scheme with its sparsity, or a profile")
        if self.mutation != STATIC and not any(self.mutations.phases(epoch) for epoch in range(self.epochs)):
            raise MestError(
                f"mutation {self.mutation!r} of a recipe never happens with mutate_every {self.mutate_every} and "
                f"mutate_until {self.mutate_until}: lower the one or raise the other"
            )
        if self.de_epoch is not None and not self.rule_of_loss.labelled:
            raise MestError(
                f"data efficiency of a recipe counts right and wrong labels, and loss {self.loss!r} has none: leave it "
                "out, or use cross_entropy"
            )
        ways = [name for name in ("de_threshold", "de_remove") if getattr(self, name) is not None]
        if len(ways) != (self.de_epoch is not None):
            raise MestError(
                "data efficiency of a recipe is de_epoch with de_threshold or with de_remove, one of the two"
            )

    def needed_by(self, field: str) -> str | None:
        """What a field would need to change anything of this run; None where it has it, or needs nothing."""
        works, needs = NEEDS.get(field, (lambda recipe: True, ""))
        return None if works(self) else needs

    @property
    def rule(self) -> Optimizer:
        """The optimiser with its settings."""
        return optimizer_of(self.optimizer, dataclasses.asdict(self))

    @property
    def rule_of_loss(self) -> Loss:
        """The loss with its settings."""
        return loss_of(self.loss, dataclasses.asdict(self))

    @property
    def mutations(self) -> MutationSchedule:
        """When and how far the network mutates."""
        return MutationSchedule(
            self.mutation, self.p, self.mutate_every, self.mutate_until, self.p_milestones, self.p_decay,
            self.importance_lambda,
        )  # fmt: skip

    def learning_rate(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of `step`, counted from 0 over the whole run of epochs * steps_per_epoch steps."""
        warmup_steps = self.warmup_epochs * steps_per_epoch
        if self.schedule == "cosine":
            return cosine(
                step,
                total_steps=self.epochs * steps_per_epoch,
                lr=self.lr,
                end_lr=self.end_lr,
                warmup_steps=warmup_steps,
            )
        boundaries = [epoch * steps_per_epoch for epoch in self.milestones]
        return step_decay(step, boundaries=boundaries, factor=self.decay, lr=self.lr, warmup_steps=warmup_steps)

    def as_mapping(self) -> dict[str, Any]:
        """All fields as plain YAML and JSON values."""
        fields = dataclasses.asdict(self)
        return fields | {name: list(value) for name, value in fields.items() if isinstance(value, tuple)}

    def text(self) -> str:
        """All fields as YAML, which `load` reads back."""
        return yaml.safe_dump(self.as_mapping(), sort_keys=False)

    def dump(self, path: Path) -> None:
        """Write `text`, whole or not at all."""
        write_text(path, self.text())

    @classmethod
    def from_mapping(cls, content: object, source: str) -> Recipe:
        """A recipe from a mapping of field names to values; `source` is named in errors."""
        if not isinstance(content, dict):
            raise MestError(f"{source} is no recipe: it holds no keys with values, such as 'model: resnet20'")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in content:
            if key not in fields:
                near = difflib.get_close_matches(str(key), fields, n=1)
                advice = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(fields)}"
                raise MestError(f"{source} has the unknown key {key!r}: {advice}")
        missing = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in content]
        if missing:
            raise MestError(
                f"{source} lacks the key{'s' * (len(missing) > 1)} {', '.join(missing)}: add what is missing"
            )
        try:
            return cls(**content)
        except MestError as error:
            raise MestError(f"{source}: {error}") from None

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read a YAML file, in which relative paths (profile, data_root, model) start at its own folder."""
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise MestError(f"recipe {path} cannot be read ({error}): name a YAML file") from None
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise MestError(f"recipe {path} is not YAML ({reason}): correct the file") from None
        recipe = cls.from_mapping(content, f"recipe {path}")
        folder = path.resolve().parent
        changes = {n: str(folder / value) for n in FILES if (value := getattr(recipe, n)) is not None}
        if ":" in recipe.model:
            changes["model"] = str(folder / recipe.model)
        return dataclasses.replace(recipe, **changes)


def _below(epochs: tuple[int, ...], end: int) -> bool:
    return all(epoch < end for epoch in epochs)


def _setting(of: str, words: str, name: str) -> tuple[Callable[[Recipe], bool], str]:
    """Of a field that is a setting of what a recipe's property `of` gives."""
    return (lambda recipe: name in getattr(recipe, of).facts()), words


_IMAGES = (lambda recipe: recipe.data != ARRAYS, "a data set of images")
_MUTATION = (lambda recipe: recipe.mutation != STATIC, "mutation em, em&s or vanilla")
NEEDS: dict[str, tuple[Callable[[Recipe], bool], str]] = {
    **{name: _setting("rule", "an optimiser that has it", name) for name in ("momentum", "nesterov", "betas", "eps")},
    "label_smoothing": _setting("rule_of_loss", "a loss that has it", "label_smoothing"),
    **dict.fromkeys(("size", "noise", "augment"), _IMAGES),
    "end_lr": (lambda r: r.schedule == "cosine", "schedule cosine"),
    "milestones": (lambda r: _below(r.milestones, r.epochs), "milestones below the number of epochs"),
    "decay": (lambda r: bool(r.milestones), "schedule step with milestones"),
    "p": _MUTATION,
    "mutate_every": _MUTATION,
    "mutate_until": _MUTATION,
    "importance_lambda": _MUTATION,
    "p_milestones": (
        lambda r: r.mutation in (EM, EM_S) and _below(r.p_milestones, r.mutate_until),
        "mutation em or em&s, and p_milestones below mutate_until",
    ),
    "p_decay": (lambda r: r.mutation in (EM, EM_S) and bool(r.p_milestones), "mutation em or em&s with p_milestones"),
}
"""Fields that do nothing in some recipes: where they do something, as a test and in words."""


def available_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    files = resources.files(RECIPES).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def described_recipes() -> dict[str, str]:
    """What each recipe of the package is, by its name: the first line of its file."""
    return {name: _text_of(name).partition("\n")[0].removeprefix("#").strip() for name in available_recipes()}


def load_recipe(name_or_path: str) -> Recipe:
    """A recipe of the package by its name ("demo"), or a YAML file by its path (it ends in .yaml or .yml)."""
    if name_or_path.endswith((".yaml", ".yml")):
        return Recipe.load(Path(name_or_path))
    known = available_recipes()
    if name_or_path not in known:
        near = difflib.get_close_matches(name_or_path, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise MestError(
            f"unknown recipe {name_or_path!r}{hint}: choose one of {', '.join(known)}, or name a .yaml file"
        )
    return Recipe.from_mapping(yaml.safe_load(_text_of(name_or_path)), f"recipe {name_or_path}")


def _text_of(name: str) -> str:
    return (resources.files(RECIPES) / f"{name}.yaml").read_text(encoding="utf-8")


def _converted(name: str, kind: str, value: object) -> object:
    """`value` as the field's type; numbers that YAML takes for text ("4e-8") are read, the rest must fit."""
    if value is None and kind.endswith("None"):
        return None
    kind = kind.removesuffix(" | None")
    if kind == "float":
        return _number(name, value)
    if kind.startswith("tuple"):
        entries = value if isinstance(value, list | tuple) else [None]
        if "float" in kind and None not in entries:
            return tuple(_number(name, entry) for entry in entries)
        if all(type(entry) is int and entry >= 0 for entry in entries):
            return tuple(entries)
        raise MestError(f"{name} of a recipe is a list of {'' if 'float' in kind else 'whole '}numbers, not {value!r}")
    wanted, said = PLAIN_TYPES[kind]
    # type(), because True is an int to isinstance.
    if type(value) is not wanted:
        raise MestError(f"{name} of a recipe is {said}, not {value!r}")
    return value


def _number(name: str, value: object) -> float:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
    raise MestError(f"{name} of a recipe is a number, not {value!r}")
