"""Weights as public training scripts save them, brought to the names of a model: what is around them is unwrapped, what
DataParallel, torch.compile and pruning did to their names is undone, and all that was done is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mest_compiler.errors import MestError, ModelError
from mest_compiler.training.tensor_file import read_tensors

WEIGHTS = "Weights"
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "masks")
"""Keys of a checkpoint under which the tensors of its network are looked for; others are taken when asked for."""
PARTS = ("module", "_orig_mod")
"""Parts of a name that DataParallel and torch.compile add."""
PROFILED = ("total_ops", "total_params")
"""Last parts of the names of what thop and its like count in a module."""
ORIGINAL, MASK = "_orig", "_mask"
"""Ends of the names of the two tensors by which torch.nn.utils.prune replaces a weight."""
WEIGHT = ".weight"
COUNTER = "num_batches_tracked"
_NAMED = 4


@dataclass(frozen=True)
class Taken:
    """What was made of a file, for the user.

    file: its path. unwrapped: keys in which its tensors lay, from the outside. renamed: in words, what was done to
    names. left: names of what else there was. missing: names that the model keeps as it has them. converted: in words,
    what had another dtype.
    """

    file: str
    unwrapped: tuple[str, ...] = ()
    renamed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    converted: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def sentence(self, what: str) -> str:
        """All of it in one line that begins with `what`, such as "weights"."""
        parts = []
        if self.unwrapped:
            parts.append(f"unwrapped: {', '.join(self.unwrapped)}")
        if self.renamed:
            parts.append(f"renamed: {', '.join(self.renamed)}")
        if self.converted:
            parts.append(f"converted: {', '.join(self.converted)}")
        if self.left:
            parts.append(f"left: {_listed(self.left)}")
        if self.missing:
            parts.append(f"missing, so as the model has them: {_listed(self.missing)}")
        return f"{what} {self.file}: {'; '.join(parts) or 'taken as they are'}"


def load_weights(model: nn.Module, path: str | Path, key: str | None = None) -> Taken:
    """Give a model the weights of a file that torch.save, numpy.savez or safetensors wrote.

    Nothing of the model is changed before all is known to fit.

    Args:
        model: its names and shapes are what the file must have; missing may be what counts a batch norm's batches.
        path: the file.
        key: where in it the tensors lie, such as state_dict_ema, with dots where mappings lie in mappings; None: under
            one of `WRAPPERS`, or under the only key with tensors.

    Raises:
        ModelError: the file cannot be read, holds no such tensors, or is of another model; the sentence names the
            tensor.
    """
    own = model.state_dict()
    named, taken = named_tensors(path, own, WEIGHTS, ModelError, key)
    state, pairs = _merged(named, own, path)
    missing = tuple(name for name in own if name not in state and name.rpartition(".")[2] == COUNTER)
    for name in (*own, *state):
        if name not in state and name not in missing:
            raise ModelError(f"{WEIGHTS} {path} are of another model: they lack {name!r}.")
        if name not in own:
            raise ModelError(f"{WEIGHTS} {path} are of another model: this one has no {name!r}.")
        if name in state and state[name].shape != own[name].shape:
            raise ModelError(
                f"{WEIGHTS} {path} are of another model: their {name!r} has shape {list(state[name].shape)}, and the "
                f"model's {list(own[name].shape)}{_other_classes(name, state[name], own)}."
            )
    fitting = {name: _as_own(path, name, tensor, own[name]) for name, tensor in state.items()}
    kinds = Counter(f"{_dtype(t)} to {_dtype(own[n])}" for n, t in state.items() if t.dtype != own[n].dtype)
    model.load_state_dict({**own, **fitting})
    converted = tuple(f"{count} from {words}" for words, count in kinds.items())
    return replace(taken, renamed=(*taken.renamed, *pairs), missing=missing, converted=converted)


def named_tensors(
    path: str | Path, names: Collection[str], what: str, error: type[MestError], key: str | None = None
) -> tuple[dict[str, torch.Tensor], Taken]:
    """The tensors of a file, with the names that a model knows them by as far as they can be told.

    Args:
        path: the file.
        names: the model's own.
        what, error: see `read_tensors`.
        key: as of `load_weights`.

    Raises:
        error: see `load_weights`; names and shapes are not compared with the model's.
    """
    path = Path(path)
    found, unwrapped, left = _unwrapped(read_tensors(path, what, error), path, what, error, key)
    profiled = [name for name in found if name.rpartition(".")[2] in PROFILED and name not in names]
    tensors = {name: tensor for name, tensor in found.items() if name not in profiled}
    tensors, renamed, others = _renamed(tensors, names, path, what, error)
    return tensors, Taken(str(path), tuple(unwrapped), tuple(renamed), (*left, *profiled, *others))


def _unwrapped(
    content: Mapping[Any, Any], path: Path, what: str, error: type[MestError], key: str | None
) -> tuple[dict[str, torch.Tensor], list[str], list[str]]:
    """The mapping of tensors in a file: (it, the keys that lead to it, names of what was left beside it)."""
    wanted, keys, left = [] if key is None else key.split("."), [], []
    while True:
        inner = {name: value for name, value in content.items() if isinstance(value, Mapping) and _holds(value)}
        if wanted:
            chosen = wanted.pop(0)
            if chosen not in inner:
                place = ".".join([*keys, chosen])
                raise error(f"{what} {path}: there are no tensors under {place!r}, {_where(inner, content, keys)}.")
        elif key is not None:
            break
        else:
            known = [name for name in inner if name in WRAPPERS]
            direct = any(_is_tensor(value) for value in content.values())
            chosen = known[0] if len(known) == 1 else None
            if chosen is None and not direct and len(inner) == 1:
                (chosen,) = inner
            if chosen is None and (len(known) > 1 or (inner and not direct)):
                raise error(
                    f"{what} {path}: there are tensors of several networks, {_where(inner, content, keys)}: "
                    f"{'choose with --weights-key' if what == WEIGHTS else 'save those of one alone'}."
                )
            if chosen is None:
                break
        left += [".".join([*keys, str(name)]) for name in content if name != chosen]
        keys.append(str(chosen))
        content = inner[chosen]
    tensors = {str(name): _tensor(value) for name, value in content.items() if _is_tensor(value)}
    left += [".".join([*keys, str(name)]) for name in content if str(name) not in tensors]
    if not tensors:
        where = _where(inner, content, keys)
        raise error(f"{what} {path}: there are no tensors by name, {where}: save model.state_dict().")
    return tensors, keys, left


def _where(inner: Iterable[str], content: Mapping[Any, Any], keys: list[str]) -> str:
    """Where tensors are instead, in words: of a mapping, those inside of it with some, and the keys that led to it."""
    places = [repr(".".join([*keys, str(name)])) for name in inner]
    if any(_is_tensor(value) for value in content.values()):
        places.append(repr(".".join(keys)) if keys else "no key at all")
    return f"but under {' and '.join(places)}" if places else "nor under any key"


def _holds(content: Mapping[Any, Any]) -> bool:
    """Whether there are tensors in a mapping by names, or in one inside of it; an optimiser's go by numbers."""
    return any(
        isinstance(name, str) and (_is_tensor(value) or (isinstance(value, Mapping) and _holds(value)))
        for name, value in content.items()
    )


