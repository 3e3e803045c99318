"""What a model file brings along: neighbours, packages, data, and that two files never meet."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mest_compiler.errors import ModelError
from mest_compiler.models import build

NET = """
from torch import nn
from blocks import Block

def net(classes):
    return nn.Sequential(Block(), nn.Flatten(), nn.Linear(2, classes))
"""
BLOCKS = """
from __future__ import annotations
from dataclasses import dataclass, field
from torch import nn

@dataclass
class Sizes:
    factor: float = FACTOR
    more: list[int] = field(default_factory=list)

class Block(nn.Module):
    sizes = Sizes()

    def forward(self, x):
        return x * self.sizes.factor
"""

IMPORTING = BLOCKS.replace("from __future__ import annotations\n", "")
"""Which may stand below an import."""


def written(folder: Path, files: dict[str, str]) -> Path:
    """`folder` with these files."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def two(tmp_path) -> tuple[Path, Path]:
    """Two folders, each with a net.py and a blocks.py that multiplies by another factor."""
    for name, factor in (("double", "2.0"), ("triple", "3.0")):
        written(tmp_path / name, {"net.py": NET, "blocks.py": BLOCKS.replace("FACTOR", factor)})
    return tmp_path / "double" / "net.py", tmp_path / "triple" / "net.py"


@pytest.fixture(autouse=True)
def _nothing_is_left():
    path, finders, modules = list(sys.path), list(sys.meta_path), dict(sys.modules)
    yield
    assert sys.path == path
    assert sys.meta_path == finders
    left = {name for name in set(sys.modules) - set(modules) if not name.startswith("_mest_model_")}
    assert not left & {"blocks", "net", "pkg", "pkg.blocks", "shared", "outer", "lib", "space", "calendar_of_ours"}
    assert all(sys.modules[name] is module for name, module in modules.items() if name in sys.modules)
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]


def factor(model) -> float:
    return float(model[0](torch.ones(1, 2))[0, 0])


def test_neighbours_of_two_files_do_not_mix(two):
    models = [build(f"{path}:net", classes=4) for path in (*two, *two)]
    assert [factor(model) for model in models] == [2, 3, 2, 3]
    # the last ones built are also those that pickling finds
    for model, expected in zip(models[2:], (2, 3), strict=True):
        again = pickle.loads(pickle.dumps(model))
        assert factor(again) == expected
        assert type(again[0]) is type(model[0])
        assert pickle.loads(pickle.dumps(model[0].sizes)) == model[0].sizes


