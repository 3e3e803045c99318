"""Straight-line bodies: the sets of kernel places whose weights one entry holds, for kernels without branches inside.

A pattern is such a set; so are the kept weights of one row of a kernel, which share their loads of the input. Entries
stand by (row, group, body), and each body's offsets are constants of the generated code.
"""

from __future__ import annotations

from dataclasses import dataclass

from mest_compiler.sparsity.pattern import PATTERNS

from .geometry import ConvGeometry, Subgrid


@dataclass(frozen=True)
class Body:
    """What an entry of one kind adds up: (which of its values, offset in pixels behind the entry's own)."""

    terms: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Bodies:
    """All bodies of a family over one geometry.

    Attributes:
        forward: of forward and backward-weight, offsets in x.
        backward: of backward-data: each parity class's pixels and bodies, offsets in dy.
        sizes: values of an entry of each body.
    """

    forward: tuple[Body, ...]
    backward: tuple[tuple[Subgrid, tuple[Body, ...]], ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Values of an entry of each body."""
        return tuple(len(body.terms) for body in self.forward)


def pattern_bodies(g: ConvGeometry) -> Bodies:
    """The eight patterns; an entry's own offset is its plane's."""
    forward = tuple(Body(tuple((k, g.tap_offset(t)) for k, t in enumerate(places))) for places in PATTERNS)
    backward = tuple(
        (grid, tuple(Body(tuple((k, taps[t]) for k, t in enumerate(places) if t in taps)) for places in PATTERNS))
        for grid, taps in g.backward_grids
    )
    return Bodies(forward, backward)


def tap_sets(kernel_width: int) -> tuple[tuple[int, ...], ...]:
    """All sets of places of a kernel's row but the empty one; set number + 1 has a bit for each place."""
    return tuple(tuple(j for j in range(kernel_width) if code >> j & 1) for code in range(1, 1 << kernel_width))


def row_bodies(g: ConvGeometry) -> Bodies:
    """The sets of kept places of a kernel's row; an entry's own offset is that of the row's first place.

    Only for stride 1, where backward-data mirrors a row of places as a whole.
    """
    if g.stride != (1, 1):
        raise ValueError("rows of places stay together only where the stride is 1")
    sets, step = tap_sets(g.kernel[1]), g.dilation[1]
    forward = tuple(Body(tuple((k, j * step) for k, j in enumerate(places))) for places in sets)
    mirrored = tuple(Body(tuple((k, -j * step) for k, j in enumerate(places))) for places in sets)
    return Bodies(forward, tuple((grid, mirrored) for grid, _ in g.backward_grids))
