"""Models from a user's own file: arguments, names of modules, and one sentence for all that can go wrong."""

import json
import sys

import pytest
import torch
from torch import nn

from mest_compiler.errors import ModelError
from mest_compiler.models import build

NET = """
from __future__ import annotations
from dataclasses import dataclass
from torch import nn


@dataclass
class Sizes:
    classes: int = 3


class Net(nn.Module):
    def __init__(self, classes, in_channels):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, classes, 3)

    def forward(self, x):
        return self.conv(x).mean(dim=(2, 3))


def fixed():
    return Net(Sizes().classes, 3)


def named(classes, *, in_channels=3):
    return Net(classes, in_channels)


def anything(**arguments):
    assert set(arguments) == {"classes", "in_channels", "width"}
    return Net(arguments["classes"], arguments["in_channels"])


def depth(depth, classes):
    return Net(classes, 3)


def positional(classes, /):
    return Net(classes, 3)


def nothing():
    return [1]


def broken():
    raise KeyError("weights")


CONSTANT = 3
"""


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "json.py"
    path.write_text(NET)
    return path


@pytest.mark.parametrize(("attribute", "classes"), [("fixed", 3), ("named", 5), ("anything", 5), ("Net", 5)])
def test_callables_get_the_arguments_they_accept(net, attribute, classes):
    model = build(f"{net}:{attribute}", classes=5, in_channels=3, width=2)
    assert model(torch.zeros(2, 3, 7, 5)).shape == (2, classes)


def test_a_file_shadows_no_module(net):
    path, modules = list(sys.path), dict(sys.modules)
    model = build(f"{net}:fixed")
    assert sys.modules["json"] is json
    assert sys.path == path
    added = set(sys.modules) - set(modules)
    assert added <= {type(model).__module__}
    assert type(model).__module__.startswith("_mest_model_")


def test_two_files_of_one_name_do_not_mix(net, tmp_path):
    other = tmp_path / "other" / "json.py"
    other.parent.mkdir()
    other.write_text("from torch import nn\nNet = nn.Identity\n")
    first, second = build(f"{net}:Net"), build(f"{other}:Net")
    assert type(first).__name__ == "Net"
    assert isinstance(second, nn.Identity)


def test_a_users_model_can_be_exported(net):
    """Capture looks modules up by name, so the file's module must be found under its own."""
    model = build(f"{net}:fixed")
    torch.export.export(model, (torch.zeros(2, 3, 7, 5),), strict=True)


@pytest.mark.parametrize(
    ("attribute", "sentence"),
    [
        ("absent", "has no callable 'absent': define it or name another one"),
        ("CONSTANT", "has no callable 'CONSTANT'"),
        ("", "has no callable ''"),
        (
            "depth",
            "needs an argument 'depth', but models get only classes, in_channels, width: give it a default",
        ),
        ("positional", "needs an argument 'classes'"),
        ("nothing", "returned list: let it return a torch.nn.Module"),
        ("broken", "broken failed with KeyError: 'weights'"),
    ],
)
def test_callables_that_make_no_model(net, attribute, sentence):
    with pytest.raises(ModelError, match=sentence):
        build(f"{net}:{attribute}")


def test_files_that_cannot_be_imported(tmp_path):
    with pytest.raises(ModelError, match=r"no model file '.*none\.py': check the path"):
        build(f"{tmp_path}/none.py:net")
    for name, text, sentence in [
        ("bad.py", "def (:", "failed with SyntaxError"),
        ("needs.py", "import no_such_module_at_all", "failed with ModuleNotFoundError"),
        ("net.txt", "", "no Python file: its name must end in .py"),
    ]:
        (tmp_path / name).write_text(text)
        before = set(sys.modules)
        with pytest.raises(ModelError, match=sentence):
            build(f"{tmp_path / name}:net")
        assert not {module for module in set(sys.modules) - before if module.startswith("_mest_model_")}
