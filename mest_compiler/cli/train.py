"""`mest train`: a recipe, through the compiled step or in PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mest_compiler.cli import optimizer_options, options
from mest_compiler.cli import recipe_options as of_recipe
from mest_compiler.cli.devices import options as remote
from mest_compiler.cli.output import say, write_json

RecipeName = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe's name, such as demo or resnet32-cifar10 (--list names all), or a YAML file; options may say "
        "it all instead.",
        show_default=False,
    ),
]
ListRecipes = Annotated[
    bool,
    typer.Option(
        "--list",
        is_eager=True,
        callback=of_recipe.show_recipes,
        help="Name the recipes that come with this, and what each is.",
    ),
]
RunDir = Annotated[
    Path,
    typer.Option(
        "--run-dir",
        file_okay=False,
        help="Folder of the run: its recipe, log, checkpoint and compiled step, and in the end its weights and masks.",
        rich_help_panel=of_recipe.RUN,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on from the checkpoint in --run-dir, which either backend may have written; with the same one the run "
        "ends bit by bit as without the break. More --epochs than it had stretch a cosine over all of them.",
        rich_help_panel=of_recipe.RUN,
    ),
]
AcceptChangedData = Annotated[
    bool,
    typer.Option(
        "--accept-changed-data",
        help="With --resume, go on although examples were replaced, such as a damaged image; as many as before.",
        rich_help_panel=of_recipe.RUN,
    ),
]
EngineName = Annotated[
    str | None,
    typer.Option(
        "--backend",
        help="compiled: the sparse step, on the CPU or an OpenCL device. torch: masked training in PyTorch, on the CPU "
        "or a GPU, under torchrun in several processes.",
        show_default="compiled; of a run that is resumed, compiled if its folder holds a step",
        rich_help_panel=of_recipe.RUN,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, opencl or galaxy-s20, a device of the compiled step; with --backend torch cpu, cuda or cuda:N "
        "(under torchrun cuda gives each process a GPU of its own).",
        show_default="cpu; of a run that is resumed, the device of its step",
        rich_help_panel=of_recipe.RUN,
    ),
]
CheckpointSteps = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Also write a checkpoint after every so many steps.",
        show_default="after every epoch",
        rich_help_panel=of_recipe.RUN,
    ),
]
Threads = of_recipe.in_panel(of_recipe.RUN, options.Threads)
TrackerAt = of_recipe.in_panel(of_recipe.RUN, remote.TrackerAt)
Key = of_recipe.in_panel(of_recipe.RUN, remote.Key)
Server = of_recipe.in_panel(of_recipe.RUN, remote.Server)
Adb = of_recipe.in_panel(of_recipe.RUN, remote.Adb)
MemoryLimit = of_recipe.in_panel(of_recipe.RUN, options.MemoryLimit)
Activations = of_recipe.in_panel(of_recipe.RUN, options.Activations)
Json = of_recipe.in_panel(of_recipe.RUN, options.Json)


def command(
    recipe: RecipeName = None,
    list_recipes: ListRecipes = False,
    data: of_recipe.Data = None,
    data_root: of_recipe.DataRoot = None,
    size: of_recipe.Size = None,
    examples: of_recipe.Examples = None,
    noise: of_recipe.Noise = None,
    augment: of_recipe.Augment = None,
    model: of_recipe.ModelName = None,
    width: of_recipe.WidthFactor = None,
    epochs: of_recipe.Epochs = None,
    batch: of_recipe.BatchSize = None,
    lr: of_recipe.Lr = None,
    end_lr: of_recipe.EndLr = None,
    warmup_epochs: of_recipe.WarmupEpochs = None,
    schedule: of_recipe.Schedule = None,
    milestones: of_recipe.Milestones = None,
    decay: of_recipe.Decay = None,
    optimizer: optimizer_options.Name = None,
    momentum: optimizer_options.Momentum = None,
    nesterov: optimizer_options.Nesterov = None,
    betas: optimizer_options.Betas = None,
    eps: optimizer_options.Eps = None,
    weight_decay: optimizer_options.WeightDecay = None,
    loss: of_recipe.Loss = None,
    label_smoothing: of_recipe.LabelSmoothing = None,
    scheme: of_recipe.Scheme = None,
    sparsity: of_recipe.Sparsity = None,
    profile: of_recipe.Profile = None,
    profile_ratios: of_recipe.ProfileRatios = None,
    weights: of_recipe.Weights = None,
    weights_key: of_recipe.WeightsKey = None,
    masks: of_recipe.Masks = None,
    masks_from: of_recipe.MasksFrom = None,
    method: of_recipe.Method = None,
    p: of_recipe.P = None,
    mutate_every: of_recipe.MutateEvery = None,
    mutate_until: of_recipe.MutateUntil = None,
    p_milestones: of_recipe.PMilestones = None,
    p_decay: of_recipe.PDecay = None,
    importance_lambda: of_recipe.ImportanceLambda = None,
    settings: of_recipe.Settings = None,
    de_epoch: of_recipe.DeEpoch = None,
    de_threshold: of_recipe.DeThreshold = None,
    de_remove: of_recipe.DeRemove = None,
    run_dir: RunDir = Path("runs/train"),
    resume: Resume = False,
    accept_changed_data: AcceptChangedData = False,
    checkpoint_steps: CheckpointSteps = None,
    backend: EngineName = None,
    device: Device = None,
    threads: Threads = None,
    tracker: TrackerAt = None,
    key: Key = None,
    server: Server = None,
    adb: Adb = None,
    memory_limit: MemoryLimit = None,
    activations: Activations = None,
    seed: of_recipe.RecipeSeed = None,
    json: Json = None,
) -> None:
    """Train a sparse model whose masks change as a method says (MEST, SET), through its compiled step or in PyTorch.

    A recipe says all; every option overrules the field of its name. The whole recipe is printed at the start and kept
    in the run's folder. Ctrl-C keeps the last checkpoint, and --resume goes on from there.

    Examples:

    mest train mnist-ems --run-dir runs/mnist

    mest train resnet32-cifar10 --data-root data/cifar-10-batches-py --run-dir runs/cifar --checkpoint-steps 200

    mest train --run-dir runs/cifar --resume --backend torch --device cuda

    mest train --model net.py:make --data mnist --epochs 3 --scheme unstructured --sparsity 0.8 --run-dir runs/net

    mest train demo --method 'em&s' --p 0.1 --masks-from trained.pt --lr 0.01 --run-dir runs/again

    mest train demo --weights dense.pth.tar --scheme pattern --sparsity 0.9 --lr 0.01 --run-dir runs/tuned

    mest train resnet32-cifar10 --data-root data/cifar-10-batches-py --memory-limit 100MB --run-dir runs/small

    mest train --model net.py:Two --data arrays --data-root numbers.npz --loss mse --epochs 9 --run-dir runs/two

    mest train mnist-ems --device galaxy-s20 --tracker 127.0.0.1:9190 --key galaxy-s20 --run-dir runs/phone

    torchrun --nproc-per-node 2 -m mest_compiler.cli.main train mnist-ems --backend torch --run-dir runs/two
    """
    from mest_compiler.cli import training
    from mest_compiler.runtime.remote.where import Where

    fields = {
        "data": data, "data_root": data_root, "size": size, "examples": examples, "noise": noise, "augment": augment,
        "model": model, "width": width,
        "epochs": epochs, "batch": batch, "lr": lr, "end_lr": end_lr, "warmup_epochs": warmup_epochs,
        "schedule": schedule, "milestones": milestones, "decay": decay, "momentum": momentum, "nesterov": nesterov,
        "optimizer": optimizer, "betas": betas, "eps": eps,
        "weight_decay": weight_decay, "loss": loss, "label_smoothing": label_smoothing,
        "scheme": scheme, "sparsity": sparsity, "profile": profile, "profile_ratios": profile_ratios,
        "weights": weights, "weights_key": weights_key, "masks": masks, "masks_from": masks_from,
        "method": method, "p": p, "mutate_every": mutate_every, "mutate_until": mutate_until,
        "p_milestones": p_milestones, "p_decay": p_decay, "importance_lambda": importance_lambda, "settings": settings,
        "de_epoch": de_epoch, "de_threshold": de_threshold, "de_remove": de_remove, "seed": seed,
    }  # fmt: skip
    if resume:
        training.refuse_start({name: fields[name] for name in of_recipe.OF_START})
    chosen = of_recipe.chosen_recipe(recipe, run_dir, resume, fields)
    place = Where.of(tracker, key, server, adb)
    where = {"threads": threads, "checkpoint_steps": checkpoint_steps, "where": place}
    asked = options.step_options(memory_limit, activations)
    if resume:
        training.refuse_step_options(asked)
        run = training.resume_run(
            chosen, run_dir, engine=backend, device=device, accepts_data=accept_changed_data, **where
        )
    else:
        backend = backend or training.COMPILED
        training.refuse_accepting(accept_changed_data)
        where["device"] = device or training.CPU
        run = training.begin_run(chosen, run_dir, engine=backend, options=asked, **where)
    if not run.first:
        return
    say(f"{run_dir}: {run.summary.records[-1].test_text} after {run.summary.epochs} epochs")
    if json is not None:
        write_json(json, {**run.facts(), "run_dir": str(run_dir)})
