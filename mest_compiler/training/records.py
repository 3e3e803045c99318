"""What a run leaves behind in numbers: a record an epoch, a summary, and a checkpoint's position."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mest_compiler.errors import CheckpointError
from mest_compiler.losses.base import ACCURACY, METRICS
from mest_compiler.training.scores import best_of, score_text

SCORE = "score"
"""What stands for the metric in the names of fields; a log has the metric's own name: test_accuracy, test_error."""


@dataclass(frozen=True)
class EpochRecord:
    """One line of log.jsonl.

    epoch: counted from 1; loss: mean over the epoch's steps; metric: ACCURACY or ERROR, what the loss calls its scores;
    train_score: their mean over the steps' own outputs (training mode, weights of the moment); test_score: after the
    epoch and its mutation; lr: of the last step; ms_per_iteration: wall time of the epoch's steps with the wait for
    their batches, by step; seconds: wall time of the epoch with its mutation and evaluation.

    sparsity: share of the sparse layers' weights that are removed after the epoch, 0 without such layers; kept,
    removed, grown: weights that these layers keep, and that the mutation after this epoch removed and grew;
    mutation_ms: its time; examples: training examples of the epoch; unforgettable: those of the training set that were
    learned and never forgotten so far, 0 where they have no labels; memory_mb: peak resident memory of the process so
    far, MiB; state_mb: weights, gradients, momentum and indices, MiB.
    """

    epoch: int
    loss: float
    metric: str
    train_score: float
    test_score: float
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
        found = content.keys() if isinstance(content, dict) else set()
        metric = next((one for one in METRICS if f"test_{one}" in found), ACCURACY)
        kept = [entry for entry in fields(cls) if entry.name != "metric"]
        names = {_in_log(entry.name, metric): entry for entry in kept}
        if found != names.keys():
            wrong = min(names.keys() ^ found, key=str)
            said = "lacks" if wrong in names else "has the unknown"
            raise CheckpointError(f"{source} is no record of an epoch: it {said} {wrong!r}; use a log of this version")
        for name, entry in names.items():
            value = content[name]
            # type(), because True is an int to isinstance
            fits = type(value) is int or (entry.type is float and type(value) is float and math.isfinite(value))
            if not fits:
                kind = "a number" if entry.type is float else "a whole number"
                raise CheckpointError(f"{source}: {name} is {value!r} and not {kind}; use an undamaged log")
        return cls(metric=metric, **{entry.name: content[name] for name, entry in names.items()})

    def as_mapping(self) -> dict[str, Any]:
        """JSON values; the scores go by the metric's name, as in test_accuracy."""
        found = asdict(self)
        metric = found.pop("metric")
        return {_in_log(name, metric): value for name, value in found.items()}

    @property
    def test_text(self) -> str:
        """The test score with its name, as in "test accuracy 98.00%"."""
        return f"test {self.metric} {score_text(self.metric, self.test_score)}"


def _in_log(name: str, metric: str) -> str:
    return name.replace(SCORE, metric)


@dataclass(frozen=True)
class Summary:
    """A finished run: its records by epoch, resumed ones included."""

    records: tuple[EpochRecord, ...]

    @property
    def epochs(self) -> int:
        """Number of epochs trained."""
        return len(self.records)

    @property
    def test_score(self) -> float:
        """After the last epoch."""
        return self.records[-1].test_score

    def scores(self) -> dict[str, float]:
        """The last and the best test score by the metric's name: test_accuracy and best_test_accuracy, or of errors."""
        metric = self.records[-1].metric
        best = best_of(metric, (record.test_score for record in self.records))
        return {f"test_{metric}": self.test_score, f"best_test_{metric}": best}

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
    score_sum: float = 0.0
    step_seconds: float = 0.0
    records: list[EpochRecord] = field(default_factory=list)

    def add_step(self, loss: float, score: float, seconds: float) -> None:
        """Count one step of `seconds`, with its mean loss and the sum of its examples' scores."""
        self.step += 1
        self.loss_sum += loss
        self.score_sum += score
        self.step_seconds += seconds

    def finish_epoch(self, *, batch: int, beside_seconds: float, **rest: Any) -> EpochRecord:
        """Close the epoch: append and return its record and start the sums anew.

        beside_seconds: what the epoch took beside its steps; rest: the record's fields that are no sums over steps.
        """
        record = EpochRecord(
            epoch=self.epoch + 1,
            loss=self.loss_sum / self.step,
            train_score=self.score_sum / (self.step * batch),
            ms_per_iteration=1000 * self.step_seconds / self.step,
            seconds=self.step_seconds + beside_seconds,
            **rest,
        )
        self.records.append(record)
        self.epoch += 1
        self.step, self.loss_sum, self.score_sum, self.step_seconds = 0, 0.0, 0.0, 0.0
        return record

    def as_mapping(self) -> dict[str, Any]:
        """JSON values; floats survive JSON bit by bit."""
        return asdict(self) | {"records": [record.as_mapping() for record in self.records]}

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any], source: str) -> "Position":
        """Back from `as_mapping`; CheckpointError, naming `source`, when it is something else."""
        try:
            records = [EpochRecord.from_mapping(record, source) for record in content["records"]]
            # as versions called it that knew accuracies only
            renamed = {"score_sum" if name == "correct" else name: value for name, value in content.items()}
            position = cls(**(renamed | {"records": records}))
            if position.epoch != len(records) or position.step < 0:
                raise ValueError(f"{len(records)} records of {position.epoch} epochs and {position.step} steps")
            return position
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"{source} was not written by this training loop ({error}): use another one"
            ) from None