def _is_tensor(value: object) -> bool:
    if isinstance(value, torch.Tensor):
        return True
    return isinstance(value, np.ndarray) and value.dtype.kind in "biuf"


def _tensor(value: torch.Tensor | np.ndarray) -> torch.Tensor:
    # as bytes of this machine's order, which PyTorch insists on
    if isinstance(value, torch.Tensor):
        return value.detach()
    return torch.from_numpy(value.astype(value.dtype.newbyteorder("="), order="C"))


def _renamed(
    tensors: dict[str, torch.Tensor], names: Collection[str], path: Path, what: str, error: type[MestError]
) -> tuple[dict[str, torch.Tensor], list[str], list[str]]:
    """Names without the parts that wrappers add, and without one that stands before all: (the tensors, in words what
    was done, names that were left because the network's all begin otherwise)."""
    own_parts = {part for name in names for part in name.split(".")}
    said, renamed = [], {name: name for name in tensors}
    for part in PARTS:
        if part in own_parts:
            continue
        shorter = {old: ".".join(p for p in new.split(".") if p != part) for old, new in renamed.items()}
        if count := sum(shorter[old] != new for old, new in renamed.items()):
            said.append(f"{count} without '{part}.'")
        renamed = shorter
    if (first := _first_part(renamed.values(), names)) is not None:
        renamed = {old: new.removeprefix(first) for old, new in renamed.items() if new.startswith(first)}
        said.append(f"{len(renamed)} without {first!r}")
    twice = [name for name, count in Counter(renamed.values()).items() if count > 1]
    if twice:
        both = " and ".join(repr(old) for old, new in renamed.items() if new == twice[0])
        raise error(f"{what} {path}: {twice[0]!r} is there more than once, as {both}: save one of them.")
    left = [name for name in tensors if name not in renamed]
    return {new: tensors[old] for old, new in renamed.items()}, said, left


