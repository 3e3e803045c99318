"""The folder of a run (recipe.yaml, log.jsonl, checkpoint), and what must agree when a run goes on."""

import json
from collections.abc import Callable
from pathlib import Path

from mest_compiler.errors import CheckpointError, DataError
from mest_compiler.files import append_line, write_text
from mest_compiler.training.built_for import BuiltFor
from mest_compiler.training.data_efficiency import DataEfficiency
from mest_compiler.training.data_files import DataFiles
from mest_compiler.training.engine import TrainingEngine
from mest_compiler.training.examples import Examples
from mest_compiler.training.feed import steps_per_epoch
from mest_compiler.training.going_on import check_data, check_network, check_recipe, longer
from mest_compiler.training.mutator import Mutator
from mest_compiler.training.recipe import Recipe
from mest_compiler.training.records import Position

CHECKPOINT, RECIPE, LOG = "checkpoint.safetensors", "recipe.yaml", "log.jsonl"


class RunFolder:
    """Reads and writes one run's folder.

    The checkpoint is the truth: the log is written anew from it when a run goes on.
    """

    def __init__(self, path: Path, recipe: Recipe, data: Examples) -> None:
        if recipe.data != data.name:
            raise DataError(
                f"the recipe asks for data set {recipe.data} and was given {data.name}: pass the one it names"
            )
        self.checkpoint = path / CHECKPOINT
        self._path = path
        self._recipe = recipe
        self._data = data
        self._fingerprint, self._files, self._digest = data.fingerprint(), DataFiles({}), ""
        self._network = BuiltFor.of(data)

    def begin(self) -> None:
        """Make the folder of a new run, with its recipe and an empty log.

        CheckpointError when the folder holds a run already.
        """
        if self.checkpoint.exists():
            raise CheckpointError(f"{self._path} already holds a run: resume it or choose another folder")
        self._files, self._digest = DataFiles.of(self._data.files()), self._data.digest()
        self._path.mkdir(parents=True, exist_ok=True)
        self._recipe.dump(self._path / RECIPE)
        self._write_log(Position())

    def resume(
        self,
        engine: TrainingEngine,
        mutator: Mutator,
        efficiency: DataEfficiency,
        *,
        writes: bool = True,
        accepts_data: bool = False,
        note: Callable[[str], None] | None = None,
    ) -> Position:
        """Load the checkpoint into all of them, and write recipe and log anew if this process `writes` them.

        accepts_data: whether examples may be other ones than they were; note: is told what differs, in a sentence each.
        CheckpointError when there is no checkpoint or it is of another recipe or other data.
        """
        if not self.checkpoint.exists():
            raise CheckpointError(f"{self._path} holds no checkpoint to resume: start the run without resuming")
        source = str(self.checkpoint)
        extra, arrays = engine.load(self.checkpoint)
        if not {"position", "recipe", "data", "mutation", "network"} <= extra.keys():
            raise CheckpointError(f"{source} was not written by this training loop: use another one")
        position = Position.from_mapping(extra["position"], source)
        before = check_recipe(extra["recipe"], self._recipe, position.epoch, source)
        self._files = DataFiles.of(self._data.files(), DataFiles.from_arrays(arrays, source))
        said = [check_data(self._data, self._files, extra, arrays, accepts_data, source)]
        check_network(BuiltFor.from_json(extra["network"], source), self._network, source)
        self._digest = self._data.digest()
        mutator.restore(extra["mutation"], source)
        efficiency.restore(arrays, source)
        if before.epochs != self._recipe.epochs:
            steps = steps_per_epoch(len(efficiency.active), self._recipe.batch)
            said.append(longer(before, self._recipe, position, steps))
        elif position.epoch >= self._recipe.epochs:
            said.append(f"all {position.epoch} epochs are done: more of them go on, with --epochs")
        for sentence in said if note else ():
            if sentence:
                note(sentence)
        if writes:
            self._recipe.dump(self._path / RECIPE)
            self._write_log(position)
        return position

    def save(self, engine: TrainingEngine, position: Position, mutator: Mutator, efficiency: DataEfficiency) -> None:
        """Replace the checkpoint by one of all of them, whole or not at all."""
        extra = {
            "position": position.as_mapping(),
            "recipe": self._recipe.as_mapping(),
            "data": self._fingerprint,
            "digest": self._digest,
            "mutation": mutator.state(),
            "network": self._network.to_json(),
        }
        engine.save(self.checkpoint, extra, {**efficiency.arrays(), **self._files.arrays()})

    def append_log(self, position: Position) -> None:
        """Append the last record of `position` to log.jsonl."""
        append_line(self._path / LOG, json.dumps(position.records[-1].as_mapping()))

    def _write_log(self, position: Position) -> None:
        lines = [json.dumps(record.as_mapping()) + "\n" for record in position.records]
        write_text(self._path / LOG, "".join(lines))
