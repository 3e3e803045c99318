"""What the command line asked, beside what is done: checked and said before anything is traced or compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mest_compiler.cli.output import say
from mest_compiler.errors import ModelError

if TYPE_CHECKING:
    import typer

    from mest_compiler.cli.network_layers import NetworkLayers
    from mest_compiler.cli.sparse_model import SparseModel
    from mest_compiler.sparsity.automatic import Automatic

Said = dict[str, Any]
"""`asked` and `done` of a result, see `sparsity.decisions`."""
Say = Callable[[str], None]
IDLE_THREADS = "changes nothing here, since it is about a CPU"


def given(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line, whatever its value."""
    return context.get_parameter_source(name).name == "COMMANDLINE"


def check_device(device: str, threads: int | None) -> None:
    """Raise DeviceError for a device that is none; say where --threads is about none."""
    from mest_compiler.devices import get_device
    from mest_compiler.runtime.device_runtimes import device_runtime

    if not device_runtime(get_device(device, threads).kind).threaded and threads is not None:
        say_idle_threads(device)


def say_idle_threads(device: str) -> None:
    """Print that --threads changes nothing."""
    say(f"--threads {IDLE_THREADS}: the step is for {device}")


def check_classes(layers: NetworkLayers, classes: int, wanted: str) -> None:
    """Raise ModelError unless the model tells so many classes apart; `wanted`: who says how many, as in "--classes
    asks for 10"."""
    from mest_compiler.models import CLASSES

    shapes = [spec.shape for spec in layers.outputs.values()]
    if len(shapes) != 1 or len(shapes[0]) != 1:
        raise ModelError("The model returns no single tensor of logits [batch, classes]: let it return that.")
    if shapes[0] != (classes,):
        raise ModelError(
            f"The model has {shapes[0][0]} outputs, and {wanted}: let its builder take {CLASSES[0]} (or "
            f"{' or '.join(CLASSES[1:])}), with which it is called, or make the two numbers equal."
        )


def say_start(sparse: SparseModel, layers: NetworkLayers, seed: int) -> Said | None:
    """Print what of the asked sparsity is reached and which layers stay dense; None where measuring will tell.

    Raises:
        ProfileError, MaskError, ModelError: see `starting_masks`.
    """
    from mest_compiler.sparsity.automatic import Automatic
    from mest_compiler.sparsity.starting_masks import starting_masks

    for sentence in sparse.said:
        say(sentence)
    if isinstance(sparse.profile, Automatic):
        say_measured(sparse.profile)
        return None
    decisions, masks = starting_masks(
        sparse.profile, layers.convolutions, layers.linears, {}, dense=layers.dense, masks=sparse.masks, seed=seed
    )
    found = {"asked": decisions.asked(), "done": decisions.done(masks)}
    say_all(found)
    return found


def say_measured(profile: Automatic, say: Say = say) -> None:
    """Print what is known of scheme "auto" before a step is compiled."""
    from mest_compiler.sparsity.automatic import AUTO

    ratio = "that of the given masks" if profile.sparsity is None else f"{profile.sparsity:.2%} asked"
    say(
        f"sparsity: {ratio} ({AUTO}); each convolution but the first gets the scheme that is measured to be the fastest"
    )


def say_all(said: Mapping[str, Any], say: Say = say) -> None:
    """Print `asked` and `done`."""
    from mest_compiler.sparsity.decisions import sentences

    for sentence in sentences(said["asked"], said["done"]):
        say(sentence)


def say_otherwise(said: Mapping[str, Any] | None, manifest: Mapping[str, Any], say: Say = say) -> None:
    """Print what a compiled step got where that was not known before, or is not what was said."""
    if said is None or _schemes(said) != _schemes(manifest):
        say("as it was compiled:")
        say_all(manifest, say)


def _schemes(said: Mapping[str, Any]) -> dict[str, str]:
    """The scheme of each sparse layer."""
    return {layer["name"]: layer["scheme"] for layer in said["done"]["layers"] if layer["scheme"] != "dense"}
