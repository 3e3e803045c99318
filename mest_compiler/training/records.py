"""What a run leaves behind in numbers: a record an epoch, a summary, and a checkpoint's position."""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mest_compiler.errors import CheckpointError


@dataclass(frozen=True)
class EpochRecord:
    """One line of log.jsonl.

    epoch: counted from 1; loss: mean over the epoch's steps; train_accuracy: share of right answers in the
    steps' own logits (training mode, weights of the moment); test_accuracy: after the epoch and its mutation; lr: of
    the last step; ms_per_iteration: wall time of the epoch's steps with the wait for their batches, by step; seconds:
    wall time of the epoch with its mutation and evaluation.

    sparsity: share of the sparse layers' weights that are removed after the epoch, 0 without such layers; kept,
    removed, grown: weights that these layers keep, and that the mutation after this epoch removed and grew;
    mutation_ms: its time; examples: training images of the epoch; unforgettable: images of the training set that were
    learned and never forgotten so far; memory_mb: peak resident memory of the process so far, MiB; state_mb: weights,
    gradients, momentum and indices, MiB.
    """

    epoch: int
    loss: float
    train_accuracy: float
    test_accuracy: float
    lr: float
    ms_per_iteration: float
    seconds: float
    sparsity: float
    kept: int
    removed: int
    grown: int
    mutation_ms: float
    examples: int
    unforgettable: int
    memory_mb: float
    state_mb: float

    @classmethod
    def from_mapping(cls, content: object, source: str) -> "EpochRecord":
        """A record from a line of a log; CheckpointError, naming `source`, when it is something else."""
        names = {entry.name for entry in fields(cls)}
        if not isinstance(content, dict) or content.keys() != names:
            found = content.keys() if isinstance(content, dict) else set()
            wrong = min(names ^ found, key=str)
            said = "lacks" if wrong in names else "has the unknown"
            raise CheckpointError(f"{source} is no record of an epoch: it {said} {wrong!r}; use a log of this version")
        for entry in fields(cls):
            value = content[entry.name]
            # type(), because True is an int to isinstance
            fits = type(value) is int or (entry.type is float and type(value) is float and math.isfinite(value))
            if not fits:
                kind = "a number" if entry.type is float else "a whole number"
                raise CheckpointError(f"{source}: {entry.name} is {value!r} and not {kind}; use an undamaged log")
        return cls(**content)


@dataclass(frozen=True)
class Summary:
    """A finished run: its records by epoch, resumed ones included."""

    records: tuple[EpochRecord, ...]

    @property
    def epochs(self) -> int:
        """Number of epochs trained."""
        return len(self.records)

    @property
    def test_accuracy(self) -> float:
        """Accuracy after the last epoch, in [0, 1]."""
        return self.records[-1].test_accuracy

    @property
    def best_test_accuracy(self) -> float:
        """Highest accuracy after any epoch."""
        return max(record.test_accuracy for record in self.records)

    @property
    def loss(self) -> float:
        """Mean loss of the last epoch."""
        return self.records[-1].loss

    @property
    def ms_per_iteration(self) -> float:
        """Mean over all epochs."""
        return sum(record.ms_per_iteration for record in self.records) / self.epochs

    @property
    def seconds(self) -> float:
        """Wall time of all epochs."""
        return sum(record.seconds for record in self.records)


@dataclass
class Position:
    """How far a run is: whole epochs and their records, steps into the next one and sums over those."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    step_seconds: float = 0.0
    records: list[EpochRecord] = field(default_factory=list)

    def add_step(self, loss: float, correct: int, seconds: float) -> None:
        """Count one step of `seconds`, with its mean loss and its number of right answers."""
        self.step += 1
        self.loss_sum += loss
        self.correct += correct
        self.step_seconds += seconds

    def finish_epoch(self, *, batch: int, beside_seconds: float, **rest: Any) -> EpochRecord:
        """Close the epoch: append and return its record and start the sums anew.

        beside_seconds: what the epoch took beside its steps; rest: the record's fields that are no sums over steps.
        """
        record = EpochRecord(
            epoch=self.epoch + 1,
            loss=self.loss_sum / self.step,
            train_accuracy=self.correct / (self.step * batch),
            ms_per_iteration=1000 * self.step_seconds / self.step,
            seconds=self.step_seconds + beside_seconds,
            **rest,
        )
        self.records.append(record)
        self.epoch += 1
        self.step, self.loss_sum, self.correct, self.step_seconds = 0, 0.0, 0, 0.0
        return record

    def as_mapping(self) -> dict[str, Any]:
        """JSON values; floats survive JSON bit by bit."""
        return asdict(self)

    @classmethod
    def from_mapping(cls, content: dict[str, Any], source: str) -> "Position":
        """Back from `as_mapping`; CheckpointError, naming `source`, when it is something else."""
        try:
            records = [EpochRecord(**record) for record in content["records"]]
            position = cls(**(content | {"records": records}))
            if position.epoch != len(records) or position.step < 0:
                raise ValueError(f"{len(records)} records of {position.epoch} epochs and {position.step} steps")
            return position
        except (TypeError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"{source} was not written by this training loop ({error}): use another one"
            ) from None
