"""MNIST as it is split, normalised, thinned out and made noisy; what a DataSet gives a process, and what it refuses."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mest_compiler.training.data as data_module
from mest_compiler.errors import DataError
from mest_compiler.training.augment import Moves, augment
from mest_compiler.training.data import load_data
from mest_compiler.training.data_choice import evenly_chosen
from mest_compiler.training.data_mnist import mnist_split, stratified_split, without_copies


@pytest.fixture(scope="module")
def mnist():
    return load_data("mnist")


def test_mnist_has_its_shapes_and_types(mnist):
    assert mnist.train_x.shape == (4000, 1, 32, 32)
    assert mnist.test_x.shape == (1000, 1, 32, 32)
    assert mnist.train_x.dtype == mnist.test_x.dtype == np.float32
    assert mnist.train_y.dtype == mnist.test_y.dtype == np.int64
    assert (mnist.classes, mnist.channels, mnist.plane, mnist.input_shape) == (10, 1, (32, 32), (1, 32, 32))


def test_mnist_is_normalised_by_its_training_part(mnist):
    assert abs(mnist.train_x.mean(dtype=np.float64)) < 1e-5
    assert abs(mnist.train_x.std(dtype=np.float64) - 1) < 1e-5
    assert mnist.test_x.mean() != 0
    # The padding is black, which is not zero once normalised.
    assert np.all(mnist.train_x[:, 0, :2] == mnist.black[0])


def test_mnist_split_is_stratified(mnist):
    assert np.all(np.bincount(mnist.train_y) == 400)
    assert np.all(np.bincount(mnist.test_y) == 100)


def test_mnist_split_has_no_leak(mnist):
    train = {image.tobytes() for image in mnist.train_x}
    assert not any(image.tobytes() in train for image in mnist.test_x)


def test_mnist_split_depends_on_its_seed_only(mnist):
    again, other = load_data("mnist"), load_data("mnist", seed=7)
    assert again.fingerprint() == mnist.fingerprint()
    np.testing.assert_array_equal(again.test_x, mnist.test_x)
    assert other.fingerprint() != mnist.fingerprint()


def test_mnist_keeps_28_when_asked():
    kept, padded = mnist_split(seed=0, plane=28), mnist_split(seed=0, plane=32)
    assert kept.train_x.shape == (4000, 1, 28, 28)
    np.testing.assert_array_equal(padded.train_x[:, :, 2:30, 2:30], kept.train_x)


def test_mnist_is_not_cut():
    with pytest.raises(DataError, match="cannot be cut to 24x24"):
        load_data("mnist", size=24)


def test_mnist_is_in_no_folder(tmp_path):
    with pytest.raises(DataError, match="not read from a folder"):
        load_data("mnist", tmp_path)


def test_a_copy_of_a_test_image_leaves_the_training_part():
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    images[4] = images[1]
    kept = without_copies(images, np.array([0, 1, 2]), np.array([3, 4, 5]))
    np.testing.assert_array_equal(kept, [0, 2])


def test_stratified_split_takes_its_share_of_every_class():
    labels = np.repeat([0, 1, 2], [10, 20, 30])
    train, test = stratified_split(labels, 0.2, np.random.default_rng(0))
    np.testing.assert_array_equal(np.bincount(labels[test]), [2, 4, 6])
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(60))


def test_unknown_data_set_names_the_known_ones():
    with pytest.raises(DataError, match="'svhn': choose one of mnist, cifar10, cifar100, folder, imagenet"):
        load_data("svhn")


def test_a_data_set_refuses_labels_beyond_its_classes(data):
    with pytest.raises(DataError, match=r"test labels of data set rows must be int64 in 0\.\.1"):
        dataclasses.replace(data, train_y=data.train_y % 2, classes=2)


def test_a_data_set_refuses_images_of_another_shape(data):
    with pytest.raises(DataError, match=r"training images .* expected float32 \(100, 1, 9, 9\)"):
        dataclasses.replace(data, plane=(9, 9))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 7), min_size=1, max_size=6), seed=st.integers(0, 2**32))
def test_shares_of_training_images_together_are_what_one_process_gets(data, sizes, seed):
    ids = np.random.default_rng(seed).permutation(100)[: sum(sizes)]
    ends = np.cumsum([0, *sizes])
    shares = [slice(*span) for span in pairwise(ends)]

    def images(share):
        return data.train_images(ids, np.random.default_rng(seed), share)

    whole = images(slice(None))
    np.testing.assert_array_equal(np.concatenate([images(share) for share in shares]), whole)
    # Moved, each by its own draw, and not merely copied.
    moves = Moves.draw(len(ids), np.random.default_rng(seed), data.augmentation)
    np.testing.assert_array_equal(whole, augment(data.train_x[ids], moves, 1, data.black))


def test_training_images_without_a_generator_and_test_images_stay_as_they_are(data):
    ids = np.array([7, 3, 90, 4])
    np.testing.assert_array_equal(data.train_images(ids, None, slice(1, 3)), data.train_x[[3, 90]])
    np.testing.assert_array_equal(data.test_images(ids[:2]), data.test_x[[7, 3]])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_choice_is_even_and_within_every_larger_one(draw):
    labels = np.array(draw.draw(st.lists(st.integers(0, 5), min_size=2, max_size=60)))
    larger = draw.draw(st.integers(2, len(labels)))
    smaller = draw.draw(st.integers(1, larger - 1))
    few, many = evenly_chosen(labels, smaller, 3), evenly_chosen(labels, larger, 3)
    for chosen, count in ((few, smaller), (many, larger)):
        assert len(np.unique(chosen)) == len(chosen) == count
        assert np.all(np.diff(chosen) > 0)
        there, taken = np.bincount(labels, minlength=6), np.bincount(labels[chosen], minlength=6)
        # A class gives at most one less than another, unless it has given all it has.
        assert np.all((taken >= taken.max() - 1) | (taken == there))
    assert set(few) <= set(many)


def test_a_choice_is_random_and_depends_on_its_seed():
    labels = np.repeat(np.arange(10), 100)
    first = evenly_chosen(labels, 55, 1)
    np.testing.assert_array_equal(first, evenly_chosen(labels, 55, 1))
    assert not np.array_equal(first, evenly_chosen(labels, 55, 2))
    assert len(np.unique(first % 100)) > 20


def test_some_examples_of_mnist(mnist):
    some = load_data("mnist", examples=125)
    assert sorted(np.bincount(some.train_y)) == [12] * 5 + [13] * 5
    whole = {image.tobytes(): label for image, label in zip(mnist.train_x, mnist.train_y, strict=True)}
    assert all(whole[x.tobytes()] == y for x, y in zip(some.train_x, some.train_y, strict=True))
    np.testing.assert_array_equal(some.test_x, mnist.test_x)
    assert some.fingerprint() != mnist.fingerprint()
    assert load_data("mnist", examples=4000).fingerprint() == mnist.fingerprint()


@pytest.mark.parametrize("examples", [0, 4001])
def test_examples_there_are_not(examples):
    with pytest.raises(DataError, match=f"mnist has 4000 training examples, {examples} were asked for: choose from 1"):
        load_data("mnist", examples=examples)


def test_noise_is_drawn_once_for_both_parts(mnist):
    noisy, again = load_data("mnist", noise=0.5), load_data("mnist", noise=0.5)
    for part in ("train_x", "test_x"):
        noise = getattr(noisy, part) - getattr(mnist, part)
        assert noise.dtype == np.float32
        assert abs(noise.mean(dtype=np.float64)) < 2e-3
        assert abs(noise.std(dtype=np.float64) - 0.5) < 2e-3
        np.testing.assert_array_equal(getattr(noisy, part), getattr(again, part))
    assert not np.array_equal(noisy.train_x[0] - mnist.train_x[0], noisy.test_x[0] - mnist.test_x[0])
    np.testing.assert_array_equal(noisy.train_y, mnist.train_y)
    assert len({noisy.fingerprint(), mnist.fingerprint(), load_data("mnist", noise=0.25).fingerprint()}) == 3


def test_noise_does_not_depend_on_how_many_examples_are_taken():
    few, all_of_them = (load_data("mnist", noise=0.5, examples=n) for n in (50, 4000))
    whole = {image.tobytes() for image in all_of_them.train_x}
    assert all(image.tobytes() in whole for image in few.train_x)


def test_noise_is_the_same_however_it_is_cut_into_pieces(data, monkeypatch):
    whole = data.with_noise(1.0, 5)
    monkeypatch.setattr(data_module, "NOISE_AT_ONCE", 72)
    np.testing.assert_array_equal(data.with_noise(1.0, 5).train_x, whole.train_x)


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf")])
def test_noise_that_is_no_deviation_is_refused(noise):
    with pytest.raises(DataError, match="noise is a standard deviation of at least 0, not"):
        load_data("mnist", noise=noise)
