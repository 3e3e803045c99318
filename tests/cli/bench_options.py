"""What shows of each option of `bench` that it is done, refused or said: an entry an option."""

from __future__ import annotations

from mest_compiler.runtime.remote.where import Address

from .option_checks import Does, Option, refuses, says
from .option_tables import BLOCK, COMPILE, PHONE, TRACKED, TRACKER, TRAIN

ONE_LAYER = "layer:8,8,3,8x8"
LAYER_BLOCK = (ONE_LAYER, *BLOCK)


def of_layer(name: str, value: object) -> Does:
    """An argument of the comparison of a layer."""
    return lambda seen: seen.of["compare_layer"][name] == value


BENCH: dict[str, list[Option]] = {
    "what": [
        ((), lambda seen: seen.step["name"] == "net.py:make"),
        ((ONE_LAYER,), lambda seen: str(seen.of["compare_layer"]["case"].layer) == ONE_LAYER),
        (("step",), lambda seen: list(seen.of["measured"]["artifacts"]) == ["sparse"]),
    ],
    "scheme": [
        (BLOCK, lambda seen: seen.step["profile"].default.scheme == "block"),
        (LAYER_BLOCK, lambda seen: seen.of["compare_layer"]["case"].scheme == "block"),
        (("step", "--scheme", "block"), refuses("--scheme says nothing about an artifact")),
        ((ONE_LAYER, "--scheme", "block:3x1", "--sparsity", "0.5"), refuses("has 8 filters, which scheme 'block:3x1'")),
    ],
    "sparsity": [
        (BLOCK, COMPILE["sparsity"][0][1]),
        (LAYER_BLOCK, lambda seen: "sparsity: 50.00% asked (block), 50.00% reached: 50.00% in 1 of 1" in seen.stderr),
        (("--sparsity", "0.5"), refuses("--sparsity was given without --scheme")),
        (("step", "--sparsity", "0.5"), refuses("--sparsity says nothing about an artifact")),
        ((ONE_LAYER, "--scheme", "filter", "--sparsity", "0.95"), refuses("keeps none of the 8 units of layer")),
    ],
    "profile": [
        (("--profile", "profile.yaml"), lambda seen: seen.step["profile"].default.sparsity == 0.75),
        ((ONE_LAYER, "--profile", "profile.yaml"), refuses("--profile says nothing about a single layer")),
        (("step", "--profile", "profile.yaml"), refuses("--profile says nothing about an artifact")),
    ],
    **{name: COMPILE[name] for name in ("profile_ratios", "weights", "weights_key", "masks", "masks_from")},
    "batch": [
        (("--batch", "4"), lambda seen: seen.step["batch"] == 4),
        ((ONE_LAYER, "--batch", "4"), lambda seen: seen.of["compare_layer"]["case"].batch == 4),
        (("step", "--batch", "4"), refuses("was compiled for a batch of 8, not of 4")),
    ],
    "device": [
        (PHONE, lambda seen: seen.step["device"] == "galaxy-s20"),
        ((ONE_LAYER, "--device", "opencl"), of_layer("device", "opencl")),
        (("step", *PHONE), refuses("was compiled for cpu, not for galaxy-s20")),
    ],
    "threads": [
        (("--threads", "1"), lambda seen: seen.step["threads"] == 1),
        ((ONE_LAYER, "--threads", "1"), of_layer("threads", 1)),
        (("step", "--threads", "1"), lambda seen: seen.of["measured"]["threads"] == 1),
        ((*PHONE, "--compare", "dense", "--threads", "1"), says("--threads changes nothing here, since it is about")),
        (("step", *TRACKED, "--threads", "1"), refuses("--threads says nothing about a step on the device behind RPC")),
    ],
    "compare": [
        ((ONE_LAYER, "--compare", "dense"), of_layer("opponents", ("dense",))),
        (("--compare", "unordered"), refuses("--compare unordered is about a single layer")),
        ((ONE_LAYER, "--compare", "untuned"), refuses("--compare untuned is about a whole network")),
        (("step", "--compare", "torch"), refuses("--compare torch says nothing about an artifact")),
        ((*TRACKED, "--compare", "torch"), refuses("--compare torch is about this machine")),
    ],
    "rounds": [((ONE_LAYER, "--rounds", "3"), of_layer("rounds", 3))],
    "width": [*COMPILE["width"], ((ONE_LAYER, "--width", "2"), refuses("--width says nothing about a single layer"))],
    "channels": [*COMPILE["channels"], ((ONE_LAYER, "--channels", "1"), refuses("--channels says nothing about a"))],
    "plane": [*COMPILE["plane"], ((ONE_LAYER, "--plane", "8x8"), refuses("--plane says nothing about a single layer"))],
    "classes": [*COMPILE["classes"], (("step", "--classes", "9"), refuses("--classes says nothing about an artifact"))],
    "memory_limit": [
        TRAIN["memory_limit"][0],
        ((ONE_LAYER, "--memory-limit", "1GB"), refuses("--memory-limit says nothing about a single layer")),
    ],
    "activations": [
        TRAIN["activations"][0],
        ((ONE_LAYER, "--activations", "bf16"), refuses("--activations says nothing about a single layer")),
    ],
    "seed": [
        (("--seed", "3"), lambda seen: seen.step["seed"] == 3),
        ((ONE_LAYER, "--seed", "3"), lambda seen: seen.of["compare_layer"]["case"].seed == 3),
    ],
    "tracker": [
        (("step", *TRACKED), lambda seen: seen.of["measured_remotely"]["where"] == TRACKER),
        ((*TRACKED, "--device", "galaxy-s20"), lambda seen: seen.step["measure"] is False),
        ((ONE_LAYER, *TRACKED), refuses("--tracker says nothing about a single layer")),
        (TRACKED[:2], refuses("say which one, with --key KEY")),
    ],
    "key": [(TRACKED[2:], refuses("needs a tracker that knows it"))],
    "server": [
        (
            ("step", "--server", "127.0.0.1:5001"),
            lambda seen: seen.of["measured_remotely"]["where"].server == Address("127.0.0.1", 5001),
        )
    ],
    "adb": [(("step", "--adb", "R5"), lambda seen: seen.of["measured_remotely"]["where"].adb == "R5")],
    "rest": [
        (("step", *TRACKED, "--rest", "2"), lambda seen: seen.of["measured_remotely"]["rest"] == 2),
        (("step", "--rest", "2"), refuses("--rest says nothing about a step on this machine")),
        (("--rest", "2"), refuses("--rest says nothing about a step on this machine")),
        ((ONE_LAYER, "--rest", "2"), refuses("--rest says nothing about a single layer")),
    ],
    "uneven": [
        ((*LAYER_BLOCK, "--uneven"), lambda seen: seen.of["compare_layer"]["case"].uneven),
        ((ONE_LAYER, "--uneven"), refuses("--uneven says nothing about a dense layer")),
        (("--uneven",), refuses("--uneven says nothing about a network")),
        (("step", "--uneven"), refuses("--uneven says nothing about an artifact")),
    ],
    "profile_kernels": [(("step", "--profile-kernels"), lambda seen: seen.of["measured"]["profile_kernels"])],
    "json": TRAIN["json"],  # written: `test_bench_command.py`
}
