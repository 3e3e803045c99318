"""Image folders in ImageNet's layout: what is listed, what an image becomes, and every way they can be wrong."""

import threading
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mest_compiler.errors import DataError
from mest_compiler.training.data import load_data
from mest_compiler.training.data_folder import DEVIATION, MEAN, FolderData
from mest_compiler.training.feed import epoch_batches
from mest_compiler.training.resized_crop import ResizedCrops

SIZE = 28  # of which 32 is the short side of a test image
CLASSES = ("ant", "bee", "cat")
TRAIN_EACH, TEST_EACH = 6, 2


def picture(rng, width=40, height=32) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def write_folder(root, test_part="val"):
    rng = np.random.default_rng(0)
    for part, each in (("train", TRAIN_EACH), (test_part, TEST_EACH)):
        for name in CLASSES:
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(each):
                picture(rng).save(folder / f"{i}.{('png', 'JPEG', 'jpg')[i % 3]}")
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def images(root) -> FolderData:
    return load_data("folder", root, size=SIZE)


@pytest.fixture
def own(tmp_path):
    """A folder that a test may spoil."""
    return write_folder(tmp_path / "own")


def normalised(image: Image.Image) -> np.ndarray:
    planes = np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1) / 255
    return (planes - MEAN[:, None, None]) / DEVIATION[:, None, None]


def test_a_folder_has_its_classes_shapes_and_labels(images):
    assert (images.name, images.classes, images.channels, images.plane) == ("folder", 3, 3, (SIZE, SIZE))
    assert images.class_names == CLASSES
    assert images.input_shape == (3, SIZE, SIZE)
    np.testing.assert_array_equal(images.train_y, np.repeat([0, 1, 2], TRAIN_EACH))
    np.testing.assert_array_equal(images.test_y, np.repeat([0, 1, 2], TEST_EACH))
    assert images.train_y.dtype == images.test_y.dtype == np.int64
    assert images.train_files[TRAIN_EACH] == "train/bee/0.png"


def test_imagenet_is_a_folder_of_224_with_its_own_name(root):
    data = load_data("imagenet", root)
    assert (data.name, data.input_shape) == ("imagenet", (3, 224, 224))
    assert data.test_images(np.array([1])).shape == (1, 3, 224, 224)


def test_the_test_part_may_be_called_test_and_val_goes_first(tmp_path):
    write_folder(tmp_path, "test")
    assert load_data("folder", tmp_path).test_files[0] == "test/ant/0.png"
    (tmp_path / "test").rename(tmp_path / "val")
    (tmp_path / "test").mkdir()
    assert load_data("folder", tmp_path).test_files[0] == "val/ant/0.png"


def test_other_and_hidden_files_are_left_out(own):
    for name in (".hidden.png", "._0.png", "notes.txt"):
        (own / "train" / "ant" / name).write_text("no image")
    (own / "train" / ".cache").mkdir()
    data = load_data("folder", own)
    assert len(data.train_files) == 3 * TRAIN_EACH
    assert data.class_names == CLASSES


def test_a_test_image_is_the_middle_of_its_scaled_self(images, root):
    x = images.test_images(np.array([2, 0]))
    assert x.dtype == np.float32
    for got, file in zip(x, ("bee/0.png", "ant/0.png"), strict=True):
        # 40x32: the short side has its 32 pixels already, so that scaling leaves the image as it is.
        middle = Image.open(root / "val" / file).crop((6, 2, 34, 30))
        np.testing.assert_allclose(got, normalised(middle), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("width", "height"), [(96, 64), (64, 128), (16, 16), (24, 16)])
def test_scaling_and_cropping_in_one_step_is_both_one_after_the_other(width, height, own):
    image = picture(np.random.default_rng(1), width, height)
    image.save(own / "val" / "ant" / "0.png")
    across, down = 32 * width // min(width, height), 32 * height // min(width, height)
    scaled = image.resize((across, down), Image.Resampling.BILINEAR)
    left, upper = (across - SIZE) // 2, (down - SIZE) // 2
    expected = normalised(scaled.crop((left, upper, left + SIZE, upper + SIZE)))
    # Pillow rounds to whole grey values between its passes.
    got = load_data("folder", own, size=SIZE).test_images(np.array([0]))[0]
    assert np.abs((got - expected) * DEVIATION[:, None, None] * 255).max() <= 1.01


