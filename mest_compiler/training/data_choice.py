"""Choosing some of a training set's images, evenly over its classes."""

import numpy as np

from mest_compiler.training.streams import stream


def evenly_chosen(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Ascending indices (int64) of `count` of the examples with these labels, as many of each class up to one.

    A class that has too few gives all it has and the others make up for it. The examples of a smaller count are
    among those of a larger one: they are the first of one order, drawn with `seed`, that takes a random member of
    every class in turn.
    """
    classes, class_of = np.unique(labels, return_inverse=True)
    turn = np.empty(len(labels), np.int64)
    for label in classes:
        members = np.flatnonzero(labels == label)
        turn[stream(seed, "examples", int(label)).permutation(members)] = np.arange(len(members))
    place = stream(seed, "examples").permutation(len(classes))
    order = np.lexsort((place[class_of], turn))
    return np.sort(order[:count])
