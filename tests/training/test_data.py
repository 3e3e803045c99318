"""MNIST as it is split and normalised, and what a DataSet refuses."""

import dataclasses

import numpy as np
import pytest

from mest_compiler.errors import DataError
from mest_compiler.training.data import load_data
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
    with pytest.raises(DataError, match="'imagenet': choose one of mnist, cifar10, cifar100"):
        load_data("imagenet")


def test_a_data_set_refuses_labels_beyond_its_classes(data):
    with pytest.raises(DataError, match=r"test labels of data set rows must be int64 in 0\.\.1"):
        dataclasses.replace(data, train_y=data.train_y % 2, classes=2)


def test_a_data_set_refuses_images_of_another_shape(data):
    with pytest.raises(DataError, match=r"training images .* expected float32 \(100, 1, 9, 9\)"):
        dataclasses.replace(data, plane=(9, 9))