def test_training_images_are_the_crops_that_were_drawn(images, root):
    ids = np.array([3, 0, 12])
    x = images.train_images(ids, np.random.default_rng(5), slice(None))
    crops = ResizedCrops.draw(3, np.random.default_rng(5))
    for i, file in enumerate(images.train_files[k] for k in ids):
        cut = Image.open(root / file).convert("RGB").crop(crops.box(i, 40, 32))
        planes = normalised(cut.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(x[i], planes[:, :, ::-1] if crops.mirrored[i] else planes, rtol=1e-5, atol=1e-6)


def test_training_images_without_a_generator_are_middles(images, root):
    x = images.train_images(np.array([5, 0, 1]), None, slice(1, 2))
    middle = Image.open(root / "train" / "ant" / "0.png").crop((6, 2, 34, 30))
    np.testing.assert_allclose(x, normalised(middle)[None], rtol=1e-5, atol=1e-6)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=3), seed=st.integers(0, 2**32))
def test_shares_together_are_the_batch_of_one_process(images, sizes, seed):
    ids = np.random.default_rng(seed).permutation(3 * TRAIN_EACH)[: sum(sizes)]
    ends = np.cumsum([0, *sizes])
    whole, *parts = (
        images.train_images(ids, np.random.default_rng(seed), share)
        for share in (slice(None), *(slice(*span) for span in pairwise(ends)))
    )
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_an_epoch_over_a_folder(images):
    feed = epoch_batches(
        images, 6, active=np.arange(18), share=slice(2, 4), seed=1, epoch=0, first_step=1, augmented=True
    )
    got = list(feed)
    assert [batch.inputs["x"].shape for batch in got] == [(2, 3, SIZE, SIZE)] * 2
    for batch in got:
        np.testing.assert_array_equal(batch.targets["y"], images.train_y[batch.ids[2:4]])
    assert not [t for t in threading.enumerate() if t.name.startswith(("mest-batches", "mest-images"))]


def test_grey_palette_and_transparent_images_become_three_planes(own):
    folder = own / "val" / "ant"
    image = picture(np.random.default_rng(2))
    for i, mode in enumerate(("L", "P", "RGBA", "CMYK")):
        image.convert(mode).save(folder / f"x{i}.{'jpg' if mode == 'CMYK' else 'png'}")
    x = load_data("folder", own, size=SIZE).test_images(np.arange(TEST_EACH, TEST_EACH + 4))
    assert np.isfinite(x).all()
    grey = x[0] * DEVIATION[:, None, None] + MEAN[:, None, None]
    np.testing.assert_allclose(grey[0], grey[2], atol=1e-6)


