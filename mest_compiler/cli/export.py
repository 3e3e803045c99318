"""`mest export`: a run's network for others, as a state_dict for PyTorch and as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mest_compiler.cli.options import Json, RunDir
from mest_compiler.cli.output import say, write_json
from mest_compiler.cli.places import check_writable, made
from mest_compiler.errors import ModelError

if TYPE_CHECKING:
    from mest_compiler.training.export import Trained

SAFETENSORS = ".safetensors"

Onnx = Annotated[
    Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Write the network in evaluation mode as ONNX.")
]
Torch = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        dir_okay=False,
        help="Write the state_dict to FILE.safetensors and the masks to FILE.masks.safetensors.",
    ),
]


def command(run_dir: RunDir, onnx: Onnx = None, torch: Torch = None, json: Json = None) -> None:
    """Write the network of a run's last checkpoint as files that others read, with zeros where weights were removed.

    --torch: `model.load_state_dict(safetensors.torch.load_file("net.safetensors"))` takes the weights;
    net.masks.safetensors beside it has a bool tensor (F, C, kh, kw), true = kept, for each sparse parameter's name.
    mest train and mest compile read the first with --masks-from and the second with --masks, with the --scheme of both.

    --onnx: input "images" (any number, C, H, W), normalised as in training, output "logits"; of a run on arrays the
    inputs and outputs that the model's forward has. Before the file appears onnx's checker has accepted it, and onnx's
    reference evaluator agreed with PyTorch on random examples. Its metadata has the recipe (mest.recipe), a profile
    (mest.profile) and the masks (mest.masks): JSON with the shape of each, and its bits, 1 = kept, in C order, as
    numpy.packbits packs them, in base64.

    Examples:

    mest export runs/train --onnx net.onnx

    mest export runs/cifar --torch net.safetensors --onnx net.onnx --json -
    """
    if onnx is None and torch is None:
        raise ModelError("Nothing is asked for: add --onnx FILE, --torch FILE, or both.")
    if torch is not None and torch.suffix != SAFETENSORS:
        raise ModelError(f"--torch writes a safetensors file: name it {torch.stem}{SAFETENSORS}.")
    for path in (onnx, torch):
        if path is not None:
            check_writable(path)

    from mest_compiler.training.export import Trained

    trained = Trained.of_run(run_dir)
    facts: dict[str, Any] = {
        "run_dir": run_dir,
        "model": trained.recipe.model,
        "epochs": trained.epochs,
        "inputs": {name: [spec.shape, spec.dtype] for name, spec in trained.inputs.items()},
        "zeros": trained.zeros,
        "sparse_layers": dict(trained.schemes),
    }
    for key, path, write in (("torch", torch, _torch), ("onnx", onnx, _onnx)):
        if path is not None:
            with made(path.parent):
                facts[key] = write(trained, path)
    if json is not None:
        write_json(json, facts)


def _torch(trained: Trained, path: Path) -> dict[str, Any]:
    from mest_compiler.training.export import export_torch, masks_path

    export_torch(trained, path)
    masks = masks_path(path) if trained.masks else None
    said = "no masks, the network is dense" if masks is None else f"{masks}: masks of {len(trained.masks)} layers"
    say(f"{path}: state_dict after {trained.epochs} of {trained.recipe.epochs} epochs; {said}")
    return {"weights": path, "masks": masks}


def _onnx(trained: Trained, path: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from mest_compiler.training.export import export_onnx

    facts = export_onnx(trained, path)
    say(
        f"{path}: opset {facts.opset}, {facts.bytes / 2**20:.1f} MiB, {trained.zeros:.2%} zeros in the sparse layers; "
        f"differs from PyTorch by {facts.difference:.2g} at most"
    )
    return {"file": path, **asdict(facts)}
