"""A kernel that computes a direction of a convolution, with its knobs: what the generators of a device kind offer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .partial import Partial


@dataclass(frozen=True)
class Choice:
    """A kernel and its knobs; `make()` gives it, for forward and backward-data also `make(fused)` (see
    `kernels.fusion`), and for backward-weight `make(recompute)` (see `source`). Kernels whose `make` are equal have the
    same code.

    ``family``: which family it is of (see `kernels.families`). ``beside``: of a dense kernel for a sparse layer, what
    expands the values in front of it, or compacts its gradient behind it. ``workspace``: shape of the last output, for
    kernels that need room for partial sums. ``source``: "default", "measured" or "tuned". ``times``: what was measured,
    ms of each kernel that was in the running. ``remake``: the same kernel with other knobs; see `tunable`.
    """

    kernel: str
    knobs: Any
    make: Partial
    family: str = ""
    workspace: tuple[int, ...] | None = None
    beside: Partial | None = None
    source: str = "default"
    times: Mapping[str, float] = field(default_factory=dict, compare=False)
    remake: Callable[[Any], Choice] | None = field(default=None, compare=False, repr=False)

    def with_knobs(self, **changed: int) -> Choice:
        """The same kernel with some knobs changed; numbers become what the knob is, 1 for a flag that is up."""
        kept = {name: type(getattr(self.knobs, name))(value) for name, value in changed.items()}
        made = self.remake(replace(self.knobs, **kept))
        return replace(made, family=self.family, beside=self.beside, source=self.source)

    @property
    def used(self) -> tuple[str, int]:
        """(family, groups of planes), as `index_arrays` takes it."""
        return self.family, self.knobs.groups

    def describe(self) -> dict[str, object]:
        """For reports and manifests: {"kernel", "knobs", "indexing", "source", "times"}."""
        knobs = {**asdict(self.knobs), "groups": self.knobs.groups}
        said = {"kernel": self.kernel, "knobs": knobs, "indexing": self.family, "source": self.source}
        return {**said, "times": dict(self.times)}


def tunable(make: Callable[[Any], Choice], knobs: Any) -> Choice:
    """make(knobs), which knows how it is made with others."""
    return replace(make(knobs), remake=lambda others: tunable(make, others))
