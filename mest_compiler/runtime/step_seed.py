"""What draws the masks of a step's dropouts, the same in every engine."""

from __future__ import annotations

import numpy as np


def step_seed(seed: int, step: int) -> np.uint32:
    """Seed of the dropouts of a step, counted from 0, in a run with this seed."""
    return np.random.SeedSequence([seed, step]).generate_state(1, np.uint32)[0]
