"""Steps whose convolutions compute the batch norm in front of them themselves, and steps that have none of that, agree
with PyTorch as all others do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mest_compiler.passes.options import PLAIN, StepOptions
from mest_compiler.runtime.artifact import Artifact

from .cases import Case
from .limits import check_agrees, with_options
from .test_memory_options import check_limit
from .test_sums import BOTH, FORWARD, NETWORKS, SCHEMES

OFF = StepOptions(forward_inputs=False)
APART = StepOptions(forward_inputs=False, weight_gradients=False)
OPTIONS = {
    "on": PLAIN, "on, forward sums": FORWARD, "on, all sums": BOTH, "off": OFF, "apart": APART,
    "off, all sums": replace(OFF, forward_sums=True, backward_sums=True),
    "apart, forward sums": replace(APART, forward_sums=True),
    "no weight gradient": StepOptions(weight_gradients=False),
}  # fmt: skip
# Two norms that only a convolution reads, and in many normalisations five, in front of every kind of convolution.
FAST = [
    pytest.param(Case("pre-activation", "pattern", batch=5), "on, forward sums", marks=pytest.mark.slow),
    (Case("pre-activation", "block", batch=5, threads=1), "on, all sums"),
    (Case("pre-activation", "channel", batch=5), "off"),
    (Case("pre-activation", "pattern", family="zeros"), "on"),
    (Case("shared normalisation", "unstructured", batch=1), "on"),
    (Case("shared normalisation", "block:4x4", batch=9), "on, forward sums"),
    (Case("pre-activation", "unstructured", batch=5), "no weight gradient"),
    (Case("pre-activation", None, batch=5), "off, all sums"),
    pytest.param(Case("many normalisations", "filter", batch=9), "on", marks=pytest.mark.slow),
]
# Every network under every scheme, the options in turn.
SWEEP = [
    (network, scheme, list(OPTIONS)[(i + k) % len(OPTIONS)])
    for i, network in enumerate(NETWORKS)
    for k, scheme in enumerate(SCHEMES)
]


def computed_by_convolutions(artifact: Artifact) -> set[str]:
    """The layers that compute the batch norm in front of them."""
    layers = artifact.manifest["layers"].items()
    return {name for name, layer in layers if "_normalised" in layer["kernels"]["forward"]["function"]}


@pytest.mark.parametrize(("case", "options"), FAST, ids=str)
def test_three_steps(case: Case, options: str) -> None:
    artifact = with_options(case, OPTIONS[options])
    convolutions = {
        "pre-activation": {"conv1.weight", "conv2.weight"},
        "shared normalisation": {"tall.weight", "wide.weight"},
        "many normalisations": {f"convs.{i}.weight" for i in (2, 3, 4, 5, 6)},
    }
    on = options.startswith("on")
    assert computed_by_convolutions(artifact) == (convolutions[case.network] if on else set())
    check_agrees(case, artifact)


@pytest.mark.slow
@pytest.mark.parametrize(("network", "scheme", "options"), SWEEP)
def test_every_network(network: str, scheme: str | None, options: str) -> None:
    case = Case(network, scheme, batch=9)
    check_agrees(case, with_options(case, OPTIONS[options]))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["block", "pattern", "unstructured", "channel"])
@pytest.mark.parametrize("network", ["pre-activation", "many normalisations"])
def test_dense_kernels_on_sparse_layers(network: str, scheme: str) -> None:
    case = Case(network, scheme, batch=9, family="zeros")
    for options in ("on", "on, all sums", "apart"):
        check_agrees(case, with_options(case, OPTIONS[options]))


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
def test_as_users_compile_it(options: str) -> None:
    case = Case("many normalisations", "block", batch=6, optimised=True)
    check_agrees(case, with_options(case, OPTIONS[options]))


def test_a_limit() -> None:
    check_limit(Case("pre-activation", "block", batch=5, threads=1), 0.0, OPTIONS["on, all sums"])


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("network", ["resnet20", "mobilenet_v2_cifar", "many normalisations"])
def test_every_option_under_a_limit(network: str, options: str) -> None:
    check_limit(Case(network, "pattern", batch=10), 0.3, OPTIONS[options])
