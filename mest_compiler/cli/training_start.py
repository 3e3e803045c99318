"""What a run starts from, whichever engine trains it: a network, its weights, and the masks of its sparse layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mest_compiler.errors import CheckpointError, MestError, ProfileError
from mest_compiler.sparsity.methods import Need

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from mest_compiler.cli.network_layers import NetworkLayers
    from mest_compiler.cli.sparse_model import SparseModel
    from mest_compiler.runtime.checkpoint import Content
    from mest_compiler.sparsity.decisions import Decisions
    from mest_compiler.sparsity.schemes import Scheme, Shape
    from mest_compiler.training.examples import Examples
    from mest_compiler.training.recipe import Recipe


@dataclass(frozen=True)
class Start:
    """A network with its weights, and how it is sparse.

    sparse: as the compiler is told it. schemes, masks: of each sparse layer by parameter name, masks bool
    [F, C, kh, kw], in any order; both empty where "auto" has the compiler choose. decisions: what each layer gets, and
    why; None where the compiler chooses.
    """

    sparse: SparseModel
    schemes: dict[str, str]
    masks: dict[str, np.ndarray]
    decisions: Decisions | None

    offers = frozenset(Need)
    """Whatever a method may need: what a network has to offer, its engine says."""

    def said(self) -> dict[str, Any] | None:
        """`asked` and `done` of a result; None where the compiler chooses."""
        if self.decisions is None:
            return None
        return {"asked": self.decisions.asked(), "done": self.decisions.done(self.masks)}

    def sparse_layers(self) -> dict[str, tuple[Scheme, Shape]]:
        """As of a `TrainingEngine`."""
        from mest_compiler.sparsity.schemes import get_scheme

        return {
            name: (get_scheme(self.schemes[name]), self.masks[name].shape)
            for name, _ in self.sparse.model.named_parameters()
            if name in self.masks
        }

    def kept_units(self) -> dict[str, np.ndarray]:
        """As of a `TrainingEngine`."""
        return {name: scheme.units_of(self.masks[name]) for name, (scheme, _) in self.sparse_layers().items()}


def first_start(recipe: Recipe, data: Examples) -> Start:
    """The start of a run's first epoch: weights and masks that the recipe's seed draws, or those of its files.

    Raises:
        ModelError, ProfileError, MaskError: of the model, which must have as many outputs as the data have classes, or
            a sparsity that it cannot have. DataError: data that it or its loss does not take.
    """
    from mest_compiler.cli.sparse_model import sparse_model
    from mest_compiler.cli.sparse_request import SparseRequest
    from mest_compiler.sparsity.automatic import Automatic
    from mest_compiler.sparsity.starting_masks import starting_masks

    asked = {field.name: getattr(recipe, field.name) for field in fields(SparseRequest)}
    files = {name: asked[name] and Path(asked[name]) for name in ("weights", "masks", "masks_from", "profile")}
    sparse = sparse_model(_network(recipe, data), data.inputs, SparseRequest(**{**asked, **files}))
    layers = _checked_layers(recipe, sparse.model, data)
    if isinstance(sparse.profile, Automatic):
        return Start(sparse, {}, {}, None)
    decisions, drawn = starting_masks(
        sparse.profile,
        layers.convolutions,
        layers.linears,
        {},
        dense=layers.dense,
        masks=sparse.masks,
        seed=recipe.seed,
    )
    return Start(sparse, {name: layer.scheme for name, layer in decisions.plans.items()}, drawn, decisions)


def start_of_checkpoint(recipe: Recipe, data: Examples, path: Path) -> Start:
    """What a run that stopped at a checkpoint goes on with, its layers at their target sparsity.

    A layer that keeps more in between (EM&S) is thinned to what it keeps in the end: what matters of a mask here is its
    scheme and how many units it keeps, since the engine takes all else from the checkpoint.

    Raises:
        CheckpointError: missing, damaged, or of another model.
    """
    from mest_compiler.cli.sparse_model import SparseModel
    from mest_compiler.runtime import checkpoint
    from mest_compiler.sparsity.decisions import as_masked
    from mest_compiler.sparsity.profile import LayerPlan, Profile

    content = checkpoint.read(path, None)
    model = _network(recipe, data)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    content.dense_state(shapes, str(path))  # raises where this is another model
    masks = _thinned(content, content.masks(shapes, str(path)), path)
    # A ratio of 0 would make the layer a dense one.
    layers = {name: LayerPlan(content.schemes[name], max(1 - float(mask.mean()), 1e-9)) for name, mask in masks.items()}
    profile = Profile(LayerPlan("unstructured", 0.0), layers=layers) if masks else None
    schemes = dict(content.schemes)
    decisions = as_masked(_checked_layers(recipe, model, data).shapes(), schemes, masks)
    return Start(SparseModel(model, profile, masks or None), schemes, masks, decisions)


def _thinned(content: Content, masks: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    import numpy as np

    from mest_compiler.sparsity.mutation import remove_to
    from mest_compiler.sparsity.schemes import get_scheme

    thinned = {}
    for name, mask in masks.items():
        scheme, units = get_scheme(content.schemes[name]), content.units[name]
        try:
            count = content.extra["mutation"]["base"][name]
            kept = remove_to(scheme, mask.shape, units, np.zeros(len(units)), count)
        except (KeyError, TypeError, MestError) as error:
            raise CheckpointError(
                f"{path} does not say how many units layer {name!r} keeps in the end ({error!r}): use another one"
            ) from error
        thinned[name] = scheme.mask_of(kept, mask.shape)
    return thinned


def check_start(recipe: Recipe, data: Examples, start: Start) -> None:
    """Raise what the run would raise later: after compiling, or after epochs of training.

    Raises:
        MestError: not a batch would be left by data efficiency.
        DataError: not a batch of training examples.
        ProfileError, MaskError: a layer cannot mutate as the recipe says, or there is none to mutate.
    """
    from mest_compiler.training.feed import steps_per_epoch
    from mest_compiler.training.mutator import Mutator

    examples = data.train_count
    steps_per_epoch(examples, recipe.batch)
    if recipe.de_remove is not None and examples - recipe.de_remove < recipe.batch:
        raise MestError(
            f"de_remove of {recipe.de_remove} would leave {max(examples - recipe.de_remove, 0)} of {examples} training "
            f"examples, fewer than a batch of {recipe.batch}: lower it"
        )
    if recipe.mutates and start.decisions is not None and not start.masks:
        raise ProfileError(
            f"Method {recipe.method!r} has nothing to change, since no layer is sparse "
            f"({'; '.join(start.decisions.sentences()) or 'no sparsity was asked for'}): leave it out, or choose "
            "another scheme, sparsity or profile."
        )
    Mutator(recipe.updater, start, recipe.seed)


def _checked_layers(recipe: Recipe, model: nn.Module, data: Examples) -> NetworkLayers:
    """The model's layers; ModelError or DataError unless it tells the data's classes apart, and its loss takes their
    targets."""
    from mest_compiler.cli.asked import check_classes
    from mest_compiler.cli.network_layers import network_layers
    from mest_compiler.training.example_checks import check_targets

    layers = network_layers(model, data.inputs)
    if data.classes is not None and recipe.rule_of_loss.labelled:
        check_classes(layers, data.classes, f"data set {data.name} has {data.classes} classes")
    check_targets(recipe.rule_of_loss, layers.outputs, data)
    return layers


def _network(recipe: Recipe, data: Examples) -> nn.Module:
    """The model with its first weights; DataError unless it takes the data's inputs."""
    from mest_compiler import models
    from mest_compiler.training.example_checks import check_inputs

    model = models.build(recipe.model, **data.sizes, width=recipe.width, seed=recipe.seed)
    check_inputs(model, data)
    return model
