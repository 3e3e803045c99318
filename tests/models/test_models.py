"""The models of the registry: sizes, shapes, and which names profiles rely on."""

import pytest
import torch
from torch import nn

from mest_compiler.errors import ModelError
from mest_compiler.models import available, build
from mest_compiler.models.widths import widened_to_multiple

NAMES = (
    "resnet20", "resnet32", "resnet110", "vgg19_bn", "resnet18", "resnet34", "resnet50", "mobilenet_v2",
    "resnet18_cifar", "resnet34_cifar", "resnet50_cifar", "mobilenet_v2_cifar",
)  # fmt: skip
LARGE = NAMES[4:]


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "arguments", "parameters"),
    [
        ("resnet20", {}, 272_474),
        ("resnet32", {"width": 2}, 1_860_522),
        ("resnet110", {}, 1_730_714),
        ("vgg19_bn", {}, 20_035_018),
        ("resnet18", {"classes": 1000}, 11_689_512),
        ("resnet34", {"classes": 1000}, 21_797_672),
        ("resnet50", {"classes": 1000}, 25_557_032),
        ("mobilenet_v2", {"classes": 1000}, 3_504_872),
        ("mobilenet_v2_cifar", {"classes": 1000}, 3_504_872),
        ("resnet18_cifar", {}, 11_173_962),
        ("resnet50_cifar", {}, 23_520_842),
    ],
)
def test_parameters(name, arguments, parameters):
    """The paper's 1.86 M for ResNet-32 (appendix I), torchvision's for 1,000 classes, the usual ones of the others."""
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
    + [("resnet20", (28, 28)), ("resnet20", (5, 1)), ("vgg19_bn", (16, 31))]
    + [(name, (33, 17)) for name in LARGE],
)
def test_logits_and_gradients(name, size):
    model = build(name, classes=7, in_channels=1, width=0.125)
    logits = model(torch.randn(2, 1, *size))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "planes"),
    [
        ("resnet18", [32, 16, 16, 8, 4, 2]),
        ("resnet50", [32, 16, 16, 8, 4, 2]),
        ("resnet50_cifar", [64, 64, 64, 32, 16, 8]),
        ("resnet34_cifar", [64, 64, 64, 32, 16, 8]),
    ],
)
def test_planes_of_resnet_stages(name, planes):
    model, found = build(name, width=0.125), []
    for part in (model.conv1, model.maxpool, model.layer1, model.layer2, model.layer3, model.layer4):
        part.register_forward_hook(lambda _module, _x, y: found.append(y.shape[2]))
    model(torch.randn(2, 3, 64, 64))
    assert found == planes


@pytest.mark.parametrize(
    ("name", "planes"), [("mobilenet_v2", [32, 16, 8, 4, 2]), ("mobilenet_v2_cifar", [64, 32, 16, 8])]
)
def test_planes_of_mobilenet(name, planes):
    model, found = build(name, width=0.25), []
    for part in model.features:
        part.register_forward_hook(lambda _module, _x, y: found.append(y.shape[2]))
    model(torch.randn(2, 3, 64, 64))
    assert sorted(set(found), reverse=True) == planes


def test_names_are_those_of_torchvision():
    resnet = set(build("resnet50", width=0.125).state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer1.0.conv3.weight", "layer1.0.downsample.0.weight"} <= resnet
    assert {"layer4.2.bn3.bias", "layer2.0.downsample.1.weight", "fc.weight", "fc.bias"} <= resnet
    assert "layer1.0.downsample.0.weight" not in build("resnet18", width=0.125).state_dict()
    mobilenet = set(build("mobilenet_v2", width=0.25).state_dict())
    assert {"features.0.0.weight", "features.1.conv.0.0.weight", "features.1.conv.1.weight"} <= mobilenet
    assert {"features.2.conv.3.running_var", "features.18.1.bias", "classifier.1.weight"} <= mobilenet
    assert len(mobilenet) == 52 * 6 + 2


def test_depthwise_convolutions_of_mobilenet():
    convolutions = [m for m in build("mobilenet_v2", width=0.5).modules() if isinstance(m, nn.Conv2d)]
    depthwise = [m for m in convolutions if m.groups > 1]
    assert (len(convolutions), len(depthwise)) == (52, 17)
    assert all(m.groups == m.in_channels == m.out_channels and m.kernel_size == (3, 3) for m in depthwise)


@pytest.mark.parametrize(
    ("channels", "width", "found"), [(32, 1, 32), (24, 0.5, 16), (16, 0.1, 8), (96, 0.35, 32), (24, 0.75, 24)]
)
def test_mobilenet_widths_are_multiples_of_eight(channels, width, found):
    assert widened_to_multiple(channels, width) == found


def test_the_same_seed_gives_the_same_weights():
    torch.manual_seed(3)
    first = build("resnet20", width=0.5).state_dict()
    torch.manual_seed(3)
    second = build("resnet20", width=0.5).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fractional_widths_are_rounded():
    assert build("resnet20", width=1.3).conv1.out_channels == 21


def test_available_names_can_be_built():
    assert available() == NAMES
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
