"""Recipes: everything that decides what a training run computes, in one file a person can read."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from mest_compiler.errors import MestError
from mest_compiler.files import write_text
from mest_compiler.losses import Loss, loss_of
from mest_compiler.optimizers import Optimizer, optimizer_of
from mest_compiler.sparsity.methods import METHODS, MaskUpdater, method_of
from mest_compiler.sparsity.mutation_schedule import STATIC, VANILLA
from mest_compiler.training.data_arrays import ARRAYS
from mest_compiler.training.recipe_settings import filled_settings
from mest_compiler.training.recipe_values import converted
from mest_compiler.training.schedule import cosine, step_decay

RECIPES = "mest_compiler.training.recipes"
SCHEDULES = ("cosine", "step")
FILES = ("profile", "data_root", "weights", "masks", "masks_from")
"""Fields that name a file or a folder."""
FORMER_NAMES = {"mutation": "method"}
"""What recipes and checkpoints of earlier versions call fields."""


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

    method: of sparse training, a name of `sparsity.methods`, "static" where masks stay; p, mutate_every, mutate_until,
    p_milestones, p_decay, importance_lambda: settings of methods that have them, see theirs. settings: those of the
    method, the optimiser and the loss that are no fields here, by name. de_epoch: data efficiency: after so many epochs
    the training examples that were forgotten at most de_threshold times are left out, or the de_remove ones that were
    forgotten least; see `forgetting`; it needs labels.

    Raises:
        MestError: a value cannot be.
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
    momentum: float | None = None
    nesterov: bool | None = None
    betas: tuple[float, ...] | None = None
    eps: float | None = None
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
    method: str = STATIC
    p: float | None = None
    mutate_every: int | None = None
    mutate_until: int | None = None
    p_milestones: tuple[int, ...] | None = None
    p_decay: float | None = None
    importance_lambda: float | None = None
    settings: dict[str, Any] = field(default_factory=dict, hash=False)
    de_epoch: int | None = None
    de_threshold: int | None = None
    de_remove: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):
            object.__setattr__(self, one.name, converted(one.name, one.type, getattr(self, one.name)))
        for name, value in filled_settings(dataclasses.asdict(self)).items():
            object.__setattr__(self, name, value)
        _ = self.rule, self.rule_of_loss, self.updater  # raise where a setting cannot be
        self._check_ranges()
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
            "mutate_until": (
                0 <= (self.mutate_until or 0) <= self.epochs,
                f"at least 0 and at most epochs ({self.epochs})",
            ),
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

        if self.mutates and self.mutate_until == 0:
            raise MestError(f"method {self.method!r} of a recipe needs mutate_until, the epoch at which it ends")
        if self.mutates and self.scheme is None and self.profile is None:
            raise MestError(f"method {self.method!r} of a recipe needs a scheme with its sparsity, or a profile")
        if self.mutates and not self.updater.changes_masks(self.epochs):
            raise MestError(
                f"method {self.method!r} of a recipe never changes a mask in {self.epochs} epochs with mutate_every "
                f"{self.mutate_every} and mutate_until {self.mutate_until}: lower the one or raise the other"
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
    def mutates(self) -> bool:
        """Whether masks change."""
        return self.method != STATIC

    @property
    def rule(self) -> Optimizer:
        """The optimiser with its settings."""
        return optimizer_of(self.optimizer, self._said())

    @property
    def rule_of_loss(self) -> Loss:
        """The loss with its settings."""
        return loss_of(self.loss, self._said())

    @property
    def updater(self) -> MaskUpdater:
        """The method with its settings, at the beginning of a run."""
        return method_of(self.method, self._said())

    def _said(self) -> dict[str, Any]:
        """All settings by name."""
        return dataclasses.asdict(self) | self.settings

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
        return _plain(fields) | {"settings": _plain(self.settings)}

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
        content = {k if FORMER_NAMES.get(k) in content else FORMER_NAMES.get(k, k): v for k, v in content.items()}
        for key in content:
            if key not in fields:
                near = difflib.get_close_matches(str(key), fields, n=1)
                advice = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(fields)}"
                raise MestError(f"{source} has the unknown key {key!r}: {advice}")
        required = [n for n, f in fields.items() if dataclasses.MISSING is f.default is f.default_factory]
        missing = [n for n in required if n not in content]
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


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def _below(epochs: tuple[int, ...], end: int) -> bool:
    return all(epoch < end for epoch in epochs)


def _setting(of: str, words: str, name: str) -> tuple[Callable[[Recipe], bool], str]:
    """Of a field that is a setting of what a recipe's property `of` gives."""
    return (lambda recipe: name in getattr(recipe, of).facts()), words


_IMAGES = (lambda recipe: recipe.data != ARRAYS, "a data set of images")


def _of_method(name: str, *idle: str) -> tuple[Callable[[Recipe], bool], str]:
    """Of a setting of methods but the idle ones, which have it and leave it."""
    names = [key for key, kind in METHODS.items() if name in kind.setting_names() and key not in {STATIC, *idle}]
    return (lambda r: r.method not in {STATIC, *idle} and name in r.updater.setting_names()), f"method {_or(names)}"


def _or(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


_P_MILESTONES, _METHODS_WITH_THEM = _of_method("p_milestones", VANILLA)
NEEDS: dict[str, tuple[Callable[[Recipe], bool], str]] = {
    **{name: _setting("rule", "an optimiser that has it", name) for name in ("momentum", "nesterov", "betas", "eps")},
    "label_smoothing": _setting("rule_of_loss", "a loss that has it", "label_smoothing"),
    **dict.fromkeys(("size", "noise", "augment"), _IMAGES),
    "end_lr": (lambda r: r.schedule == "cosine", "schedule cosine"),
    "milestones": (lambda r: _below(r.milestones, r.epochs), "milestones below the number of epochs"),
    "decay": (lambda r: bool(r.milestones), "schedule step with milestones"),
    **{name: _of_method(name) for name in ("p", "mutate_every", "mutate_until", "importance_lambda")},
    "p_milestones": (
        lambda r: _P_MILESTONES(r) and _below(r.p_milestones, r.mutate_until),
        f"{_METHODS_WITH_THEM}, and p_milestones below mutate_until",
    ),
    "p_decay": (
        lambda r: _P_MILESTONES(r) and bool(r.p_milestones),
        f"{_METHODS_WITH_THEM} with p_milestones",
    ),
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
