"""Steps in less memory: what is computed again changes no number, and what waits as bfloat16 little."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mest_compiler import models
from mest_compiler.compile import compile_step
from mest_compiler.devices import CpuProfile
from mest_compiler.optimizers import Sgd
from mest_compiler.passes.options import PLAIN, StepOptions
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.runtime.trainer import Trainer
from mest_compiler.sparsity.profile import Profile
from mest_compiler.training.data import load_data

from .cases import Case, unoptimised
from .limits import check_agrees, check_same, host, limited, narrow_and_wide, planned_peak, smallest, with_options
from .training import CLASSES, batch

SHARES = (0.6, 0.3, 0.0)
SCHEMES = ("unstructured", "block", "block:4x4", "pattern", "channel", "filter", None)
# A max-pool, depthwise convolutions and ReLU6, dropouts, residuals; batches that fill no tile.
NETWORKS = ("resnet20", "vgg19_bn", "mobilenet_v2_cifar", "odd activations")
BATCH = 10
STEPS = {"mobilenet_v2_cifar": 2}
"""Of the comparison with PyTorch, where not 3: from step to step batch norms over few pixels multiply rounding."""
# Without weights a filter leaves a plane of its bias: normalised that is zero up to rounding, and what follows asks for
# its sign. A step without a limit agrees with PyTorch as little.
UNFIT = {("odd activations", "filter")}
# Every network under every scheme, the limits in turn.
SWEEP = [
    (network, scheme, SHARES[(i + k) % len(SHARES)])
    for i, network in enumerate(NETWORKS)
    for k, scheme in enumerate(SCHEMES)
]
FREE = Case("pre-activation", "filter", batch=5, first="sparse")
FAST = [
    pytest.param(Case("resnet20", "block", batch=BATCH), 0.3, marks=pytest.mark.slow),
    pytest.param(Case("odd activations", "block:4x4", batch=BATCH), 0.0, marks=pytest.mark.slow),
    pytest.param(Case("odd activations", "block", batch=BATCH, rule=Sgd(0.9, 5e-4, True)), 0.6, marks=pytest.mark.slow),
    (Case("dropout", "block", batch=BATCH, rule=Sgd(0.9, 5e-4, True)), 0.6),
    pytest.param(Case("odd normalisations", "unstructured", batch=BATCH), 0.0, marks=pytest.mark.slow),
    (FREE, 0.0),
    pytest.param(Case("pre-activation", "channel", batch=5), 0.3, marks=pytest.mark.slow),
]


def check_limit(case: Case, share: float, options: StepOptions = PLAIN) -> None:
    """Compiles a step for a limit; fails unless its plan stays under it and the step computes what PyTorch does, and
    the same bits as without a limit."""
    artifact, limit = limited(case, share, options)
    memory = artifact.manifest["memory"]
    assert memory["micro_batches"] == 1 and memory["micro_batch"] == case.batch
    assert smallest(case, options) <= limit < planned_peak(case, options)
    assert sum(memory["planned"].values()) == memory["planned_peak"] <= limit
    assert memory["recomputed"] and all(size > 0 for size in memory["recomputed"].values())
    check_same(case, artifact, options=options)
    if (case.network, case.scheme) not in UNFIT:
        check_agrees(case, artifact, STEPS.get(case.network, 3))


@pytest.mark.parametrize(("case", "share"), FAST, ids=str)
def test_a_limit(case: Case, share: float) -> None:
    check_limit(case, share)


@pytest.mark.slow
@pytest.mark.parametrize(("network", "scheme", "share"), SWEEP)
def test_every_network_and_scheme(network: str, scheme: str | None, share: float) -> None:
    check_limit(Case(network, scheme, batch=BATCH), share)


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_a_limit_as_users_compile_it(network: str) -> None:
    check_limit(Case(network, "block", batch=BATCH, optimised=True), 0.0)


def test_a_limit_that_is_no_limit_changes_nothing() -> None:
    case = FREE
    memory = with_options(case, StepOptions(memory_limit=planned_peak(case) + host(case))).manifest["memory"]
    assert memory["recomputed"] == {} and memory["planned_peak"] == planned_peak(case)


@pytest.mark.slow
def test_a_smaller_limit_computes_more_again() -> None:
    case = Case("odd activations", "block", batch=BATCH, rule=Sgd(0.9, 5e-4, True))
    sizes = [sum(limited(case, share)[0].manifest["memory"]["recomputed"].values()) for share in SHARES]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


# ---- bfloat16
PLAIN_SGD = Sgd(0.9, 0.0, False)
NARROW = [
    Case("pre-activation", "block", batch=BATCH, rule=PLAIN_SGD),
    pytest.param(Case("odd activations", "block", batch=BATCH, rule=PLAIN_SGD), marks=pytest.mark.slow),
    pytest.param(Case("odd activations", "pattern", batch=BATCH, rule=PLAIN_SGD), marks=pytest.mark.slow),
    *(
        pytest.param(Case(network, "block", batch=BATCH, rule=PLAIN_SGD), marks=pytest.mark.slow)
        for network in ("resnet20", "vgg19_bn", "mobilenet_v2_cifar")
    ),
]
ROUNDED = 0.08
"""Relative, of all gradients as one: what rounding to 8 bits may change in it. Measured: 0.008 to 0.062, most of it
since batch norm's backward takes the ReLU's mask from what was rounded."""
IMAGES, LEARNING, LAST = 32, 30, 5


def first_step(case: Case, artifact: Artifact) -> tuple[float, np.ndarray, dict[str, np.ndarray]]:
    """Loss, logits and gradients of the first step: without weight decay the first momenta are the gradients."""
    trainer = Trainer(artifact)
    x, y = batch(case.batch, case.shape, 0)
    loss, logits = trainer.step(x.numpy().astype(np.float32), y.numpy(), 0.1)
    return loss, logits, trainer.slots()["momentum"]


@pytest.mark.parametrize("case", NARROW, ids=str)
def test_bfloat16_rounds_gradients_only(case: Case) -> None:
    narrow, wide = narrow_and_wide(case)
    found, wanted = first_step(case, narrow), first_step(case, wide)
    assert found[0] == wanted[0]
    np.testing.assert_array_equal(found[1], wanted[1])
    gradients, exact = (np.concatenate([part[name].ravel() for name in wanted[2]]) for part in (found[2], wanted[2]))
    assert 0 < np.linalg.norm(gradients - exact) / np.linalg.norm(exact) <= ROUNDED


@pytest.mark.parametrize("case", NARROW, ids=str)
def test_bfloat16_takes_less(case: Case) -> None:
    narrow, wide = (artifact.manifest["memory"] for artifact in narrow_and_wide(case))
    assert (narrow["stored"], wide["stored"]) == ("bfloat16", "float32")
    assert narrow["planned"]["activations"] < 0.7 * wide["planned"]["activations"]
    assert narrow["planned_peak"] < wide["planned_peak"]


def losses(stored: str) -> list[float]:
    """Of a narrow ResNet-20 on real images."""
    data, rng = load_data("mnist"), np.random.default_rng(0)
    torch.manual_seed(0)
    model = models.build("resnet20", classes=CLASSES, in_channels=1, width=0.25)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CpuProfile, "target", property(unoptimised))
        artifact = compile_step(
            model, input_shape=data.input_shape, batch=IMAGES, profile=Profile.uniform("block", 0.7), measure=False,
            options=StepOptions(stored=stored),
        )  # fmt: skip
    trainer, found = Trainer(artifact), []
    for _ in range(LEARNING):
        some = rng.integers(0, len(data.train_x), IMAGES)
        found.append(trainer.step(data.train_x[some], data.train_y[some], 0.05)[0])
    return found


@pytest.mark.slow
def test_bfloat16_trains_as_well() -> None:
    wide, narrow = (np.array(losses(stored)) for stored in ("float32", "bfloat16"))
    assert wide[0] == narrow[0] and (wide[1:] != narrow[1:]).any()
    assert wide[-LAST:].mean() < 0.7 * wide[0]  # it has learnt something
    assert abs(narrow[-LAST:].mean() - wide[-LAST:].mean()) <= 0.1 * wide[-LAST:].mean()
