"""What the options about a model and its sparsity mean: its sizes, and its profile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mest_compiler.errors import ProfileError

if TYPE_CHECKING:
    from mest_compiler.sparsity.automatic import Automatic
    from mest_compiler.sparsity.profile import Profile

AUTO = "auto"
_PLANE = re.compile(r"(\d+)x(\d+)")


def _plane(text: str | None) -> str | None:
    if text is None:
        return None
    match = _PLANE.fullmatch(text)
    if match is None or "0" in match.groups():
        raise typer.BadParameter(f"{text!r} is not a plane: write HEIGHTxWIDTH, such as 32x32")
    return text


Width = Annotated[
    float,
    typer.Option(
        help="Factor on the channels of every layer, such as 2 for ResNet-32 as in the paper; 1 leaves a model as it "
        "is built, and a model of one's own that takes none is refused with any other."
    ),
]
Channels = Annotated[int, typer.Option(min=1, help="Channels of the input: 3 for colour images, 1 for grey ones.")]
Plane = Annotated[
    str, typer.Option(callback=_plane, metavar="HxW", help="Height and width of the input, such as 32x32.")
]
UsualPlane = Annotated[
    str | None,
    typer.Option(
        callback=_plane,
        metavar="HxW",
        help="Height and width of the input, such as 32x32.",
        show_default="what the model is made for: 224x224 or 32x32",
    ),
]
Classes = Annotated[
    int,
    typer.Option(
        min=1, help="Classes that the model tells apart; where this is given, a model with another number is refused."
    ),
]


def plane_of(text: str) -> tuple[int, int]:
    """(height, width) of "HxW"."""
    height, width = _PLANE.fullmatch(text).groups()
    return int(height), int(width)


def profile_of(
    scheme: str | None,
    sparsity: float | None,
    profile: Path | None,
    ratios: str | None = None,
    otherwise: str | None = None,
) -> Profile | Automatic | None:
    """The profile that --scheme, --sparsity, --profile and --profile-ratios describe; None for a dense model.

    A file in the form of the MEST authors' scripts (`prune_ratios`) may take its scheme from --scheme, and where that
    is not given either from `otherwise`.

    Raises:
        ProfileError: both a file and a ratio, a scheme that the file says itself, or a scheme without a ratio or the
            other way round.
    """
    from mest_compiler.sparsity.automatic import Automatic
    from mest_compiler.sparsity.profile import Profile

    if profile is not None:
        if sparsity is not None:
            raise ProfileError("A profile says all ratios: leave out --sparsity, or --profile.")
        return Profile.load(profile, scheme, ratios, otherwise)
    if ratios is not None:
        raise ProfileError("--profile-ratios says how a profile is read: add --profile.")
    if sparsity == 0:
        return None
    if (scheme is None) != (sparsity is None):
        given, lacking = ("scheme", "sparsity") if sparsity is None else ("sparsity", "scheme")
        raise ProfileError(f"--{given} was given without --{lacking}: add it, as in --scheme block --sparsity 0.9.")
    if scheme == AUTO:
        return Automatic(sparsity)
    return None if scheme is None else Profile.uniform(scheme, sparsity)
