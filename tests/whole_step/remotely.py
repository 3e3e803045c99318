"""A client without OpenCL: compiles steps, trains them on a server's OpenCL device and checks what comes back.

`python -m tests.whole_step.remotely TRACKER KEY TASK [NAMES]` from the repository's folder; fails by an error.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import numpy as np
import torch
import tvm

from mest_compiler import Profile, build_model, compile_step, load_data
from mest_compiler.optimizers import Sgd
from mest_compiler.runtime.remote import connection
from mest_compiler.runtime.remote.where import Where
from mest_compiler.runtime.trainer import Trainer

from .cases import Case, compiled
from .training import LR, MaskedTraining, check_steps

SINGLE, CHANGES = 7e-3, (0.01, 0.06, 0.16)
"""Relative differences allowed between steps in float32 and in float64: of the loss and the logits, and after each step
of what it and those before changed in a parameter (norm by norm). Twice as far as PyTorch's own float32 steps with
these masks are from its float64 ones; it grows from step to step, for where a ReLU's input is nearly zero, one lets
through what the other does not. In float64 the same kernels differ by 1e-11."""


def double(place: connection.Connection, case: Case) -> None:
    """Three steps in float64 are PyTorch's to 1e-9."""
    built = compiled(case)
    trainer = Trainer(built.artifact, host=place)
    check_steps(trainer, MaskedTraining(built.model, trainer.masks(), case.rule), case.rule, case.shape)


def single(place: connection.Connection, scheme: str) -> None:
    """Three steps of ResNet-20 in float32 on 32x32 images, batch 64."""
    torch.manual_seed(0)
    model, rule = build_model("resnet20", classes=10, in_channels=3), Sgd(0.9, 5e-4, False)
    step = compile_step(
        model, input_shape=(3, 32, 32), batch=64, profile=Profile.uniform(scheme, 0.9), optimizer=rule,
        device="opencl", measure=False,
    )  # fmt: skip
    trainer = Trainer(step, host=place)
    reference = MaskedTraining(model.double(), trainer.masks(), rule)
    generator = torch.Generator().manual_seed(1)
    start = trainer.state()
    for allowed in CHANGES:
        x = torch.randn(64, 3, 32, 32, generator=generator).double()  # the same to both
        y = torch.randint(0, 10, (64,), generator=generator)
        loss, logits = trainer.step(x.numpy().astype(np.float32), y.numpy(), LR / 10)
        wanted, wanted_logits = reference.step(x, y, LR / 10)
        assert abs(loss - wanted) <= SINGLE * abs(wanted), (loss, wanted)
        assert np.abs(logits - wanted_logits).max() <= SINGLE * np.abs(wanted_logits).max()
        state, wanted_state = trainer.state(), reference.state()
        errors = {
            name: np.linalg.norm(state[name] - array) / np.linalg.norm(array - start[name])
            for name, array in wanted_state.items()
        }
        worst = max(errors, key=errors.__getitem__)
        assert errors[worst] <= allowed, (worst, errors[worst])
    print(f"{scheme}: loss {loss:.6f}, PyTorch's {wanted:.6f}", flush=True)


def mnist(place: connection.Connection, scheme: str) -> None:
    """A hundred steps on real images let the loss fall."""
    torch.manual_seed(0)
    data = load_data("mnist")
    model = build_model("resnet20", classes=10, in_channels=1)
    step = compile_step(
        model, input_shape=(1, 32, 32), batch=64, profile=Profile.uniform(scheme, 0.9), device="opencl", measure=False
    )
    trainer, rng, losses = Trainer(step, host=place), np.random.default_rng(0), []
    start = time.perf_counter()
    for _ in range(100):
        some = rng.integers(0, len(data.train_y), 64)
        losses.append(trainer.step(data.train_x[some], data.train_y[some], 0.05)[0])
    first, last = np.mean(losses[:10]), np.mean(losses[-10:])
    print(f"{scheme}: {first:.3f} -> {last:.3f} in {time.perf_counter() - start:.1f} s", flush=True)
    assert last < 0.5 * first, losses
    right = trainer.evaluate(data.test_x[:256], data.test_y[:256])
    assert right > 0.2, right  # chance is 0.1


DEEP = Case("resnet20", None, batch=5, device="opencl")
TASKS = {
    "deep": lambda place, scheme: double(place, replace(DEEP, scheme=scheme)), "single": single, "mnist": mnist,
}  # fmt: skip


def main(tracker: str, key: str, task: str, *schemes: str) -> None:
    """Do a task for each scheme."""
    for scheme in schemes:
        with connection.open(Where.of(tracker=tracker, key=key), request_s=600, wait_s=300) as place:
            TASKS[task](place, scheme)
    assert tvm.get_global_func("device_api.opencl", allow_missing=True) is None, "the client has OpenCL itself"


if __name__ == "__main__":
    main(*sys.argv[1:])
