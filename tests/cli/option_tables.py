"""What shows of each option of `train` and `compile` that it is done, refused or said: an entry an option."""

from __future__ import annotations

from pathlib import Path

from mest_compiler.losses import CrossEntropy, Mse
from mest_compiler.optimizers import AdamW, Sgd
from mest_compiler.passes.options import StepOptions
from mest_compiler.runtime.remote.where import Address, Where

from .conftest import LAYER
from .method_options import BLOCK, METHOD
from .option_checks import Option, Seen, recipe, refuses, says

STEPS = ("--schedule", "step", "--milestones", "2,3")
TRACKED = ("--tracker", "127.0.0.1:9190", "--key", "phone")
TRACKER = Where(tracker=Address("127.0.0.1", 9190), key="phone")
PHONE = ("--device", "galaxy-s20")
KERNELS = ("--profile", "pruned.yaml", "--profile-ratios", "kernels")
TEN = ("--channels", "1", "ten.safetensors")


def _keeps_a_quarter(seen: Seen) -> bool:
    return seen.step["masks"][LAYER].mean() == 0.25


def _ratio(seen: Seen) -> float:
    return seen.step["profile"].layers[LAYER].sparsity


ADAMW, EPS = ("--optimizer", "adamw"), ("--eps", "1e-6")
TRAIN: dict[str, list[Option]] = {
    "recipe": [(("demo", "--data", "rows"), recipe(model="resnet20", momentum=0.9, method="em"))],
    "list_recipes": [(("--list",), lambda seen: "mnist-em" in seen.stdout and seen.status == 0)],
    "data": [((), recipe(data="rows")), (("--data", "row"), refuses("unknown data set 'row'"))],
    "data_root": [
        (("--data-root", "."), lambda seen: seen.of["load"]["root"] == str(Path.cwd())),
        (("--data", "mnist", "--data-root", "."), refuses("is not read from a folder")),
    ],
    "size": [
        (("--size", "8"), lambda seen: seen.of["load"]["size"] == 8),
        (("--data", "mnist", "--size", "8"), refuses("cannot be cut to 8x8")),
    ],
    "examples": [
        (("--examples", "40"), lambda seen: seen.of["begin_run"]["data"] == 40),
        (("--examples", "97"), refuses("has 96 training examples, 97 were asked for")),
    ],
    "noise": [(("--noise", "0.5"), recipe(noise=0.5)), (("--noise", "-1"), refuses("noise of a recipe is at least 0"))],
    "augment": [(("--no-augment",), recipe(augment=False))],
    "model": [((), lambda seen: seen.recipe["model"].endswith("net.py:make") and "title" in seen.step)],
    "width": [
        (("--model", "other.py:wide", "--width", "2"), lambda seen: seen.step["model"][1].weight.shape[0] == 16),
        (("--width", "2"), refuses("net.py:make takes no width, and 2.0 was asked for")),
    ],
    "epochs": [(("--epochs", "7"), recipe(epochs=7))],
    "batch": [(("--batch", "32"), lambda seen: seen.step["batch"] == 32)],
    "lr": [(("--lr", "0.02"), recipe(lr=0.02))],
    "end_lr": [
        (("--end-lr", "0.01"), recipe(end_lr=0.01)),
        ((*STEPS, "--end-lr", "0.01"), refuses("--end-lr changes nothing here, since it needs schedule cosine")),
    ],
    "warmup_epochs": [(("--warmup-epochs", "1"), recipe(warmup_epochs=1))],
    "schedule": [(STEPS, recipe(schedule="step"))],
    "milestones": [
        (STEPS, recipe(milestones=[2, 3])),
        (("--milestones", "2"), refuses('left out unless schedule is "step"')),
        ((*STEPS, "--milestones", "9"), refuses("--milestones changes nothing here, since it needs milestones below")),
    ],
    "decay": [
        ((*STEPS, "--decay", "0.2"), recipe(decay=0.2)),
        (("--decay", "0.2"), refuses("--decay changes nothing here, since it needs schedule step with milestones")),
    ],
    "momentum": [(("--momentum", "0.5"), lambda seen: seen.step["optimizer"] == Sgd(0.5, 5e-4, False))],
    "nesterov": [
        (("--nesterov",), lambda seen: seen.step["optimizer"].nesterov),
        (("--nesterov", "--momentum", "0"), refuses("nesterov of sgd is false without momentum")),
    ],
    "optimizer": [
        (("--optimizer", "adamw"), lambda seen: seen.step["optimizer"] == AdamW()),
        (("--optimizer", "lion"), refuses("There is no optimiser 'lion': choose sgd, adam, adamw")),
        (("--optimizer", "adamw", "--momentum", "0.5"), refuses("--momentum")),
    ],
    "betas": [
        ((*ADAMW, "--betas", "0.8,0.9"), lambda seen: seen.step["optimizer"].betas == (0.8, 0.9)),
        (("--betas", "0.8,0.9"), refuses("--betas")),
    ],
    "eps": [((*ADAMW, "--eps", "1e-6"), lambda s: s.step["optimizer"].eps == 1e-6), (EPS, refuses("--eps"))],
    "weight_decay": [(("--weight-decay", "0.1"), lambda seen: seen.step["optimizer"].weight_decay == 0.1)],
    "loss": [
        (("--loss", "cross_entropy"), lambda seen: seen.step["loss"] == CrossEntropy()),
        (("--loss", "mse"), refuses("Loss 'mse' takes y float32 [batch, 4] of this model's outputs")),
        (("--loss", "mse", "--label-smoothing", "0.1"), refuses("--label-smoothing changes nothing here")),
        (("--loss", "mse", "--de-epoch", "2", "--de-remove", "8"), refuses("counts right and wrong labels, and loss")),
        (("--loss", "hinge"), refuses("There is no loss 'hinge': choose cross_entropy, mse, bce_with_logits")),
    ],
    "label_smoothing": [(("--label-smoothing", "0.1"), lambda seen: seen.step["loss"] == CrossEntropy(0.1))],
    "scheme": [
        (BLOCK, lambda seen: seen.step["profile"].default.scheme == "block"),
        (("--scheme", "block"), refuses("names a scheme and its sparsity together")),
    ],
    "sparsity": [
        (BLOCK, lambda seen: "sparsity: 50.00% asked (block), 44.72% reached: 50.00% in 1 of 3" in seen.stderr),
        (("--sparsity", "0.5"), refuses("names a scheme and its sparsity together")),
    ],
    "profile": [
        (("--profile", "profile.yaml"), lambda seen: seen.step["profile"].default.sparsity == 0.75),
        (("--profile", "profile.yaml", *BLOCK), refuses("either a profile or a scheme")),
    ],
    "profile_ratios": [
        (("--scheme", "pattern", *KERNELS), lambda seen: 0.89 < _ratio(seen) < 0.91),
        (
            ("--profile", "profile.yaml", "--profile-ratios", "kernels"),
            refuses("its ratios are of weights, as all but prune_ratios"),
        ),
        (("--profile-ratios", "kernels"), refuses("--profile-ratios")),
    ],
    "weights": [
        ((*BLOCK, "--weights", "four.safetensors"), lambda seen: seen.step["masks"][LAYER].mean() == 0.5),
        (("--weights", "four.safetensors"), lambda seen: "four.safetensors: taken as they are" in seen.stderr),
        (("--weights", "net.py"), refuses("cannot be read")),
    ],
    "weights_key": [
        (
            ("--weights", "nested.pt", "--weights-key", "ema"),
            lambda seen: "nested.pt: unwrapped: ema; left: epoch" in seen.stderr,
        ),
        (("--weights-key", "ema"), refuses("--weights-key says where in a file weights are")),
    ],
    "masks": [
        (("--scheme", "block", "--masks", "masks.safetensors"), _keeps_a_quarter),
        ((*BLOCK, "--masks", "masks.safetensors"), refuses("The masks remove 75.00 % of the weights")),
        (("--masks", "masks.safetensors"), refuses("Masks need to know their scheme")),
    ],
    "masks_from": [
        (("--scheme", "block", "--masks-from", "four.safetensors"), _keeps_a_quarter),
        ((*BLOCK, "--masks-from", "four.safetensors"), refuses("The masks remove 75.00 % of the weights")),
        (("--masks-from", "four.safetensors"), refuses("Masks need to know their scheme")),
    ],
    **METHOD,
    "de_epoch": [
        (("--de-epoch", "2", "--de-remove", "8"), recipe(de_epoch=2)),
        (("--de-epoch", "2"), refuses("data efficiency of a recipe is de_epoch with")),
    ],
    "de_threshold": [
        (("--de-epoch", "2", "--de-threshold", "1"), recipe(de_threshold=1)),
        (("--de-threshold", "1"), refuses("data efficiency of a recipe is de_epoch with")),
    ],
    "de_remove": [
        (("--de-epoch", "2", "--de-remove", "8"), recipe(de_remove=8)),
        (("--de-remove", "8"), refuses("data efficiency of a recipe is de_epoch with")),
    ],
    "run_dir": [((), lambda seen: seen.of["begin_run"]["run_dir"] == Path("runs/net"))],
    "resume": [(("--resume",), refuses("holds no run to resume"))],
    "accept_changed_data": [(("--accept-changed-data",), refuses("A run that begins has no data that could have"))],
    "checkpoint_steps": [
        (("--backend", "torch", "--checkpoint-steps", "3"), lambda seen: seen.of["train"]["checkpoint_steps"] == 3)
    ],
    "backend": [
        (("--backend", "torch"), lambda seen: list(seen.of) == ["load", "begin_run", "train"]),
        (("--backend", "tvm"), refuses("There is no backend 'tvm'")),
    ],
    "device": [
        (PHONE, lambda seen: seen.step["device"] == "galaxy-s20"),
        (("--device", "cuda"), refuses("add --backend torch")),
        (("--backend", "torch", "--device", "opencl"), refuses("opencl")),
    ],
    "threads": [
        (("--threads", "1"), lambda seen: seen.step["threads"] == 1),
        ((*PHONE, "--threads", "1"), says("--threads changes nothing here, since it is about a CPU: the step is for")),
    ],
    "tracker": [
        (TRACKED, lambda seen: seen.of["begin_run"]["where"] == TRACKER and seen.step["measure"] is False),
        (TRACKED[:2], refuses("say which one, with --key KEY")),
        ((*TRACKED, "--backend", "torch"), refuses("--backend torch trains on this machine")),
    ],
    "key": [
        (TRACKED, lambda seen: seen.of["begin_run"]["where"].key == "phone"),
        (TRACKED[2:], refuses("needs a tracker that knows it")),
    ],
    "server": [
        (("--server", "127.0.0.1:5001"), lambda seen: seen.of["begin_run"]["where"].server.port == 5001),
        ((*TRACKED, "--server", "127.0.0.1:5001"), refuses("A device is reached in one way")),
    ],
    "adb": [
        (("--adb", "R5"), lambda seen: seen.of["begin_run"]["where"].adb == "R5"),
        (("--adb", "", "--backend", "torch"), refuses("--backend torch trains on this machine")),
    ],
    "memory_limit": [
        (("--memory-limit", "1GB"), lambda seen: seen.step["options"] == StepOptions(10**9)),
        (("--backend", "torch", "--memory-limit", "1GB"), refuses("leave out --memory-limit and --activations")),
    ],
    "activations": [
        (("--activations", "bf16"), lambda seen: seen.step["options"].stored == "bfloat16"),
        (("--backend", "torch", "--activations", "bf16"), refuses("leave out --memory-limit and --activations")),
    ],
    "seed": [(("--seed", "3"), lambda seen: seen.step["seed"] == 3 == seen.recipe["seed"])],
    "json": [(("--json", "none/x.json"), lambda seen: "the folder 'none' does not exist" in seen.stderr)],
}  # written: see `test_a_whole_run_says_what_was_asked_and_done`

