"""Random numbers that depend on where in the run they are drawn and on nothing else.

Every draw of the loop comes from a generator keyed by (seed, purpose, position). A run that resumes at epoch
3, step 17 asks for the same key and gets the same numbers, so no generator state has to be carried, and a
thread may work ahead of the loop.
"""

import zlib

import numpy as np


def stream(seed: int, purpose: str, *position: int) -> np.random.Generator:
    """The generator of `purpose` ("order", "augment", ...) at `position` (epoch, step, ...) of a run."""
    # With the length, because NumPy takes keys that differ by zeros at the end for the same one.
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), len(position), *position])
