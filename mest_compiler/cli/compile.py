"""`mest compile`: a model's whole training step as an artifact."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mest_compiler.cli import optimizer_options
from mest_compiler.cli.asked import check_classes, check_device, given, say_otherwise, say_start
from mest_compiler.cli.logs import verbose
from mest_compiler.cli.model_options import Channels, Classes, Plane, Width, plane_of
from mest_compiler.cli.options import (
    Activations,
    Batch,
    Device,
    Json,
    Loss,
    MemoryLimit,
    Model,
    Seed,
    Threads,
    step_options,
)
from mest_compiler.cli.output import say, write_json
from mest_compiler.cli.places import check_artifact_place, check_writable, made, no_empty_folders
from mest_compiler.cli.shared_options import takes
from mest_compiler.cli.sparse_model import sparse_model
from mest_compiler.cli.sparse_request import SparseRequest
from mest_compiler.cli.tables import show_fallbacks, show_layers
from mest_compiler.errors import MestError

if TYPE_CHECKING:
    from mest_compiler.runtime.artifact import Artifact

Output = Annotated[
    Path,
    typer.Option(
        "--output", metavar="PATH", help="Where the artifact goes: a folder, or one file if the name ends in .zip."
    ),
]

DumpIr = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Write the step as each of the compiler's passes leaves it (TVMScript, numbered), and every kernel with "
        "the layers, directions and knobs it is for, its OpenCL C beside it.",
        show_default=False,
    ),
]


@takes(start=SparseRequest)
def command(
    context: typer.Context,
    model: Model,
    output: Output,
    start: SparseRequest,
    batch: Batch = 64,
    device: Device = "cpu",
    threads: Threads = None,
    width: Width = 1.0,
    channels: Channels = 3,
    plane: Plane = "32x32",
    classes: Classes = 10,
    optimizer: optimizer_options.Name = None,
    momentum: optimizer_options.Momentum = None,
    nesterov: optimizer_options.Nesterov = None,
    betas: optimizer_options.Betas = None,
    eps: optimizer_options.Eps = None,
    weight_decay: optimizer_options.WeightDecay = None,
    loss: Loss = None,
    memory_limit: MemoryLimit = None,
    activations: Activations = None,
    seed: Seed = 0,
    dump_ir: DumpIr = None,
    json: Json = None,
) -> None:
    """Compile a model's training step: forward, loss, backward and update, with its masks.

    The artifact holds the machine code, the weights it starts from, the masks' index arrays and a manifest; the
    learning rate is given at run time, and masks can be exchanged there without compiling again. Without --scheme and
    --profile the model is dense; with --masks or --masks-from, --sparsity may be left out: the masks say it. --weights
    starts from trained weights, and prunes them by magnitude where a sparsity or a profile is given.

    Examples:

    mest compile resnet32 --width 2 --scheme block --sparsity 0.9 --batch 64 --output runs/step --json -

    mest compile net.py:make --plane 28x28 --channels 1 --scheme unstructured --sparsity 0.8 --output step.zip

    mest compile resnet20 --scheme block --masks-from trained.pt --output runs/step

    mest compile resnet20 --scheme pattern --sparsity 0.9 --weights dense.pt --output runs/step

    mest compile resnet32 --width 2 --scheme block --sparsity 0.9 --memory-limit 100MB --output runs/small

    mest compile resnet20 --scheme block --sparsity 0.9 --optimizer adamw --dump-ir runs/ir --output runs/step

    mest compile net.py:autoencoder --scheme block --sparsity 0.9 --loss mse --output runs/step
    """
    begin = time.perf_counter()
    check_artifact_place(output)
    if dump_ir is not None:
        _check_dump(dump_ir)
    settings = {"momentum": momentum, "nesterov": nesterov, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    rule = optimizer_options.chosen_optimizer(optimizer, **settings)
    if given(context, "seed") and start.masks_from is not None:
        raise MestError("--seed draws nothing where weights and masks come from --masks-from: leave it out.")
    check_device(device, threads)
    from mest_compiler import models
    from mest_compiler.cli.compiling import compile_with_bar, say_fallbacks, say_plan
    from mest_compiler.cli.network_layers import network_layers
    from mest_compiler.losses import CrossEntropy, loss_of
    from mest_compiler.training.memory import peak_rss_mb

    rule_of_loss = loss_of(loss or CrossEntropy.name, {})
    network = models.build(model, classes=classes, in_channels=channels, width=width, seed=seed)
    input_shape = (channels, *plane_of(plane))
    sparse = sparse_model(
        network,
        input_shape,
        start,
    )
    layers = network_layers(sparse.model, input_shape)
    if given(context, "classes"):
        check_classes(layers, classes, f"--classes asks for {classes}")
    said = say_start(sparse, layers, seed)
    with nullcontext() if dump_ir is None else made(dump_ir):
        artifact = compile_with_bar(
            model,
            sparse.model,
            input_shape=input_shape,
            batch=batch,
            profile=sparse.profile,
            masks=sparse.masks,
            seed=seed,
            loss=rule_of_loss,
            optimizer=rule,
            device=device,
            threads=threads,
            name=model,
            options=step_options(memory_limit, activations),
            dump=dump_ir,
        )
    with no_empty_folders(output.parent):
        artifact.save(output)
    seconds, peak = time.perf_counter() - begin, peak_rss_mb()
    say_otherwise(said, artifact.manifest)
    described = described_layers(artifact)
    show_layers(described)
    say_plan(artifact.manifest["memory"])
    say_fallbacks(artifact.manifest["fallbacks"])
    if verbose():
        show_fallbacks(artifact.manifest["fallbacks"])
    say(f"{output}: {model}, compiled in {seconds:.1f} s with at most {peak:.0f} MiB")
    if json is not None:
        manifest = artifact.manifest
        keys = ("model", "batch", "input_shape", "classes", "optimizer", "loss", "memory", "fallbacks", "asked", "done")
        facts = {key: manifest[key] for key in keys} | sparse.facts()
        result = {"seconds": seconds, "peak_rss_mb": peak, "artifact": str(output), **facts}
        write_json(json, {**result, "device": device, "threads": manifest["device"]["threads"], "layers": described})


def _check_dump(folder: Path) -> None:
    """Raise MestError unless a folder is new or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MestError(f"--dump-ir writes many files, and {folder} is there already: name a new or an empty folder.")
    check_writable(folder / "dump")


def described_layers(artifact: Artifact) -> list[dict[str, Any]]:
    """Name, shape, scheme, sparsity (as the masks have it) and kernels of each layer, in network order."""
    keys = ("shape", "scheme", "sparsity", "kernels")
    return [{"name": name, **{k: layer[k] for k in keys}} for name, layer in artifact.manifest["layers"].items()]
