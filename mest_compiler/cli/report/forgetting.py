"""`mest report forgetting`: the images that a run forgot least and most."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mest_compiler.cli.options import Json, RunDir
from mest_compiler.cli.output import say, write_json
from mest_compiler.cli.places import check_writable
from mest_compiler.errors import DataError

PNG = "forgetting.png"

Output = Annotated[
    Path | None,
    typer.Option(
        "--output", metavar="FILE", dir_okay=False, help="The picture, PNG.", show_default=f"{PNG} in the run's folder"
    ),
]
Images = Annotated[int, typer.Option(min=1, max=500, help="Images of each kind on the sheet.")]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        exists=True, file_okay=False, help="Folder of the data set.", show_default="where the run's recipe says"
    ),
]


def command(
    run_dir: RunDir, output: Output = None, images: Images = 20, data_root: DataRoot = None, json: Json = None
) -> None:
    """Which training images a run forgot: a sheet of the least and the most forgettable ones, and a histogram.

    An image is forgotten when it was answered right and is wrong the next time. Unforgettable ones, learned and never
    forgotten, are what data efficiency removes. Images that were never learned have no events and are counted apart.
    Counting ends when images are removed. --json also lists the ids (numbers in the training set) of the
    unforgettable, never learned and removed images.

    Examples:

    mest report forgetting runs/train

    mest report forgetting runs/cifar --images 50 --output sheet.png --json -
    """
    from mest_compiler.training.examples import LabelledImages
    from mest_compiler.training.forgotten import Forgotten
    from mest_compiler.training.run_plots import plot_forgetting
    from mest_compiler.training.run_reading import data_of, described, read_checkpoint

    path = run_dir / PNG if output is None else output
    recipe, content = read_checkpoint(run_dir)
    check_writable(path)
    data = data_of(run_dir, recipe, content, data_root)
    if not isinstance(data, LabelledImages):
        raise DataError(f"This report shows images with their labels, and {run_dir} was trained on {data.name}.")
    forgotten = Forgotten(content.arrays, recipe, data.labels, str(run_dir))
    ids = sorted({*forgotten.least(images).tolist(), *forgotten.most(images).tolist()})
    plot_forgetting(path, forgotten, _pictures(data, ids), images, described(recipe))
    facts = forgotten.facts(images)
    say(
        f"{path}: of {facts['images']} training images {facts['unforgettable']} are unforgettable, "
        f"{facts['forgotten']} were forgotten, {facts['never_learned']} never learned, {facts['removed']} removed"
    )
    if json is not None:
        files = {"png": path}
        write_json(json, {"run_dir": run_dir, "epochs": content.extra["position"]["epoch"], **facts, "files": files})


def _pictures(data, ids: list[int]) -> dict:
    """float32 [C, H, W] by number in the training set, not augmented."""
    import numpy as np

    return dict(zip(ids, data.train_images(np.array(ids, np.int64), None, slice(None)), strict=True))
