"""Options on what a step starts from, which several commands take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from mest_compiler.cli.options import Profile, ProfileRatios, Scheme, Sparsity
from mest_compiler.errors import MaskError, ModelError

Weights = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        help="Start from these trained weights, as torch.save, numpy.savez or safetensors wrote them; where a sparsity "
        "or a profile is given, the units with the smallest weights are removed.",
    ),
]
WeightsKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Where in the file of --weights or --masks-from the weights are, such as state_dict_ema.",
        show_default="state_dict, model, net or the like, where there is one",
    ),
]
Masks = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        help="Masks instead of random ones, as torch.save, numpy.savez or safetensors wrote them: tensors "
        "(F, C, kh, kw) of zeros and ones by parameter names. --sparsity may be left out: the masks say it.",
    ),
]
MasksFrom = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        metavar="WEIGHTS",
        help="Start from these weights, which were pruned, and take the masks from their zeros. --sparsity may be left "
        "out: the zeros say it.",
    ),
]


@dataclass(frozen=True)
class SparseRequest:
    """What is asked of a model's start: which of its weights there are, and which files they are read from. The fields
    are the options of the same names."""

    scheme: Scheme = None
    sparsity: Sparsity = None
    profile: Profile = None
    profile_ratios: ProfileRatios = None
    weights: Weights = None
    weights_key: WeightsKey = None
    masks: Masks = None
    masks_from: MasksFrom = None

    def check(self) -> None:
        """Raise MaskError or ModelError where they contradict each other."""
        if self.masks is not None and self.masks_from is not None:
            raise MaskError(
                "Masks come from a mask file or from the zeros of weights: leave out --masks or --masks-from."
            )
        if self.weights is not None and self.masks_from is not None:
            raise ModelError("--masks-from takes the weights of its file too: leave out --weights, or --masks-from.")
        if self.weights_key is not None and self.weights is None and self.masks_from is None:
            raise ModelError("--weights-key says where in a file weights are: add --weights or --masks-from.")
