"""All numbers that a trainer holds, and their comparison bit by bit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mest_compiler.runtime.trainer import Trainer


def all_state(trainer: Trainer) -> dict[str, np.ndarray]:
    """Parameters, buffers, momenta and masks."""
    return {
        **{f"state {name}": array for name, array in trainer.state().items()},
        **{f"{slot} {name}": array for slot, arrays in trainer.slots().items() for name, array in arrays.items()},
        **{f"mask {name}": array for name, array in trainer.masks().items()},
    }


def check_same_bits(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    """Fails unless both are equal to the last bit."""
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name
