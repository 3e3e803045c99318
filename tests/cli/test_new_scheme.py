"""The worked example of a scheme: its line in the table, a run that finds it there, and both in a copy of the tree."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from mest_compiler.bench import compiled_network
from mest_compiler.sparsity import schemes
from mest_compiler.training import data as data_sets

from ..examples import FOLDER, example
from ..faults.copied_tree import Tree, copied_tree
from .conftest import NETWORK
from .tiny_runs import rows

TABLE = "mest_compiler/sparsity/schemes.py"
LINE, FIRST = "        Kernels(),\n", '        Block("unstructured", 1, aliases=("block:1x1",)),\n'
RECIPE = {
    "model": "net.py:make", "data": "mnist", "size": 28, "examples": 64, "epochs": 2, "batch": 32, "method": "em",
    "scheme": "kernel", "sparsity": 0.5, "p": 0.1, "mutate_every": 1, "mutate_until": 2, "augment": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def tree() -> Iterator[Tree]:
    """A copy with whole kernels among the schemes."""
    with copied_tree() as tree:
        shutil.copy(FOLDER / "kernels.py", tree.root / "mest_compiler/sparsity/kernels.py")
        (tree.root / TABLE).write_text(changed((tree.root / TABLE).read_text()))
        (tree.scratch / "net.py").write_text(NETWORK)
        (tree.scratch / "r.yaml").write_text(yaml.safe_dump(RECIPE))
        yield tree


def mest(tree: Tree, *arguments: str) -> dict:
    """What a command gives as JSON."""
    command = [tree.python, "-m", "mest_compiler.cli.main", *arguments, "--json", "-"]
    done = subprocess.run(command, cwd=tree.scratch, env=tree.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def changed(text: str) -> str:
    """The table's file with the line of the guide."""
    return text.replace("from .pattern", "from .kernels import Kernels\nfrom .pattern").replace(FIRST, FIRST + LINE)


def test_a_run_with_the_changed_table(mest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, whose table becomes the one that the changed file has."""
    monkeypatch.setitem(sys.modules, "mest_compiler.sparsity.kernels", example("kernels"))
    table = {"__name__": "changed_schemes", "__package__": "mest_compiler.sparsity"}
    exec(compile(changed(Path(schemes.__file__).read_text()), TABLE, "exec"), table)
    assert list(table["SCHEMES"]) == ["unstructured", "kernel", "block", "pattern", "channel", "filter"]
    monkeypatch.setitem(schemes.SCHEMES, "kernel", table["get_scheme"]("kernel"))
    monkeypatch.setitem(data_sets.LOADERS, "rows", lambda root, seed, size: rows())
    recipe = {key: value for key, value in RECIPE.items() if key not in ("size", "examples")}
    Path("r.yaml").write_text(yaml.safe_dump(recipe | {"data": "rows"}))
    done = mest("train", "r.yaml", "--run-dir", "run", "--threads", "1", "--json", "-")
    check_run(json.loads(done.stdout), Path("run"))
    timed = compiled_network.step("run/artifact", 0, 1)  # what a process of `mest bench` makes and asks
    timed.run()
    said = timed.result()
    assert set(said["kernels"]["3.weight"]) == {"forward", "backward_data", "backward_weight"}
    assert said["table_a1_bytes"] > 0


def check_run(result: dict, run: Path) -> None:
    """Whole kernels came and went, and the step skips what is not there."""
    assert result["records"][0]["grown"] > 0 and np.isfinite(result["records"][-1]["loss"])
    layer = json.loads((run / "artifact/manifest.json").read_text())["layers"]["3.weight"]
    assert (layer["scheme"], layer["sparsity"], layer["unit_size"]) == ("kernel", 0.5, 9)
    assert {kernel["indexing"] for kernel in layer["kernels"].values()} == {"zeros"}


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "opencl"])
def test_a_new_scheme_trains_mutates_and_is_timed(tree: Tree, device: str) -> None:
    on = ("--device", device, *(("--threads", "1") if device == "cpu" else ()))
    result = mest(tree, "train", "r.yaml", "--run-dir", f"run-{device}", *on)
    check_run(result, tree.scratch / f"run-{device}")
    asked = ("--plane", "8x8", "--batch", "8", "--scheme", "kernel", "--sparsity", "0.5", "--rounds", "1")
    timed = mest(tree, "bench", "net.py:make", *asked, "--compare", "dense", *on)
    assert "sparse" in json.dumps(timed)


def test_what_removed_kernels_are() -> None:
    scheme, shape = example("kernels").Kernels(), (4, 3, 2, 2)
    mask = scheme.random_mask(shape, 0.5, np.random.default_rng(0))
    assert sorted(mask.sum((2, 3)).reshape(-1)) == [0] * 6 + [4] * 6
    assert scheme.describe(7, shape) == "the kernel of filter 2 and channel 1"


def test_the_guide_shows_the_file_and_its_line() -> None:
    guide = (FOLDER.parent / "architecture.md").read_text()
    assert "(examples/kernels.py)" in guide and f"`{LINE.strip()}`" in guide
    assert (Path(__file__).parents[2] / TABLE).read_text().count(FIRST) == 1
