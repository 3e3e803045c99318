"""One family of exceptions: each says in one sentence what was wrong, where, and what to do.

The command line prints that sentence and exits 2.
"""


class MestError(Exception):
    """Base of everything this package raises for a user's input or environment."""


class ModelError(MestError):
    """A model cannot be found, built, captured or translated."""


class ProfileError(MestError):
    """A sparsity profile (scheme, ratio, layer name) does not fit the model."""


class MaskError(MestError):
    """A mask does not fit its layer or its scheme."""


class StructureError(MestError):
    """Index arrays of a layer are inconsistent, out of bounds or over capacity."""


class ArtifactError(MestError):
    """An artifact is missing, damaged, of another version, or used with shapes it was not built for."""


class CheckpointError(MestError):
    """A checkpoint is missing, damaged or of another artifact."""


class DataError(MestError):
    """A data set is missing, damaged or of the wrong form."""


class DeviceError(MestError):
    """A device or its limits do not allow what was asked."""


class DeviceLostError(DeviceError):
    """A device that was there does not answer any more; asking for it again may help."""


class MemoryLimitError(MestError):
    """No way to compute a step fits the limit; `smallest`: bytes of the smallest one found."""

    def __init__(self, message: str, smallest: int) -> None:
        super().__init__(message)
        self.smallest = smallest


class BenchError(MestError):
    """A benchmark was described wrongly or one of its contestants failed."""


class TuningError(MestError):
    """A tuning was described wrongly, or one of its candidates failed."""


class PlanError(MestError):
    """A planned step would read memory that holds something else: an error of the compiler, found before it is run."""