def test_an_edited_neighbour_is_run_anew(two):
    """Though its size and the second of its time are those of the old one."""
    before, blocks = build(f"{two[0]}:net"), two[0].parent / "blocks.py"
    times = blocks.stat()
    blocks.write_text(blocks.read_text().replace("2.0", "5.0"))
    os.utime(blocks, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (factor(before), factor(build(f"{two[0]}:net"))) == (2, 5)
    assert not (two[0].parent / "__pycache__").exists()


@pytest.mark.slow
def test_a_model_of_neighbours_can_be_exported(two):
    model = build(f"{two[0]}:net")
    torch.export.export(model, (torch.zeros(3, 2),), strict=True)


PACKAGE = {
    "pkg/__init__.py": "NAME = 'package'\nfrom .deep.net import net as exported\n",
    "pkg/common.py": "FACTOR = 2.0\n",
    "pkg/deep/__init__.py": "",
    "pkg/deep/blocks.py": "from ..common import FACTOR\n" + IMPORTING,
    "pkg/deep/net.py": NET.replace("from blocks", "from .blocks") + "from . import blocks as again\n"
    "from .. import common\nimport pkg.common as dotted\nfrom pkg import NAME\nimport pkg.deep.blocks\n"
    "assert again.Block is Block is pkg.deep.blocks.Block\nassert common is dotted\nassert NAME == 'package'\n",
}


def test_a_file_in_a_package_imports_relatively(tmp_path):
    written(tmp_path, PACKAGE)
    model = build(f"{tmp_path}/pkg/deep/net.py:net")
    assert factor(pickle.loads(pickle.dumps(model))) == 2


def test_a_package_that_is_not_asked_for_is_not_run(tmp_path, two):
    (two[0].parent / "__init__.py").write_text("raise RuntimeError('a package with needs of its own')\n")
    assert factor(build(f"{two[0]}:net")) == 2


def test_a_folder_without_init_and_a_path_that_the_file_adds(tmp_path):
    written(
        tmp_path,
        {
            "lib/outer.py": "FACTOR = 2.0\n",
            "net/space/blocks.py": "from outer import FACTOR\n" + IMPORTING,
            "net/net.py": "import sys, os\nsys.path.append(os.path.join(os.path.dirname(__file__), '..', 'lib'))\n"
            "import importlib\nimportlib.import_module('outer')\n" + NET.replace("from blocks", "from space.blocks"),
        },
    )
    model = build(f"{tmp_path}/net/net.py:net")
    assert factor(pickle.loads(pickle.dumps(model))) == 2


def test_neighbours_may_import_each_other_and_the_file(tmp_path):
    written(
        tmp_path,
        {
            "net.py": NET + "import shared\n",
            "blocks.py": "import shared\nFACTOR = shared.FACTOR\n" + IMPORTING,
            "shared.py": "FACTOR = 4.0\nimport blocks\nimport net\nassert net.__name__ != '__main__'\n",
        },
    )
    # As in Python, whoever is imported while it imports is not finished: here shared wants net, which wants blocks.
    with pytest.raises(
        ModelError, match=r"failed with ImportError: cannot import name 'Block'.* \(line 3 of .*/net\.py"
    ):
        build(f"{tmp_path}/net.py:net")
    (tmp_path / "shared.py").write_text("FACTOR = 4.0\nimport blocks\ndef lazily():\n    import net\n    return net\n")
    (tmp_path / "net.py").write_text(
        NET.replace("return", "import shared; assert shared.lazily().net is not net; return")
    )
    assert factor(build(f"{tmp_path}/net.py:net")) == 4


def test_a_callable_imports_too_and_the_caller_keeps_its_own(two, tmp_path, monkeypatch):
    """A module of the calling program that is called as a neighbour is not taken for it, and comes back."""
    written(tmp_path / "program", {"blocks.py": "Block = None\n"})
    monkeypatch.syspath_prepend(tmp_path / "program")
    import blocks

    late = NET.replace("from blocks import Block", "").replace("    return", "    from blocks import Block\n    return")
    two[0].write_text(late)
    assert factor(build(f"{two[0]}:net")) == 2
    assert sys.modules["blocks"] is blocks
    del sys.modules["blocks"]


@pytest.mark.parametrize("name", ["torch", "json"])
def test_what_is_loaded_goes_before_a_neighbour_of_its_name(name, two):
    (two[0].parent / f"{name}.py").write_text("raise RuntimeError('taken for the library')\n")
    two[0].write_text(f"import {name}\n" + NET)
    assert factor(build(f"{two[0]}:net")) == 2


def test_paths_are_those_of_a_script(two, tmp_path, monkeypatch):
    """Beside the file by __file__, and else below the working folder: compared with Python itself."""
    script = (
        "from pathlib import Path\nfound = (Path(__file__).parent / 'size').read_text() + Path('size').read_text()\n"
    )
    written(two[0].parent, {"size": "beside", "net.py": script + NET + "    \nprint(found)\n"})
    written(tmp_path / "work", {"size": " work"})
    monkeypatch.chdir(tmp_path / "work")
    run = subprocess.run([sys.executable, str(two[0])], capture_output=True, text=True, check=True)
    assert run.stdout == "beside work\n"
    build(f"{two[0]}:net")
    build(f"{os.path.relpath(two[0])}:net")
    assert Path.cwd() == tmp_path / "work"


def test_a_link_to_a_file_has_the_neighbours_of_the_file(two, tmp_path):
    (tmp_path / "link.py").symlink_to(two[1])
    assert factor(build(f"{tmp_path}/link.py:net")) == 3


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "neighbour that is missing": (
        lambda folder: (folder / "blocks.py").unlink(),
        r"net\.py' failed with ModuleNotFoundError: No module named 'blocks' \(line 3 of .*/net\.py\)",
    ),
    "neighbour that fails": (
        lambda folder: (folder / "blocks.py").write_text("\n\nfactor = 1 / 0\n"),
        r"net\.py' failed with ZeroDivisionError: division by zero \(line 3 of .*/blocks\.py\)",
    ),
    "neighbour that is no Python": (
        lambda folder: (folder / "blocks.py").write_text("x = 1\ny = = 2\n"),
        r"net\.py' failed with SyntaxError: invalid syntax \(line 2 of .*/blocks\.py\)",
    ),
    "file that is no Python": (
        lambda folder: (folder / "net.py").write_text("def net(:\n"),
        r"net\.py' failed with SyntaxError: .* \(line 1 of .*/net\.py\)",
    ),
    "file that ends the program": (
        lambda folder: (folder / "net.py").write_text("import sys\nsys.exit(0)\n"),
        r"net\.py' failed with SystemExit: 0 \(line 2 of .*/net\.py\)",
    ),
    "callable that fails in torch": (
        lambda folder: (folder / "net.py").write_text(
            "import torch\ndef net():\n    return torch.ones(2) @ torch.ones(3)\n"
        ),
        r"net\.py:net failed with RuntimeError: .* \(line 3 of .*/net\.py\)",
    ),
    "relative import outside of a package": (
        lambda folder: (folder / "net.py").write_text("from . import blocks\n"),
        r"net\.py' failed with ImportError: attempted relative import .* \(line 1 of .*/net\.py\)",
    ),
    "circle": (
        lambda folder: (folder / "blocks.py").write_text("from blocks import Block\n"),
        r"failed with ImportError: cannot import name 'Block' from partially .* \(line 1 of .*/blocks\.py\)",
    ),
    "neighbour that no callable is in": (
        lambda folder: (folder / "net.py").write_text("import blocks\n"),
        "has no callable 'net'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_name_the_line_and_leave_nothing(name, two):
    spoil, sentence = WRONG[name]
    spoil(two[0].parent)
    before = set(sys.modules)
    with pytest.raises(ModelError, match=sentence):
        build(f"{two[0]}:net")
    assert not [module for module in set(sys.modules) - before if module.startswith("_mest_model_")]
    assert factor(build(f"{two[1]}:net")) == 3
