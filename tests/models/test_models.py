"""The models of the registry: sizes, shapes, and which names profiles rely on."""

import pytest
import torch
from torch import nn

from mest_compiler.errors import ModelError
from mest_compiler.models import available, build


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "arguments", "parameters"),
    [
        ("resnet20", {}, 272_474),
        ("resnet32", {"width": 2}, 1_860_522),
        ("resnet110", {}, 1_730_714),
        ("vgg19_bn", {}, 20_035_018),
    ],
)
def test_parameters(name, arguments, parameters):
    """The paper's 1.86 M for ResNet-32 (appendix I), and the usual numbers of the others."""
    assert count(build(name, **arguments)) == parameters


def test_resnet32_convolutions():
    convolutions = [m for m in build("resnet32", width=2).modules() if isinstance(m, nn.Conv2d)]
    kernels = [module.kernel_size for module in convolutions]
    assert (kernels.count((3, 3)), kernels.count((1, 1))) == (31, 2)


def test_parameter_names_that_profiles_use():
    names = dict(build("resnet20").named_parameters())
    assert next(iter(names)) == "conv1.weight"
    assert {"layer1.0.conv1.weight", "layer3.0.shortcut.0.weight", "fc.weight"} <= set(names)


@pytest.mark.parametrize(
    ("name", "size"),
    [(name, size) for name in ("resnet20", "resnet32", "resnet110", "vgg19_bn") for size in [(32, 32), (33, 17)]]
    + [("resnet20", (28, 28)), ("resnet20", (5, 1)), ("vgg19_bn", (16, 31))],
)
def test_logits_and_gradients(name, size):
    model = build(name, classes=7, in_channels=1, width=0.125)
    logits = model(torch.randn(2, 1, *size))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_same_seed_gives_the_same_weights():
    torch.manual_seed(3)
    first = build("resnet20", width=0.5).state_dict()
    torch.manual_seed(3)
    second = build("resnet20", width=0.5).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fractional_widths_are_rounded():
    assert build("resnet20", width=1.3).conv1.out_channels == 21


def test_available_names_can_be_built():
    assert available() == ("resnet20", "resnet32", "resnet110", "vgg19_bn")
    assert all(isinstance(build(name, width=0.125), nn.Module) for name in available())


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        (
            "resnet23",
            {},
            r"no model 'resnet23' \(did you mean 'resnet2?.*\?\): use one of resnet20, resnet32",
        ),
        ("bert", {}, r"no model 'bert': use one of .* or file.py:callable for your own"),
        ("resnet20", {"classes": 0}, "classes=0: use a whole number, at least 1"),
        ("resnet20", {"classes": 2.5}, "classes=2.5: use a whole number"),
        ("resnet20", {"in_channels": -3}, "in_channels=-3"),
        ("resnet20", {"width": 0}, "width=0: use a number above 0"),
        ("resnet20", {"width": float("nan")}, "width=nan"),
        ("resnet20", {"width": "2"}, "width='2'"),
        ("resnet20", {"width": 0.01}, "width of 0.01 leaves nothing of a layer of 16 channels"),
    ],
)
def test_models_that_cannot_be_built(name, arguments, sentence):
    with pytest.raises(ModelError, match=sentence):
        build(name, **arguments)
