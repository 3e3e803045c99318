"""The trainer: swapped structures without a compile, equal results on any number of threads, what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mest_compiler.devices import available_cores
from mest_compiler.errors import ArtifactError, DeviceError, MaskError, StructureError
from mest_compiler.optimizers import Sgd
from mest_compiler.runtime.trainer import Trainer
from mest_compiler.sparsity.masks import random_masks
from mest_compiler.sparsity.profile import LayerPlan
from mest_compiler.sparsity.schemes import get_scheme

from ..whole_step.cases import Case, compiled
from ..whole_step.training import MaskedTraining, batch, check_equal, check_steps
from .no_compiler import forbid_compiling
from .states import all_state, check_same_bits

SCHEMES = ("unstructured", "block", "block:4x4", "pattern", "channel")
# A prime batch, two threads and every kernel that shares out work among them.
CASES = {scheme: Case("pre-activation", scheme, batch=5) for scheme in SCHEMES}


@pytest.fixture(params=SCHEMES)
def case(request: pytest.FixtureRequest) -> Case:
    """A small step under each scheme."""
    return CASES[request.param]


# For what is no matter of the scheme.
few = pytest.mark.parametrize("case", ["unstructured", "block"], indirect=True)


@pytest.fixture
def trainer(case: Case) -> Trainer:
    """A fresh one."""
    return Trainer(compiled(case).artifact)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be compiled from here on."""
    forbid_compiling(monkeypatch)


def other_masks(trainer: Trainer, sparsity: float, seed: int) -> dict[str, np.ndarray]:
    """New random masks of the trainer's scheme for all its sparse layers."""
    layers = trainer.sparse_layers()
    plan = {name: LayerPlan(scheme.name, sparsity) for name, (scheme, _) in layers.items()}
    return random_masks(plan, {name: shape for name, (_, shape) in layers.items()}, seed)


