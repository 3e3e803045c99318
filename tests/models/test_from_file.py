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
    assert set(arguments) == {"num_classes", "in_channels"}
    return Net(arguments["num_classes"], arguments["in_channels"])


def usual(num_classes=1000, in_chans=1):
    return Net(num_classes, in_chans)


def handed_on(**arguments):
    nn.init.normal_(nn.Linear(3, 3).weight)
    return usual(**arguments)


def no_channels(num_classes=1000):
    return Net(num_classes, 3)


def without_channels(**arguments):
    return no_channels(**arguments)


def none_of_ours(**arguments):
    return Net(classes=4, in_channels=3, depth=len(arguments))


def wide(classes, width_mult=3.0):
    net = Net(classes, 3)
    net.width = width_mult
    return net


def needs_width(classes, width):
    return wide(classes, width)


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


@pytest.mark.parametrize(
    ("attribute", "classes"),
    [
        ("fixed", 3), ("named", 5), ("anything", 5), ("Net", 5), ("usual", 5), ("handed_on", 5),
        ("without_channels", 5), ("wide", 5),
    ],
)  # fmt: skip
def test_callables_get_the_arguments_they_take(net, attribute, classes):
    model = build(f"{net}:{attribute}", classes=5, in_channels=3)
    assert model(torch.zeros(2, 3, 7, 5)).shape == (2, classes)


def test_a_width_is_passed_on_or_refused(net):
    assert build(f"{net}:wide", width=2).width == 2
    assert build(f"{net}:wide").width == 3  # a factor of 1 leaves a network as it is built
    assert build(f"{net}:needs_width").width == 1
    for attribute in ("fixed", "usual", "handed_on"):
        with pytest.raises(ModelError, match=f"{attribute} takes no width, and 2 was asked for: give it a parameter"):
            build(f"{net}:{attribute}", width=2)


def test_a_keyword_that_is_none_of_ours_is_the_callables_own_mistake(net):
    with pytest.raises(ModelError, match=r"none_of_ours failed with TypeError: .* unexpected keyword argument 'depth'"):
        build(f"{net}:none_of_ours")


def test_keywords_that_were_tried_leave_the_random_numbers_as_they_were(net):
    tried, plain = (build(f"{net}:{attribute}", seed=3) for attribute in ("handed_on", "usual"))
    again = build(f"{net}:handed_on", seed=3)
    assert torch.equal(tried.conv.weight, again.conv.weight)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        nn.init.normal_(nn.Linear(3, 3).weight)
        drawn_once = nn.Conv2d(3, 10, 3).weight
    assert torch.equal(tried.conv.weight, drawn_once) and not torch.equal(tried.conv.weight, plain.conv.weight)


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
            "needs an argument 'depth', but models get only num_classes, in_channels, width",
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