def test_crops_have_the_areas_and_ratios_they_may_have():
    crops = ResizedCrops.draw(500, np.random.default_rng(0))
    boxes = np.array([crops.box(i, 500, 400) for i in range(500)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, ratio = width * height / (500 * 400), width / height
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 500
    assert boxes[:, 3].max() <= 400
    assert area.min() > 0.079
    assert area.max() <= 1
    assert area.min() < 0.1
    assert area.max() > 0.9
    assert ratio.min() > 0.74
    assert ratio.max() < 1.35
    assert 200 < np.count_nonzero(crops.mirrored) < 300
    # At all places, the outermost ones among them.
    assert boxes[:, 0].min() == 0
    assert boxes[:, 2].max() == 500


@pytest.mark.parametrize(
    ("width", "height", "middle"),
    [(1000, 10, (493, 0, 506, 10)), (10, 1000, (0, 493, 10, 506)), (1, 1, (0, 0, 1, 1)), (5000, 1, (2499, 0, 2500, 1))],
)
def test_images_into_which_no_crop_fits_give_their_middle(width, height, middle):
    crops = ResizedCrops.draw(50, np.random.default_rng(0))
    boxes = [crops.box(i, width, height) for i in range(50)]
    for left, upper, right, lower in boxes:
        assert 0 <= left < right <= width
        assert 0 <= upper < lower <= height
    assert middle in boxes


def test_some_examples_of_a_folder(images, root):
    few, more = (load_data("folder", root, size=SIZE, examples=n) for n in (4, 9))
    assert sorted(np.bincount(few.train_y)) == [1, 1, 2]
    np.testing.assert_array_equal(np.bincount(more.train_y), [3, 3, 3])
    assert set(few.train_files) < set(more.train_files) < set(images.train_files)
    assert few.test_files == images.test_files
    for i, file in enumerate(few.train_files):
        assert file.split("/")[1] == CLASSES[few.train_y[i]]
    with pytest.raises(DataError, match="folder has 18 training examples, 19 were asked for"):
        load_data("folder", root, examples=19)


def test_the_fingerprint_tells_other_images_from_the_same_elsewhere(images, own):
    def fingerprint(**options):
        return load_data("folder", own, size=SIZE, **options).fingerprint()

    whole = fingerprint()
    assert whole == images.fingerprint()
    assert fingerprint(examples=9) != whole
    assert load_data("folder", own, size=32).fingerprint() != whole
    picture(np.random.default_rng(3), 64, 64).save(own / "val" / "bee" / "0.png")
    scaled = fingerprint()
    assert scaled != whole
    (own / "train" / "ant" / "0.png").rename(own / "train" / "ant" / "00.png")
    assert fingerprint() not in (whole, scaled)


def test_wrong_folders_are_named(tmp_path, own):
    with pytest.raises(DataError, match="imagenet is read from a folder: say which one"):
        load_data("imagenet")
    with pytest.raises(DataError, match=r"there is no folder .*/none"):
        load_data("folder", tmp_path / "none")
    with pytest.raises(DataError, match="cannot be 0 pixels wide"):
        load_data("folder", own, size=0)
    with pytest.raises(DataError, match="taken as they are and take no noise"):
        load_data("folder", own, noise=0.1)


@pytest.mark.parametrize(("part", "said"), [("train", "train"), ("val", "val or test")])
def test_a_missing_part_is_named(part, said, own):
    (own / part).rename(own / "elsewhere")
    with pytest.raises(DataError, match=f"/own holds no folder {said}: put the images in train/CLASS and val/CLASS"):
        load_data("folder", own)


@pytest.mark.parametrize(("part", "other"), [("train", "val"), ("val", "train")])
def test_a_class_in_one_part_only_is_named(part, other, own):
    (own / part / "dog").mkdir()
    with pytest.raises(DataError, match=f"class dog of .* is in {part} and not in {other}: add its images there"):
        load_data("folder", own)


def test_a_part_without_classes_is_named(tmp_path, own):
    (own / "val").rename(own / "classes")
    (own / "val").mkdir()
    picture(np.random.default_rng(0)).save(own / "val" / "0.png")
    with pytest.raises(DataError, match="/own/val holds no folders: put the images of each class in a folder"):
        load_data("folder", own)


def test_an_empty_class_is_named(own):
    for path in (own / "val" / "cat").iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(DataError, match=r"/val/cat holds no images .*: add some or remove the class from both parts"):
        load_data("folder", own)


def test_an_empty_file_is_found_when_listing(own):
    (own / "train" / "bee" / "1.JPEG").write_bytes(b"")
    with pytest.raises(DataError, match=r"/train/bee/1\.JPEG is empty: put the original file in its place"):
        load_data("folder", own)


def test_a_link_to_nothing_is_found_when_listing(own):
    path = own / "train" / "bee" / "1.JPEG"
    path.unlink()
    path.symlink_to(own / "nowhere.jpg")
    with pytest.raises(DataError, match=r"/train/bee/1\.JPEG cannot be read \(No such file"):
        load_data("folder", own)


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("file", "spoil"),
    [
        ("1.JPEG", cut),
        ("0.png", cut),
        ("0.png", lambda path: path.write_bytes(b"no image at all")),
        ("0.png", lambda path: path.unlink()),
    ],
    ids=["cut jpeg", "cut png", "text", "gone"],
)
def test_an_image_that_cannot_be_decoded_is_named(file, spoil, own):
    data = load_data("folder", own, size=SIZE)
    spoil(own / "train" / "ant" / file)
    sentence = f"/train/ant/{file} cannot be decoded .*: put the original file in its place or remove it"
    with pytest.raises(DataError, match=sentence):
        data.train_images(np.arange(18), np.random.default_rng(0), slice(None))
    feed = epoch_batches(data, 18, active=np.arange(18), share=slice(None), seed=1, epoch=0, augmented=True)
    with pytest.raises(DataError, match=sentence):
        next(feed)
    assert not [t for t in threading.enumerate() if t.name.startswith(("mest-batches", "mest-images"))]