def common(trainer: Trainer, masks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What carries over into other masks: units that both keep (a kernel whose pattern changes starts anew)."""
    found = {}
    for name, mask in masks.items():
        kind = trainer.sparse_layers()[name][0]
        both = kind.mask_to_units(trainer.masks()[name]) & kind.mask_to_units(mask)
        found[name] = kind.units_to_mask(both, mask.shape)
    return found


def run(trainer: Trainer, case: Case, seed: int) -> float:
    """One step; its loss."""
    x, y = batch(case.batch, case.shape, seed)
    return trainer.step(x.numpy(), y.numpy(), 0.1)[0]


@pytest.mark.parametrize("sparsity", [0.7, 0.9], ids=["same ratio", "fewer weights"])
def test_swapped_structures_train_as_torch_does(
    trainer: Trainer, case: Case, sparsity: float, no_compiler: None
) -> None:
    built = compiled(case)
    reference = MaskedTraining(built.model, trainer.masks(), case.rule)
    check_steps(trainer, reference, case.rule, case.shape, steps=2)
    for round_ in range(2):
        masks = other_masks(trainer, sparsity, round_)
        reference.mask(common(trainer, masks))
        reference.mask(masks)
        trainer.swap_structures(masks)
        for name, mask in masks.items():
            np.testing.assert_array_equal(trainer.masks()[name], mask)
            assert (trainer.state()[name][~mask] == 0).all() and (trainer.slots()["momentum"][name][~mask] == 0).all()
        check_equal("state", trainer.state(), reference.state())
        check_equal("momentum", trainer.slots()["momentum"], reference.slots()["momentum"])
        check_steps(trainer, reference, case.rule, case.shape, steps=2, seed=10 * (round_ + 1))


def test_a_layer_may_lose_all_its_weights(trainer: Trainer, case: Case) -> None:
    reference = MaskedTraining(compiled(case).model, trainer.masks(), case.rule)
    check_steps(trainer, reference, case.rule, case.shape, steps=1)
    masks = {"conv1.weight": np.zeros_like(trainer.masks()["conv1.weight"])}
    trainer.swap_structures(masks)
    reference.mask(masks)
    check_steps(trainer, reference, case.rule, case.shape, steps=2, seed=5)


def test_swapping_back_and_forth_keeps_what_both_keep(trainer: Trainer, case: Case) -> None:
    run(trainer, case, 0)
    before, masks = trainer.state(), trainer.masks()
    new = other_masks(trainer, 0.7, 3)
    kept = common(trainer, new)
    trainer.swap_structures(new)
    trainer.swap_structures(masks)
    for name in masks:
        np.testing.assert_array_equal(trainer.state()[name], before[name] * kept[name])


@pytest.mark.skipif(available_cores() < 2, reason="one core")
def test_threads_do_not_change_a_bit(case: Case) -> None:
    artifact = compiled(case).artifact
    states = []
    for threads in (1, 2):
        trainer = Trainer(artifact, threads=threads)
        assert trainer.session.threads == threads
        for seed in range(3):
            run(trainer, case, seed)
        states.append(all_state(trainer))
    check_same_bits(*states)


@few
def test_two_trainers_keep_out_of_each_others_way(case: Case) -> None:
    other = Case("odd normalisations", case.scheme)
    together, apart = [], []
    a, b = Trainer(compiled(case).artifact), Trainer(compiled(other).artifact)
    for seed in range(2):
        together += [run(a, case, seed), run(b, other, seed)]
    a, b = Trainer(compiled(case).artifact), Trainer(compiled(other).artifact)
    apart += [run(a, case, seed) for seed in range(2)] + [run(b, other, seed) for seed in range(2)]
    assert together == [apart[0], apart[2], apart[1], apart[3]]


def test_updates_are_in_place(trainer: Trainer, case: Case) -> None:
    run(trainer, case, 0)
    arguments = trainer._step_args[0]
    outputs = trainer.session["step"](*arguments)
    handed_out = trainer.artifact.signature["step"].handed_out
    places = [handed_out[at] for at in range(len(arguments))]
    assert len(outputs) == 2 + len(trainer.problems) + len(arguments)  # loss, logits, gradients, and every argument
    assert sorted(places) == list(range(2 + len(trainer.problems), len(outputs)))
    for argument, place in zip(arguments, places, strict=True):
        assert np.from_dlpack(outputs[place]).ctypes.data == np.from_dlpack(argument).ctypes.data


def test_an_artifact_of_a_trainer_holds_its_weights(trainer: Trainer, case: Case) -> None:
    run(trainer, case, 0)
    trainer.swap_structures(other_masks(trainer, 0.9, 1))
    again = Trainer(trainer.to_artifact())
    check_same_bits(again.state(), trainer.state())
    check_same_bits(again.masks(), trainer.masks())
    x, _ = batch(case.batch, case.shape, 0)
    np.testing.assert_array_equal(again.predict(x.numpy()), trainer.predict(x.numpy()))


@few
def test_state_is_a_copy(trainer: Trainer) -> None:
    before = trainer.state()
    for array in (*trainer.state().values(), *trainer.slots()["momentum"].values()):
        array += 1
    check_same_bits(trainer.state(), before)


@few
@pytest.mark.parametrize("examples", [1, 4, 5, 6, 13])
def test_prediction_of_any_number_of_examples(trainer: Trainer, case: Case, examples: int) -> None:
    run(trainer, case, 0)
    x, y = batch(examples, case.shape, 4)
    found = trainer.predict(x.numpy())
    assert found.shape == (examples, 10)
    one_by_one = np.concatenate([trainer.predict(x.numpy()[i : i + 1]) for i in range(examples)])
    np.testing.assert_allclose(found, one_by_one, rtol=1e-12, atol=1e-12)
    assert trainer.evaluate(x.numpy(), y.numpy()) == (found.argmax(1) == y.numpy()).mean()


def test_state_bytes(trainer: Trainer) -> None:
    found = trainer.state_bytes()
    tensors = compiled(CASES[trainer.problems["conv1.weight"].sparse.scheme]).artifact.tensors
    values = sum(tensor.nbytes for name, tensor in tensors.items() if name in trainer.parameters)
    assert found["weights"] == found["gradients"] == found["optimizer"] == values
    assert found["indices"] > 0


def test_float32_stays_close_to_torch() -> None:
    built = compiled(Case("pre-activation", "unstructured", batch=5, dtype="float32"))
    trainer = Trainer(built.artifact)
    reference = MaskedTraining(built.model.double(), trainer.masks(), Sgd(0.9, 5e-4, False))
    x, y = batch(5, built.case.shape, 0)
    loss, logits = trainer.step(x.float().numpy(), y.numpy(), 0.01)
    wanted_loss, wanted = reference.step(x.float().double(), y, 0.01)
    assert logits.dtype == np.float32 and abs(loss - wanted_loss) < 1e-5
    np.testing.assert_allclose(logits, wanted, atol=1e-4)


# ---- what is refused
def inputs(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """A batch as NumPy arrays."""
    x, y = batch(case.batch, case.shape, 0)
    return x.numpy(), y.numpy()


@few
@pytest.mark.parametrize(
    "change",
    [
        lambda x, y: (x[:4], y[:4]),
        lambda x, y: (x, y[:4]),
        lambda x, y: (x[:, :2], y),
        lambda x, y: (x[..., :4], y),
        lambda x, y: (x[0], y),
        lambda x, y: (x, y[:, None]),
    ],
)
def test_inputs_of_another_shape(trainer: Trainer, case: Case, change: Callable) -> None:
    with pytest.raises(
        ArtifactError, match=r"takes (x of shape \[5, 3, 5, 5\]|y of shape \[5\]), and got .* another batch"
    ):
        trainer.step(*change(*inputs(case)), 0.1)


@few
@pytest.mark.parametrize("label", [-1, 10, 2**40])
def test_labels_out_of_range(trainer: Trainer, case: Case, label: int) -> None:
    x, y = inputs(case)
    y[2] = label
    before = all_state(trainer)
    with pytest.raises(ArtifactError, match=r"Labels run from .* the classes 0 to 9"):
        trainer.step(x, y, 0.1)
    check_same_bits(all_state(trainer), before)


@few
@pytest.mark.parametrize("labels", [np.full(5, 1.5), np.full(5, np.nan), np.ones(5, bool)], ids=["1.5", "nan", "bool"])
def test_labels_that_are_no_integers(trainer: Trainer, case: Case, labels: np.ndarray) -> None:
    with pytest.raises(ArtifactError):
        trainer.step(inputs(case)[0], labels, 0.1)


@few
@pytest.mark.parametrize("shape", [(0, 3, 5, 5), (3, 5, 5), (4, 3, 5, 6), (4, 1, 5, 5)])
def test_prediction_of_another_shape(trainer: Trainer, shape: tuple[int, ...]) -> None:
    with pytest.raises(ArtifactError, match=r"takes x of shape \[\w, 3, 5, 5\], and got \[.*\]: give that\."):
        trainer.predict(np.zeros(shape))


def test_masks_that_do_not_fit(trainer: Trainer, case: Case) -> None:
    before = all_state(trainer)
    good = trainer.masks()["conv2.weight"]
    kind = get_scheme(case.scheme)
    full = kind.random_mask(good.shape, kind.lowest, np.random.default_rng(0))
    bad = [
        ({"stem.weight": good}, MaskError, r"'stem\.weight' is no sparse layer"),
        ({"conv2.weight": good, "nobody": good}, MaskError, "'nobody' is no sparse layer"),
        (
            {"conv2.weight": np.zeros_like(good), "conv1.weight": good[:4]},
            MaskError,
            r"'conv1\.weight' has shape \[4, 8, 3, 3\]",
        ),
        ({"conv2.weight": full}, StructureError, "more than the capacity"),
        ({"conv2.weight": good.astype(np.float32)}, MaskError, "bool array"),
    ]
    if case.scheme != "unstructured":
        single = np.zeros_like(good)
        single[0, 0, 0, 0] = True
        bad.append(({"conv2.weight": single}, MaskError, f"no mask of scheme '{case.scheme}'"))
    for masks, error, message in bad:
        with pytest.raises(error, match=message):
            trainer.swap_structures(masks)
    check_same_bits(all_state(trainer), before)


@few
def test_threads_that_there_are_not(case: Case) -> None:
    for threads in (-1, available_cores() + 1):
        with pytest.raises(DeviceError, match=f"{threads} threads were asked for"):
            Trainer(compiled(case).artifact, threads=threads)


@few
def test_no_threads_at_all(case: Case) -> None:
    with pytest.raises(DeviceError, match="0 threads were asked for"):
        Trainer(compiled(case).artifact, threads=0)
