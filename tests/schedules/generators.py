"""All generators of sparse kernels, by the indexing they read, with any knobs; and their definitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tvm import tirx

from mest_compiler.kernels import block_convolution, body_convolution, planes_convolution
from mest_compiler.kernels.bodies import Bodies, pattern_bodies, row_bodies
from mest_compiler.kernels.fusion import ALONE, Fused
from mest_compiler.kernels.indices import DIRECTIONS, SparseConv
from mest_compiler.kernels.normalisation import Normalisation
from mest_compiler.schedules.cpu import (
    block_gather,
    block_gradient,
    body_gather,
    body_gradient,
    planes_gather,
    planes_gradient,
)
from mest_compiler.schedules.cpu.choose import dtypes_of
from mest_compiler.schedules.cpu.gather import GatherKnobs
from mest_compiler.schedules.cpu.weight_gradient import WeightGradientKnobs
from mest_compiler.sparsity.schemes import get_scheme

Knobs = GatherKnobs | WeightGradientKnobs


@dataclass(frozen=True)
class Kernel:
    """One generated kernel of a layer: what `SparseCase.run` needs to know to call it."""

    direction: str
    indexing: str
    groups: int
    made_with: str
    make: Callable[[], tirx.PrimFunc]

    def __str__(self) -> str:
        return f"{self.indexing} {self.direction} {self.made_with}"


def indexings_of(scheme: str, stride: tuple[int, int]) -> list[str]:
    """The indexings of a scheme's own kernels on a layer of this stride."""
    family = get_scheme(scheme).family
    return [family, "taps"] if scheme == "unstructured" and stride == (1, 1) else [family]


def bodies_of(layer: SparseConv, indexing: str) -> Bodies:
    """The bodies of "pattern" or "taps"."""
    return (pattern_bodies if indexing == "pattern" else row_bodies)(layer.geometry)


def gathers(
    layer: SparseConv, indexing: str, knobs: Sequence[GatherKnobs], block: int = 4,
    fused: Mapping[str, Fused] | None = None,
) -> list[Kernel]:  # fmt: skip
    """Forward and backward-data; `block`: output planes a register tile of kept channels and filters; `fused`: what is
    done besides, by direction."""
    found = []
    for direction in DIRECTIONS[:2]:
        for k in knobs:
            groups = 1 if indexing == "planes" else k.groups
            dtypes = dtypes_of(indexing, direction, layer, groups)
            if indexing == "block":
                args = (layer, k, dtypes)
            elif indexing == "planes":
                args = (layer, block, k, dtypes)
            else:
                args = (layer, bodies_of(layer, indexing), k, dtypes)
            room = {"block": block_gather, "planes": planes_gather}.get(indexing, body_gather)
            function, more = getattr(room, direction), (fused or {}).get(direction, ALONE)
            found.append(Kernel(direction, indexing, groups, str(k), lambda f=function, a=args, m=more: f(*a, m)))
    return found


def gradients(
    layer: SparseConv, indexing: str, knobs: Sequence[WeightGradientKnobs], block: int = 4,
    again: Normalisation | None = None,
) -> list[Kernel]:  # fmt: skip
    """Backward-weight in all its forms; `block` as for `gathers`, `again`: the batch norm that they compute again."""
    found, direction = [], DIRECTIONS[2]
    for k in knobs:
        groups = 1 if indexing == "planes" else k.groups
        dtypes = dtypes_of(indexing, direction, layer, groups)
        if indexing == "block":
            forms = [block_gradient.outer] + [block_gradient.dots] * (layer.kind.filters == 1)
            makes = [(form.__name__, lambda f=form, k=k, d=dtypes: f(layer, k, d, again)) for form in forms]
        elif indexing == "planes":
            makes = [("kept", lambda k=k, d=dtypes: planes_gradient.kept(layer, block, k, d, again))]
        else:
            bodies = bodies_of(layer, indexing)
            makes = [("dots", lambda b=bodies, k=k, d=dtypes: body_gradient.dots(layer, b, k, d, again))]
        found += [Kernel(direction, indexing, groups, f"{name} {k}", make) for name, make in makes]
    return found


def definition(layer: SparseConv, direction: str, indexing: str, groups: int) -> tirx.PrimFunc:
    """What a kernel of this direction and indexing computes."""
    dtypes = dtypes_of(indexing, direction, layer, groups)
    if indexing == "block":
        return getattr(block_convolution, direction)(layer, groups, dtypes)
    if indexing == "planes":
        return getattr(planes_convolution, direction)(layer, dtypes)
    return getattr(body_convolution, direction)(layer, bodies_of(layer, indexing), groups, dtypes)
