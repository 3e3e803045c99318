"""What MEST's mutation is worth: test accuracy of a small network by method, sparsity and scheme, over several seeds.

The paper's Table 1 (vanilla, EM, EM&S, and EM&S with data efficiency, each at 90, 95 and 98 %) on the offline images,
trained by the compiled step. The methods and seeds of one scheme and sparsity share a step: only weights and masks
differ.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mest_compiler.bench.csv_rows import origin
from mest_compiler.bench.worker import end_with
from mest_compiler.errors import BenchError
from mest_compiler.training.recipe import Recipe

if TYPE_CHECKING:
    from mest_compiler.training.examples import Examples

DENSE, DE = "dense", "+de"
METHODS = (DENSE, "static", "vanilla", "em", "em&s", "em&s+de")
SCHEMES = ("unstructured", "block", "pattern")
SPARSITIES = (0.9, 0.95, 0.98)


@dataclass(frozen=True)
class Cell:
    """One cell of the table; a dense one has no scheme ("") and sparsity 0."""

    scheme: str
    sparsity: float
    method: str


@dataclass(frozen=True)
class Trained:
    """One run: a line of the CSV file.

    test_accuracy: after the last epoch; seconds: of all epochs with their evaluations, without compiling;
    ms_per_iteration: mean over the epochs; removed: training images that data efficiency left out; state_mb: weights,
    gradients, momentum and indices, MiB; p: of the mutation; examples, noise: of the data set.
    """

    scheme: str
    sparsity: float
    method: str
    seed: int
    test_accuracy: float
    seconds: float
    ms_per_iteration: float
    removed: int
    state_mb: float
    model: str
    width: float
    data: str
    examples: int
    noise: float
    epochs: int
    batch: int
    p: float
    jobs: int
    threads: int
    device: str
    machine: str
    torch: str
    tvm: str
    date: str
    command: str

    @property
    def cell(self) -> Cell:
        """Its cell."""
        return Cell(self.scheme, self.sparsity, self.method)


def cells(methods: Sequence[str], schemes: Sequence[str], sparsities: Sequence[float]) -> list[Cell]:
    """All cells of these; the dense one once. BenchError for a method that there is not."""
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise BenchError(f"There is no method {unknown[0]!r}: use some of {', '.join(METHODS)}.")
    dense = [Cell("", 0.0, DENSE)] if DENSE in methods else []
    return dense + [Cell(k, s, m) for k in schemes for s in sparsities for m in methods if m != DENSE]


def recipe_of(cell: Cell, base: Recipe, seed: int) -> Recipe:
    """The base recipe, which mutates as EM&S and is data-efficient, as the cell has it.

    Half of the weights that a layer keeps are mutated at first: p = (1 - s) / 2, which also exists at 98 %.
    """
    changes: dict[str, Any] = {"seed": seed, "profile": None}
    changes |= {"scheme": cell.scheme or None, "sparsity": cell.sparsity if cell.scheme else None}
    method = cell.method.removesuffix(DE)
    changes["method"] = "static" if method == DENSE else method
    if cell.scheme:
        changes["p"] = round((1 - cell.sparsity) / 2, 6)
    if not cell.method.endswith(DE):
        changes |= {"de_epoch": None, "de_threshold": None, "de_remove": None}
    return dataclasses.replace(base, **changes)


def groups(wanted: Sequence[tuple[Cell, int]], base: Recipe) -> list[list[tuple[Cell, int]]]:
    """Cells with seeds, those of one group sharing a compiled step: same scheme, sparsity and room to grow."""
    found: dict[tuple[str, float, float], list[tuple[Cell, int]]] = {}
    for cell, seed in wanted:
        headroom = recipe_of(cell, base, seed).updater.headroom
        found.setdefault((cell.scheme, cell.sparsity, headroom), []).append((cell, seed))
    return list(found.values())


def settings(base: Recipe, data: Examples) -> dict[str, Any]:
    """The fields of a row that all rows of one table have in common."""
    fields = {name: getattr(base, name) for name in ("model", "width", "data", "noise", "epochs", "batch")}
    return {**fields, "examples": data.train_count}


def train_group(group: Sequence[tuple[Cell, int]], base: Recipe, threads: int, said: dict[str, Any]) -> list[Trained]:
    """Compile the step of a group once and train all its runs; `said`: the rest of each row."""
    import torch

    from mest_compiler import models
    from mest_compiler.compile import compile_step
    from mest_compiler.runtime.trainer import Trainer
    from mest_compiler.sparsity.masks import random_masks
    from mest_compiler.sparsity.profile import LayerPlan, Profile
    from mest_compiler.training.data import load_recipe_data
    from mest_compiler.training.loop import train
    from mest_compiler.training.progress import QuietReporter

    torch.set_num_threads(1)
    data = load_recipe_data(base)
    artifact, rows = None, []
    for cell, seed in group:
        recipe = recipe_of(cell, base, seed)
        sizes = {**data.sizes, "width": recipe.width}
        model = models.build(recipe.model, **sizes, seed=seed)
        if artifact is None:
            artifact = compile_step(
                model,
                inputs=data.inputs,
                batch=recipe.batch,
                profile=Profile.uniform(cell.scheme, cell.sparsity) if cell.scheme else None,
                seed=seed,
                headroom=recipe.updater.headroom,
                loss=recipe.rule_of_loss,
                optimizer=recipe.rule,
                threads=threads,
                name=recipe.model,
            )
        layers = {name: layer for name, layer in artifact.manifest["layers"].items() if "capacity" in layer}
        plan = {name: LayerPlan(layer["scheme"], layer["sparsity"]) for name, layer in layers.items()}
        masks = random_masks(plan, {name: tuple(layer["shape"]) for name, layer in layers.items()}, seed)
        state = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
        trainer = Trainer(artifact.started_from(state, masks), threads, seed)
        with TemporaryDirectory(prefix="mest-") as folder:
            summary = train(trainer, data, recipe, Path(folder, "run"), resume=False, reporter=QuietReporter())
        rows.append(
            Trained(
                **dataclasses.asdict(cell),
                seed=seed,
                test_accuracy=summary.test_score,
                seconds=summary.seconds,
                ms_per_iteration=summary.ms_per_iteration,
                removed=data.train_count - summary.records[-1].examples,
                state_mb=summary.records[-1].state_mb,
                p=recipe.p,
                **settings(base, data),
                **said,
            )
        )
    return rows


def measure(
    wanted: Sequence[tuple[Cell, int]], base: Recipe, *, jobs: int, threads: int, device: str, command: str,
) -> Iterator[list[Trained]]:  # fmt: skip
    """Rows as the groups of runs are done, `jobs` groups at a time, each in a process of its own."""
    said = {"jobs": jobs, **origin(threads=threads, device=device, command=command)}
    # spawned: TVM's and PyTorch's threads do not survive a fork
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=end_with, initargs=(os.getpid(),)) as pool:
        try:
            pending = [pool.submit(train_group, group, base, threads, said) for group in groups(wanted, base)]
            for done in as_completed(pending):
                yield done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@dataclass(frozen=True)
class Entry:
    """A cell over its seeds: mean and standard deviation (None of a single run) of the accuracy, means of the rest."""

    cell: Cell
    runs: int
    accuracy: float
    deviation: float | None
    seconds: float
    ms_per_iteration: float
    removed: float
    state_mb: float


def table(rows: Sequence[Trained]) -> list[Entry]:
    """The cells of the rows, in the order of schemes, sparsities and METHODS."""
    of_cell: dict[Cell, list[Trained]] = {}
    for row in rows:
        of_cell.setdefault(row.cell, []).append(row)

    def average(some: Sequence[Trained], value: Callable[[Trained], float]) -> float:
        return mean(value(row) for row in some)

    known = ["", *SCHEMES]

    def place(cell: Cell) -> tuple[int, str, float, int]:
        scheme = known.index(cell.scheme) if cell.scheme in known else len(known)
        return scheme, cell.scheme, cell.sparsity, METHODS.index(cell.method)

    return [
        Entry(
            cell,
            len(some := of_cell[cell]),
            average(some, lambda row: row.test_accuracy),
            stdev(row.test_accuracy for row in some) if len(some) > 1 else None,
            average(some, lambda row: row.seconds),
            average(some, lambda row: row.ms_per_iteration),
            average(some, lambda row: row.removed),
            average(some, lambda row: row.state_mb),
        )
        for cell in sorted(of_cell, key=place)
    ]
