"""What a gathering convolution does with finished accumulators beside storing them: batch norm's sums, taken while the
numbers are still in registers, so that batch norm reads memory once where it would read it two or three times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.fusion import SUMS, BackwardSums, Epilogue, ForwardSums
from mest_compiler.kernels.geometry import Plane, Subgrid

from ..emit import Buffer, Expr, activation, tree
from .emit import Vec
from .normalise import masked, scale_shift


@dataclass(frozen=True)
class Finished:
    """A register tile of one output plane: its accumulators, and where in memory they belong.

    `target`: how the planes are stored; `pointer`: to the tile's first pixel; `pixels`: (row, column) within the tile.
    """

    vec: Vec
    target: Plane
    grid: Subgrid
    tile: Expr
    plane: Expr
    at: tuple[Expr, Expr]
    pixels: list[tuple[int, int]]
    pointer: Buffer
    registers: list[Buffer]

    @property
    def places(self) -> list[int]:
        """Where the pixels stand behind the pointer."""
        return [r * self.grid.out_row + c * self.grid.out_col for r, c in self.pixels]

    def load(self) -> None:
        """Memory -> accumulators."""
        for register, place in zip(self.registers, self.places, strict=True):
            self.vec.set(register, self.vec.load(self.pointer, place))

    def store(self) -> None:
        """Accumulators -> memory."""
        for register, place in zip(self.registers, self.places, strict=True):
            self.vec.store(self.pointer, self.vec.get(register), place)

    def elsewhere(self, buffer: Buffer, plane: Plane) -> tuple[Buffer, list[int]]:
        """The same pixels of another activation, with another border: a pointer and places behind it."""
        grid, here = self.grid, self.target
        row, col = divmod(grid.out_base, here.cols)
        down = grid.out_row // here.cols * plane.cols
        corner = plane.at(row - here.border, col - here.border) + self.at[0] * down + self.at[1] * grid.out_col
        pointer = self.vec.pointer(buffer, self.tile, self.plane * plane.size + corner, 0)
        return pointer, [r * down + c * grid.out_col for r, c in self.pixels]

    def add_sums(self, sums: Buffer, values: tuple[list[Expr], list[Expr]]) -> None:
        """Adds a number a pixel to each of the two sums of the plane: as a tree, so that fp32 sums stay short."""
        target = self.vec.pointer(sums, self.tile, self.plane * SUMS.size, 0)
        for i, some in enumerate(values):
            self.vec.store(target, self.vec.load(target, i) + tree(some), i)


class Sums(Protocol):
    """How one kind of sums (see `kernels.fusion`) is taken."""

    def arguments(self, tiles: int, planes: int, vec: Vec) -> tuple[Buffer, ...]:
        """Declares what it reads: arguments of the kernel in front of its outputs."""

    def finish(self, f: Finished, inputs: tuple[Buffer, ...], output: Buffer, sums: Buffer) -> None:
        """Stores a register tile whose accumulators are complete, and adds to the sums of its plane."""


@dataclass(frozen=True)
class _Forward:
    of: ForwardSums

    def arguments(self, tiles: int, planes: int, vec: Vec) -> tuple[Buffer, ...]:
        return ()

    def finish(self, f: Finished, inputs: tuple[Buffer, ...], output: Buffer, sums: Buffer) -> None:
        f.store()
        vec = f.vec
        first = vec.pointer(output, f.tile, f.plane * f.target.size + f.target.at(0, 0), 0)
        shift = T.Bind(vec.load(first, 0))
        away = [T.Bind(vec.get(register) - shift) for register in f.registers]
        f.add_sums(sums, (away, [d * d for d in away]))


@dataclass(frozen=True)
class _Backward:
    of: BackwardSums

    def arguments(self, tiles: int, planes: int, vec: Vec) -> tuple[Buffer, ...]:
        x = activation("NX", tiles, planes, self.of.x, vec)
        z = [activation("NZ", tiles, planes, self.of.z, vec)] if self.of.z is not None else []
        return (x, *z, *(T.arg(name, T.buffer((planes,), vec.dtype)) for name in ("NW", "NB", "NMEAN", "NRSTD")))

    def finish(self, f: Finished, inputs: tuple[Buffer, ...], output: Buffer, sums: Buffer) -> None:
        vec, c, of = f.vec, f.plane, self.of
        x, *z, w, b, mean, rstd = inputs
        centre = vec.splat(mean[c])
        source, places = f.elsewhere(x, of.x)
        if z:
            result, result_places = f.elsewhere(z[0], of.z)
        elif of.relu:
            scale, shift = scale_shift(vec, w[c], b[c], mean[c], rstd[c])
        gradients, moments = [], []
        for i, (register, place) in enumerate(zip(f.registers, f.places, strict=True)):
            value, g = T.Bind(vec.load(source, places[i])), T.Bind(vec.get(register))
            if of.relu:
                passed = vec.load(result, result_places[i]) if z else value * scale + shift
                g = T.Bind(masked(vec, g, T.Bind(passed), of.upper))
            vec.store(f.pointer, g, place)
            gradients.append(g)
            moments.append(g * (value - centre))
        f.add_sums(sums, (gradients, moments))


_TAKEN = {ForwardSums: _Forward, BackwardSums: _Backward}


def taken(epilogue: Epilogue) -> Sums:
    """How these sums are taken."""
    return _TAKEN[type(epilogue)](epilogue)