def _first_part(found: Collection[str], names: Collection[str]) -> str | None:
    """The part, with its dot, that all names of a network begin with here and not in the model: that of all names, or
    the only one behind which the whole network is; None: there is none."""
    known = {form for name in names for form in (name, name.removesuffix(WEIGHT))}
    needed = {name for name in names if name.rpartition(".")[2] != COUNTER}
    groups: dict[str, set[str]] = {}
    for name in found:
        part, _, rest = name.removesuffix(ORIGINAL).removesuffix(MASK).partition(".")
        if name in known or f"{part}.{rest}" in known:
            return None
        groups.setdefault(f"{part}.", set()).add(rest)
    if len(groups) == 1:
        fitting = [part for part, rest in groups.items() if rest & known]
    else:
        fitting = [part for part, rest in groups.items() if needed <= rest]
    return fitting[0] if len(fitting) == 1 else None


def _merged(
    tensors: dict[str, torch.Tensor], names: Collection[str], path: str | Path
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """One tensor in place of each pair that torch.nn.utils.prune makes of a weight; in words how many."""
    merged, count = dict(tensors), 0
    for name in tensors:
        base = name.removesuffix(ORIGINAL)
        if base == name or name in names or base in tensors or base + MASK not in tensors:
            continue
        original, mask = merged.pop(name), merged.pop(base + MASK)
        if original.shape != mask.shape or not is_mask(mask):
            raise ModelError(
                f"{WEIGHTS} {path}: {base + MASK!r} is no mask of zeros and ones for {name!r}: prune it anew."
            )
        # Filled and not multiplied: a product would keep NaNs and signs of zero.
        merged[base] = original.masked_fill(mask == 0, 0)
        count += 1
    return merged, [f"{count} from pairs of NAME{ORIGINAL} and NAME{MASK}"] if count else []


def is_mask(tensor: torch.Tensor) -> bool:
    """Whether all values are exactly 0 or 1, of whatever dtype."""
    return bool(((tensor == 0) | (tensor == 1)).all())


def _as_own(path: str | Path, name: str, tensor: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """The tensor in the dtype that the model has there; raise ModelError where that would be another number."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex():
        raise ModelError(f"{WEIGHTS} {path}: {name!r} is no plain tensor of numbers: convert it before saving.")
    if own.is_floating_point() != tensor.is_floating_point():
        raise ModelError(
            f"{WEIGHTS} {path}: {name!r} is {_dtype(tensor)}, and the model's {_dtype(own)}: convert it before saving."
        )
    converted = tensor.to(own.dtype)
    if converted.is_floating_point() and not converted.isfinite().all():
        raise ModelError(f"{WEIGHTS} {path}: {name!r} has values that are no finite {_dtype(own)}: use another file.")
    return converted


def _other_classes(name: str, tensor: torch.Tensor, own: Mapping[str, torch.Tensor]) -> str:
    """Where only the number of outputs of the last layer differs, what that means."""
    last = [other for other, value in own.items() if value.dim() == 2][-1:]
    if last == [name] and tensor.shape[1:] == own[name].shape[1:]:
        return f", so it tells {len(tensor)} classes apart and not {len(own[name])}"
    return ""


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _listed(names: Iterable[str]) -> str:
    """Names in one line: those that end alike counted, of the others the first few."""
    ends: dict[str, list[str]] = {}
    for name in names:
        ends.setdefault(name.rpartition(".")[2], []).append(name)
    words = [alike[0] if len(alike) == 1 else f"{end} ({len(alike)} times)" for end, alike in ends.items()]
    more = len(words) - _NAMED
    return ", ".join(words[:_NAMED]) + (f" and {more} more" if more > 0 else "")