COMPILE: dict[str, list[Option]] = {
    "model": [((), lambda seen: seen.step["name"] == "net.py:make")],
    "output": [(("--output", "net.py"), refuses("net.py exists and is no artifact"))],  # written: `test_compile.py`
    "scheme": [(BLOCK, lambda seen: seen.step["profile"].default.scheme == "block")],
    "sparsity": [
        (BLOCK, lambda seen: "sparsity: 50.00% asked (block), 37.70% reached: 50.00% in 1 of 3 layers" in seen.stderr),
        (("--sparsity", "0.5"), refuses("--sparsity was given without --scheme")),
    ],
    "profile": [
        (("--profile", "profile.yaml"), lambda seen: seen.step["profile"].default.sparsity == 0.75),
        (("--profile", "profile.yaml", "--sparsity", "0.5"), refuses("A profile says all ratios")),
    ],
    "masks": TRAIN["masks"],
    "profile_ratios": TRAIN["profile_ratios"],
    "weights": [
        ((*BLOCK, *TEN[:2], "--weights", *TEN[2:]), lambda seen: seen.step["masks"][LAYER].mean() == 0.5),
        ((*TEN[:2], "--weights", *TEN[2:]), says("weights ten.safetensors")),
    ],
    "weights_key": [
        ((*TEN[:2], "--weights", "nested.pt", "--weights-key", "none"), refuses("none")),
        (("--weights-key", "ema"), refuses("--weights-key says where in a file weights are")),
    ],
    "masks_from": [
        (("--scheme", "block", *TEN[:2], "--masks-from", *TEN[2:]), _keeps_a_quarter),
        ((*TEN[:2], "--masks-from", *TEN[2:]), refuses("Masks need to know their scheme")),
    ],
    "batch": TRAIN["batch"],
    "device": [TRAIN["device"][0], (("--device", "cuda"), refuses("There is no device 'cuda'"))],
    "threads": TRAIN["threads"],
    "width": [
        (("other.py:wide", "--width", "2"), TRAIN["width"][0][1]),
        (("--width", "2"), refuses("net.py:make takes no width, and 2.0 was asked for")),
    ],
    "channels": [
        (("--channels", "1"), lambda seen: seen.step["model"][0].weight.shape[1] == 1 == seen.step["input_shape"][0]),
        (("other.py:fixed", "--channels", "2"), refuses("give the --plane and --channels it is made for")),
    ],
    "plane": [(("--plane", "9x12"), lambda seen: seen.step["input_shape"] == (3, 9, 12))],
    "classes": [
        (("--classes", "7"), lambda seen: seen.step["model"][-1].weight.shape[0] == 7),
        (
            ("other.py:fixed", "--channels", "1", "--classes", "7"),
            refuses("The model has 5 outputs, and --classes asks for 7: let its builder take num_classes (or"),
        ),
        (("other.py:fixed", "--channels", "1"), lambda seen: seen.step["model"][-1].weight.shape[0] == 5),
    ],
    "momentum": TRAIN["momentum"],
    **{name: TRAIN[name] for name in ("nesterov", "optimizer", "betas", "eps")},
    "weight_decay": TRAIN["weight_decay"],
    "loss": [(("--loss", "mse"), lambda seen: seen.step["loss"] == Mse()), TRAIN["loss"][-1]],
    "memory_limit": TRAIN["memory_limit"][:1],
    "activations": TRAIN["activations"][:1],
    "seed": [
        (("--seed", "3"), lambda seen: seen.step["seed"] == 3),
        (
            ("--scheme", "block", *TEN[:2], "--masks-from", *TEN[2:], "--seed", "3"),
            refuses("--seed draws nothing where weights and masks come from --masks-from"),
        ),
    ],
    "dump_ir": [
        (("--dump-ir", "ir"), lambda seen: str(seen.step["dump"]) == "ir"),
        (("--dump-ir", "net.py"), refuses("--dump-ir writes many files, and net.py is there already")),
    ],
    "json": TRAIN["json"],  # written: `test_compile.py`
}
