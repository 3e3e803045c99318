"""All generators of sparse kernels, by the family they read, with any knobs; and their definitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tvm import tirx

from mest_compiler.kernels.families import FAMILIES
from mest_compiler.kernels.fusion import ALONE, Fused
from mest_compiler.kernels.normalisation import Normalisation
from mest_compiler.kernels.problem import DIRECTIONS, LayerProblem
from mest_compiler.schedules.cpu import (
    block_gather,
    block_gradient,
    body_gather,
    body_gradient,
    planes_gather,
    planes_gradient,
)
from mest_compiler.schedules.cpu.gather import GatherKnobs
from mest_compiler.schedules.cpu.weight_gradient import WeightGradientKnobs

Knobs = GatherKnobs | WeightGradientKnobs


@dataclass(frozen=True)
class Kernel:
    """One generated kernel of a layer: what `SparseCase.run` needs to know to call it."""

    direction: str
    family: str
    groups: int
    made_with: str
    make: Callable[[], tirx.PrimFunc]

    def __str__(self) -> str:
        return f"{self.family} {self.direction} {self.made_with}"


def families_of(scheme: str, stride: tuple[int, int]) -> list[str]:
    """The families of a scheme's own kernels on a layer of 3x3 kernels with this stride."""
    own = {"pattern": ["pattern"], "channel": ["planes"], "filter": ["planes"]}.get(scheme, ["block"])
    return [*own, "taps"] if scheme == "unstructured" and stride == (1, 1) else own


def gathers(
    layer: LayerProblem, family: str, knobs: Sequence[GatherKnobs], block: int = 4,
    fused: Mapping[str, Fused] | None = None,
) -> list[Kernel]:  # fmt: skip
    """Forward and backward-data; `block`: output planes a register tile of kept channels and filters; `fused`: what is
    done besides, by direction."""
    found = []
    for direction in DIRECTIONS[:2]:
        for k in knobs:
            groups = 1 if family == "planes" else k.groups
            dtypes = FAMILIES[family].dtypes(layer, direction, groups)
            if family == "block":
                args = (layer, k, dtypes)
            elif family == "planes":
                args = (layer, block, k, dtypes)
            else:
                args = (layer, FAMILIES[family].bodies(layer.geometry), k, dtypes)
            room = {"block": block_gather, "planes": planes_gather}.get(family, body_gather)
            function, more = getattr(room, direction), (fused or {}).get(direction, ALONE)
            found.append(Kernel(direction, family, groups, str(k), lambda f=function, a=args, m=more: f(*a, m)))
    return found


def gradients(
    layer: LayerProblem, family: str, knobs: Sequence[WeightGradientKnobs], block: int = 4,
    recompute: Normalisation | None = None,
) -> list[Kernel]:  # fmt: skip
    """Backward-weight in all its forms; `block` as for `gathers`, `recompute`: the batch norm that they compute."""
    found, direction = [], DIRECTIONS[2]
    for k in knobs:
        groups = 1 if family == "planes" else k.groups
        dtypes = FAMILIES[family].dtypes(layer, direction, groups)
        if family == "block":
            forms = [block_gradient.outer] + [block_gradient.dots] * (layer.sparse.kind.filters == 1)
            makes = [(form.__name__, lambda f=form, k=k, d=dtypes: f(layer, k, d, recompute)) for form in forms]
        elif family == "planes":
            makes = [("kept", lambda k=k, d=dtypes: planes_gradient.kept(layer, block, k, d, recompute))]
        else:
            bodies = FAMILIES[family].bodies(layer.geometry)
            makes = [("dots", lambda b=bodies, k=k, d=dtypes: body_gradient.dots(layer, b, k, d, recompute))]
        found += [Kernel(direction, family, groups, f"{name} {k}", make) for name, make in makes]
    return found
