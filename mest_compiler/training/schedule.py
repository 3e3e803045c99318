"""Learning rates as pure functions of the step, counted from 0 over the whole run."""

import math
from collections.abc import Sequence


def cosine(step: int, *, total_steps: int, lr: float, end_lr: float = 0.0, warmup_steps: int = 0) -> float:
    """Linear warm-up to `lr`, then half a cosine down to `end_lr`, which the last step has (Table G.1:
    "cosine")."""
    if step < warmup_steps:
        return warmup(step, warmup_steps, lr)
    span = total_steps - warmup_steps - 1
    progress = min(1.0, (step - warmup_steps) / span) if span > 0 else 0.0
    return end_lr + 0.5 * (lr - end_lr) * (1.0 + math.cos(math.pi * progress))


def step_decay(step: int, *, boundaries: Sequence[int], factor: float, lr: float, warmup_steps: int = 0) -> float:
    """Linear warm-up to `lr`, which is multiplied by `factor` at each of the `boundaries` (steps) reached."""
    if step < warmup_steps:
        return warmup(step, warmup_steps, lr)
    return lr * factor ** sum(step >= boundary for boundary in boundaries)


def warmup(step: int, warmup_steps: int, lr: float) -> float:
    """Rate of a warm-up step: grows linearly from lr / warmup_steps to `lr`, never zero."""
    return lr * (step + 1) / warmup_steps
