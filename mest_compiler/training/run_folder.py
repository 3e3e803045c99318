"""The folder of a run (recipe.yaml, log.jsonl, checkpoint), and what must agree when a run goes on."""

import json
from dataclasses import asdict
from pathlib import Path

from mest_compiler.errors import CheckpointError, DataError
from mest_compiler.files import append_line, write_text
from mest_compiler.training.backend import Backend
from mest_compiler.training.data import Examples
from mest_compiler.training.data_efficiency import DataEfficiency
from mest_compiler.training.mutator import Mutator
from mest_compiler.training.recipe import Recipe
from mest_compiler.training.records import Position

CHECKPOINT, RECIPE, LOG = "checkpoint.safetensors", "recipe.yaml", "log.jsonl"
# The same data may lie elsewhere on the day a run goes on; the fingerprint tells whether they are the same.
MAY_CHANGE = {"data_root"}


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
        self._fingerprint = data.fingerprint()
        # What the network is built for: with it whoever has no data can still read the run.
        self._network = {"input_shape": list(data.input_shape), "classes": data.classes}

    def begin(self) -> None:
        """Make the folder of a new run, with its recipe and an empty log.

        CheckpointError when the folder holds a run already.
        """
        if self.checkpoint.exists():
            raise CheckpointError(f"{self._path} already holds a run: resume it or choose another folder")
        self._path.mkdir(parents=True, exist_ok=True)
        self._recipe.dump(self._path / RECIPE)
        self._write_log(Position())

    def resume(
        self, backend: Backend, mutator: Mutator, efficiency: DataEfficiency, *, writes: bool = True
    ) -> Position:
        """Load the checkpoint into all of them, and write the log anew from it if this process `writes` it.

        CheckpointError when there is none or it is of another recipe or other data.
        """
        if not self.checkpoint.exists():
            raise CheckpointError(f"{self._path} holds no checkpoint to resume: start the run without resuming")
        source = str(self.checkpoint)
        extra, arrays = backend.load(self.checkpoint)
        if not {"position", "recipe", "data", "mutation", "network"} <= extra.keys():
            raise CheckpointError(f"{source} was not written by this training loop: use another one")
        ours = self._recipe.as_mapping()
        theirs = extra["recipe"]
        if not isinstance(theirs, dict):
            raise CheckpointError(f"{source} was not written by this training loop: use another one")
        different = [k for k in ours if k not in MAY_CHANGE and (k not in theirs or theirs[k] != ours[k])]
        if different:
            key = different[0]
            raise CheckpointError(
                f"{source} was made with {key} {theirs.get(key)!r} and the recipe now says "
                f"{ours[key]!r}: resume with the recipe.yaml beside it or choose another folder"
            )
        if extra["data"] != self._fingerprint:
            raise CheckpointError(f"{source} was made with other images or labels: resume with the same data set")
        position = Position.from_mapping(extra["position"], source)
        mutator.restore(extra["mutation"], source)
        efficiency.restore(arrays, source)
        if writes:
            self._write_log(position)
        return position

    def save(self, backend: Backend, position: Position, mutator: Mutator, efficiency: DataEfficiency) -> None:
        """Replace the checkpoint by one of all of them, whole or not at all."""
        extra = {
            "position": position.as_mapping(),
            "recipe": self._recipe.as_mapping(),
            "data": self._fingerprint,
            "mutation": mutator.state(),
            "network": self._network,
        }
        backend.save(self.checkpoint, extra, efficiency.arrays())

    def append_log(self, position: Position) -> None:
        """Append the last record of `position` to log.jsonl."""
        append_line(self._path / LOG, json.dumps(asdict(position.records[-1])))

    def _write_log(self, position: Position) -> None:
        lines = [json.dumps(asdict(record)) + "\n" for record in position.records]
        write_text(self._path / LOG, "".join(lines))
