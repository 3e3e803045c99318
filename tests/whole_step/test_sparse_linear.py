"""Sparse linear layers in a whole step, in float64, against PyTorch with masked gradients."""

import numpy as np
import pytest
import torch
from torch import nn

from mest_compiler import Profile, Trainer, compile_step
from mest_compiler.devices import CpuProfile

from .cases import unoptimised
from .traces import share_traces


class Net(nn.Module):
    """A convolution and two linear layers, the first of which is sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.fc1 = nn.Linear(8 * 12, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.relu(self.fc1(torch.relu(self.conv1(x)).flatten(1))))


@pytest.mark.parametrize(
    ("scheme", "sparsity", "batch"),
    [
        ("unstructured", 0.7, 70),
        ("unstructured", 0.1, 5),
        ("block:4x4", 0.75, 70),
        pytest.param("unstructured", 0.7, 5, marks=pytest.mark.slow),
        pytest.param("unstructured", 0.1, 70, marks=pytest.mark.slow),
        pytest.param("block:4x4", 0.75, 5, marks=pytest.mark.slow),
    ],
)
def test_a_sparse_linear_layer_trains_as_in_torch(scheme: str, sparsity: float, batch: int) -> None:
    torch.manual_seed(0)
    model = Net().double()
    profile = Profile.from_mapping(
        {
            "scheme": "unstructured", "sparsity": 0.5, "kinds": {"linear": {"scheme": scheme, "sparsity": sparsity}},
            "layers": {"fc2.weight": "dense"},
        }
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CpuProfile, "target", property(unoptimised))
        share_traces(patch, "a sparse linear layer")
        step = compile_step(
            model, input_shape=(3, 3, 4), batch=batch, profile=profile, dtype="float64", threads=2, measure=False
        )
    trainer = Trainer(step)
    masks = {name: torch.from_numpy(mask[:, :, 0, 0]) for name, mask in trainer.masks().items()}
    assert list(masks) == ["fc1.weight"]
    assert abs(1 - masks["fc1.weight"].double().mean() - sparsity) < 0.01
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(trainer.state()[name]))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    rng = np.random.default_rng(0)
    for _ in range(3):
        x, y = rng.standard_normal((batch, 3, 3, 4)), rng.integers(0, 10, batch)
        loss, _ = trainer.step(x, y, 0.1)
        optimizer.zero_grad()
        expected = nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y))
        expected.backward()
        model.fc1.weight.grad *= masks["fc1.weight"]
        optimizer.step()
        assert abs(loss - expected.item()) < 1e-12
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(trainer.state()[name], parameter.detach().numpy(), rtol=0, atol=1e-12)
