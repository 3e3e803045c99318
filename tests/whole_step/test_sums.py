"""Steps whose batch norms get their sums from the convolutions beside them agree with PyTorch as all others do."""

from dataclasses import replace

import pytest

from mest_compiler.passes.fit_memory import host_bytes
from mest_compiler.passes.options import StepOptions
from mest_compiler.runtime.artifact import Artifact

from .cases import Case
from .limits import check_agrees, with_options

FORWARD = StepOptions(forward_sums=True)
BACKWARD = StepOptions(backward_sums=True)
BOTH = StepOptions(forward_sums=True, backward_sums=True)
OPTIONS = {"forward": FORWARD, "backward": BACKWARD, "both": BOTH}
FAST = [
    (Case("pre-activation", "block", batch=5), "backward"),
    (Case("shared normalisation", "unstructured", batch=9, family="zeros"), "both"),
    pytest.param(Case("many normalisations", "unstructured", batch=9, family="zeros"), "both", marks=pytest.mark.slow),
]
NETWORKS = ("resnet20", "vgg19_bn", "mobilenet_v2_cifar", "odd normalisations", "odd activations", "pre-activation",
            "many normalisations")  # fmt: skip
SCHEMES = ("unstructured", "block", "block:4x4", "pattern", "channel", "filter", None)


def check(case: Case, options: StepOptions) -> Artifact:
    """Compiles a step and trains both ways."""
    artifact = with_options(case, options)
    check_agrees(case, artifact)
    return artifact


def test_sums_as_users_compile_them() -> None:
    """Relax's own kernels in the same module promise LLVM that nothing aliases; ours do not."""
    check(Case("pre-activation", "block", batch=5, optimised=True), FORWARD)


@pytest.mark.parametrize(("case", "sums"), FAST, ids=str)
def test_three_steps(case: Case, sums: str) -> None:
    options = OPTIONS[sums]
    layers = check(case, options).manifest["layers"].values()
    for direction, wanted in (("forward", options.forward_sums), ("backward_data", options.backward_sums)):
        named = [layer["kernels"][direction]["function"] for layer in layers if direction in layer["kernels"]]
        assert wanted == any("_sums" in name for name in named)


@pytest.mark.slow
@pytest.mark.parametrize("sums", OPTIONS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network(network: str, scheme: str | None, sums: str) -> None:
    case = Case(network, scheme, batch=9)
    check(case, OPTIONS[sums])


@pytest.mark.slow
@pytest.mark.parametrize("sums", OPTIONS)
@pytest.mark.parametrize("network", ["resnet20", "many normalisations"])
def test_as_users_compile_it(network: str, sums: str) -> None:
    case = Case(network, "block", batch=6, optimised=True)
    check(case, OPTIONS[sums])


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resnet20", "many normalisations"])
def test_with_activations_computed_again(network: str) -> None:
    case = Case(network, "block", batch=9)
    free = check(case, BOTH).manifest
    peak = free["memory"]["planned_peak"]
    limit = int(0.85 * peak) + host_bytes(len(free["parameters"]))
    memory = check(case, replace(BOTH, memory_limit=limit, micro_batch=9)).manifest["memory"]
    assert memory["recomputed"] and memory["planned_peak"] < peak
