"""The index arrays of an artifact's sparse layers, as its signature holds them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mest_compiler.errors import ArtifactError
from mest_compiler.signature import Role, StepSignature


def check_forms(signature: StepSignature, name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ArtifactError unless a layer's index arrays are those the program declares: kernels take any length, and
    would read on."""
    found = {key: f"{array.dtype} [{len(array)}]" for key, array in arrays.items()}
    taken = (arg for function in signature.values() for arg in function.of(Role.INDEX))
    wanted = {arg.part: f"{arg.dtype} [{arg.shape[0]}]" for arg in taken if arg.owner == name}
    wrong = next((key for key in {**wanted, **found} if found.get(key) != wanted.get(key)), None)
    if wrong is not None:
        raise ArtifactError(
            f"Index array {wrong!r} of layer {name!r} is {found.get(wrong, 'not there')}, and the artifact's "
            f"program takes {wanted.get(wrong, 'none')}: compile it again."
        )
