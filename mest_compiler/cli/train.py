"""`mest train`: a recipe, through the compiled step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mest_compiler.cli import recipe_options as of_recipe
from mest_compiler.cli.model_options import Masks, MasksFrom
from mest_compiler.cli.options import Device, Json, Profile, Scheme, Sparsity, Threads
from mest_compiler.cli.output import say, write_json

RecipeName = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe's name, such as demo or resnet32-cifar10, or a YAML file; options may say it all instead.",
        show_default=False,
    ),
]
RunDir = Annotated[
    Path,
    typer.Option(
        "--run-dir",
        file_okay=False,
        help="Folder of the run: its recipe, log, checkpoint and compiled step, and in the end its weights and masks.",
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the checkpoint in --run-dir; ends bit by bit as without the break.")
]
CheckpointSteps = Annotated[
    int | None,
    typer.Option(min=1, help="Also write a checkpoint after every so many steps.", show_default="after every epoch"),
]


def command(
    recipe: RecipeName = None,
    run_dir: RunDir = Path("runs/train"),
    resume: Resume = False,
    model: of_recipe.ModelName = None,
    width: of_recipe.WidthFactor = None,
    data: of_recipe.Data = None,
    data_root: of_recipe.DataRoot = None,
    epochs: of_recipe.Epochs = None,
    batch: of_recipe.BatchSize = None,
    lr: of_recipe.Lr = None,
    end_lr: of_recipe.EndLr = None,
    warmup_epochs: of_recipe.WarmupEpochs = None,
    schedule: of_recipe.Schedule = None,
    milestones: of_recipe.Milestones = None,
    decay: of_recipe.Decay = None,
    momentum: of_recipe.Momentum = None,
    nesterov: of_recipe.Nesterov = None,
    weight_decay: of_recipe.WeightDecay = None,
    scheme: Scheme = None,
    sparsity: Sparsity = None,
    profile: Profile = None,
    masks: Masks = None,
    masks_from: MasksFrom = None,
    augment: of_recipe.Augment = None,
    seed: of_recipe.RecipeSeed = None,
    checkpoint_steps: CheckpointSteps = None,
    device: Device = "cpu",
    threads: Threads = None,
    json: Json = None,
) -> None:
    """Train a sparse model through its compiled step, with masks that stay as they are.

    A recipe says all; every option overrules the field of its name. Ctrl-C keeps the last checkpoint, and
    --resume goes on from there.

    Examples:

    mest train demo --run-dir runs/mnist

    mest train resnet32-cifar10 --data-root data/cifar-10-batches-py --run-dir runs/cifar --checkpoint-steps 200

    mest train --run-dir runs/cifar --resume

    mest train --model net.py:make --data mnist --epochs 3 --scheme unstructured --sparsity 0.8 --run-dir runs/net

    mest train demo --masks-from trained.pt --lr 0.01 --run-dir runs/again
    """
    from mest_compiler.cli import training

    fields = {
        "model": model, "width": width, "data": data, "data_root": data_root, "epochs": epochs, "batch": batch,
        "lr": lr, "end_lr": end_lr, "warmup_epochs": warmup_epochs, "schedule": schedule, "milestones": milestones,
        "decay": decay, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay, "scheme": scheme,
        "sparsity": sparsity, "profile": profile, "augment": augment, "seed": seed,
    }  # fmt: skip
    chosen = of_recipe.chosen_recipe(recipe, run_dir, resume, fields)
    if resume:
        training.refuse_masks(masks, masks_from)
        run = training.resume_run(chosen, run_dir, threads=threads, checkpoint_steps=checkpoint_steps)
    else:
        run = training.begin_run(
            chosen,
            run_dir,
            device=device,
            threads=threads,
            masks=masks,
            masks_from=masks_from,
            checkpoint_steps=checkpoint_steps,
        )
    say(f"{run_dir}: test accuracy {run.summary.test_accuracy:.2%} after {run.summary.epochs} epochs")
    if json is not None:
        write_json(json, {**run.facts(), "run_dir": str(run_dir)})
