"""Examples of one's own numbers: what a file gives, and the sentence for each file that gives none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from mest_compiler.errors import DataError
from mest_compiler.signature import TensorSpec
from mest_compiler.training.data import load_data
from mest_compiler.training.data_arrays import ArrayData, read_arrays

Stored = dict[str, np.ndarray]


def numbers() -> Stored:
    """Ten training and four test examples of two inputs and a target."""
    rng = np.random.default_rng(0)
    found = {}
    for part, n in (("train", 10), ("test", 4)):
        found |= {
            f"{part}/image": rng.standard_normal((n, 3, 5, 5)),
            f"{part}/words": rng.integers(0, 9, (n, 2), dtype=np.int32),
            f"{part}/y": rng.standard_normal((n, 2)).astype(np.float32),
        }
    return found


@pytest.mark.parametrize("name", ["numbers.npz", "numbers.safetensors", "no suffix"])
def test_a_file_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    stored, path = numbers(), tmp_path / name
    if name.endswith("npz"):
        np.savez(path, **stored)
    else:
        safetensors.numpy.save_file(stored, path)
    data = load_data("arrays", path)
    assert dict(data.inputs) == {"image": TensorSpec((3, 5, 5), "float32"), "words": TensorSpec((2,), "int32")}
    assert dict(data.targets) == {"y": TensorSpec((2,), "float32")}
    assert (data.train_count, data.test_count, data.labels, data.sizes) == (10, 4, None, {"classes": 2})
    ids = np.array([7, 2, 5])
    inputs = data.train_inputs(ids, np.random.default_rng(0), slice(1, 3))
    np.testing.assert_array_equal(inputs["image"], stored["train/image"][[2, 5]].astype(np.float32))
    np.testing.assert_array_equal(data.test_inputs(ids[1:2])["words"], stored["test/words"][[2]])
    np.testing.assert_array_equal(data.train_targets(ids)["y"], stored["train/y"][ids])
    np.testing.assert_array_equal(data.test_targets(ids[1:2])["y"], stored["test/y"][[2]])
    assert dict(data.files()) == {name: path} and data.digest() == ""
    in_memory = ArrayData(
        *({n[len(p) + 1 :]: a for n, a in stored.items() if n.startswith(p)} for p in ("train", "test"))
    )
    assert in_memory.fingerprint() == data.fingerprint()
    assert in_memory.digest() != ArrayData(in_memory.test, in_memory.test).digest() != ""


def test_labels(tmp_path: Path) -> None:
    """They become what PyTorch takes, and say how many classes there are; some are chosen evenly."""
    part = {"x": np.zeros((9, 4, 8, 8), np.uint8), "y": np.repeat(np.arange(3, dtype=np.uint8), 3)}
    data = ArrayData(part, {**part, "y": part["y"] + np.uint8(2)})
    assert data.targets["y"] == TensorSpec((), "int64") and data.inputs["x"].dtype == "uint8"
    assert data.sizes == {"classes": 5, "in_channels": 4}
    np.testing.assert_array_equal(data.labels, part["y"])
    np.savez(tmp_path / "f.npz", **{f"{p}/{n}": a for p in ("train", "test") for n, a in part.items()})
    assert sorted(load_data("arrays", tmp_path / "f.npz", examples=3).labels) == [0, 1, 2]


def test_some_examples_without_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", **numbers())
    whole = load_data("arrays", tmp_path / "f.npz")
    few, more = (load_data("arrays", tmp_path / "f.npz", examples=n).train["y"] for n in (3, 6))
    assert len(few) == 3 and {row.tobytes() for row in few} < {row.tobytes() for row in more}
    assert {row.tobytes() for row in more} < {row.tobytes() for row in whole.train["y"]}


def _without(key: str) -> Callable[[Stored], object]:
    return lambda stored: stored.pop(key)


def _with(key: str, array: object) -> Callable[[Stored], object]:
    return lambda stored: stored.update({key: np.asarray(array)})


def _number(key: str, place: object, value: float) -> Callable[[Stored], object]:
    return lambda stored: stored[key].__setitem__(place, value)


WRONG = {
    "a part lacks an array": (_without("test/image"), "has train/image and no test/image: add it, or remove the other"),
    "a part has one more": (_with("test/more", np.ones((4, 2))), "has test/more and no train/more"),
    "no target": (lambda s: (s.pop("train/y"), s.pop("test/y")), "has no train/y, the target that a loss compares"),
    "no input": (
        lambda s: [s.pop(f"{p}/{n}") for p in ("train", "test") for n in ("image", "words")],
        "has no inputs: add train/NAME and test/NAME for each argument of the model's forward",
    ),
    "no part": (_with("image", np.ones(3)), "has the array 'image': call it train/NAME or test/NAME, or leave it out"),
    "another part": (_with("val/image", np.ones(3)), "has the array 'val/image': call it"),
    "fewer examples": (_with("train/y", np.ones((9, 2), "f4")), "has 10 examples in train/image and 9 in train/y"),
    "no examples": (_with("test/y", np.ones((0, 2))), r"has float64 \[0, 2\] in test/y, which is no example"),
    "no axis": (_with("test/y", 1.0), r"has float64 \[\] in test/y, which is no example"),
    "other shapes": (
        _with("test/image", np.ones((4, 3, 5, 6))),
        r"has float32 \[10, 3, 5, 5\] in train/image and float32 \[4, 3, 5, 6\] in test/image",
    ),
    "other dtypes": (_with("test/words", np.ones((4, 2), np.int64)), r"has int32 \[10, 2\] in train/words and int64"),
    "NaN": (_number("train/image", (3, 0, 0, 0), np.nan), "NaN, infinite or beyond float32, in 1 of 10 examples"),
    "infinity": (_number("test/y", (2, 0), np.inf), r"has numbers in test/y that are NaN, .* first in number 2"),
    "beyond float32": (_number("test/image", (1, 0, 0, 0), 1e39), "in test/image that are NaN, infinite or beyond"),
    "complex": (_with("train/y", np.ones((10, 2), complex)), "has complex128 in train/y: save one of float16, float32"),
    "texts": (_with("train/y", ["a"] * 10), "has <U1 in train/y: save one of"),
    "objects": (_with("train/y", np.array([None] * 10)), r"cannot be read \(Object arrays cannot be .*plain numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, case: str) -> None:
    change, sentence = WRONG[case]
    stored, path = numbers(), tmp_path / "numbers.npz"
    change(stored)
    np.savez(path, **stored)
    with pytest.raises(DataError, match=sentence) as raised:
        read_arrays(path)
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)


def test_no_file_of_arrays(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is read from one \.npz or \.safetensors file: name it"):
        load_data("arrays")
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
        load_data("arrays", tmp_path)
    with pytest.raises(DataError, match=r"cannot be read \(No such file"):
        load_data("arrays", tmp_path / "none.npz")
    np.savez(tmp_path / "whole.npz", **numbers())
    whole = (tmp_path / "whole.npz").read_bytes()
    for content, sentence in (
        (b"", "is no .npz and no .safetensors file"),
        (b"train,y\n1,2\n", "is no .npz and no .safetensors file"),
        (whole[: len(whole) // 2], "cannot be read"),
        (whole[:200] + b"\xff" * 50 + whole[250:], "cannot be read"),
        (b"\x04\0\0\0\0\0\0\0{]]]", "cannot be read"),
    ):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(DataError, match=sentence):
            load_data("arrays", tmp_path / "file")


def test_what_only_images_take(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", **numbers())
    with pytest.raises(DataError, match="arrays are taken as they are and take no noise"):
        load_data("arrays", tmp_path / "f.npz", noise=0.5)
    with pytest.raises(DataError, match="have the shapes they have: leave out size 8"):
        load_data("arrays", tmp_path / "f.npz", size=8)
