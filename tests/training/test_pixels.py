"""Files of every depth and mode that Pillow reads: their pixels are those of an 8-bit twin, within one step."""

import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from mest_compiler.errors import DataError
from mest_compiler.training.data import load_data
from mest_compiler.training.data_folder import DEVIATION, MEAN
from mest_compiler.training.pixels import rgb_of

HEIGHT, WIDTH = 32, 40
GREY = np.arange(HEIGHT * WIDTH, dtype=np.uint32).reshape(HEIGHT, WIDTH) * (65535 // (HEIGHT * WIDTH - 1))
GREY[-1, -1] = 65535
GREY16 = GREY.astype(np.uint16)
COLOUR16 = np.stack([GREY16, GREY16[::-1], GREY16[:, ::-1]], axis=2)


def png16(pixels: np.ndarray, colour_type: int) -> bytes:
    """A 16-bit PNG, which Pillow writes of grey images only. pixels: uint16 [H, W] or [H, W, channels]."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def tiff(strip: bytes, bits: int, photometric: int = 1, kind: int = 1) -> bytes:
    """An uncompressed grey TIFF (little-endian) of one strip; kind: of the samples: 1 unsigned, 2 signed, 3 float."""
    entries = [
        (256, WIDTH), (257, HEIGHT), (258, bits), (259, 1), (262, photometric), (273, 8 + 2 + 12 * 10 + 4), (277, 1),
        (278, HEIGHT), (279, len(strip)), (339, kind),
    ]  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + table + struct.pack("<I", 0) + strip


def packed12(values: np.ndarray) -> bytes:
    """Two values of 12 bits in three bytes."""
    first, second = values.reshape(-1, 2).astype(np.uint32).T
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8).tobytes()


def saved(image: Image.Image) -> bytes:
    """A TIFF as Pillow writes it."""
    from io import BytesIO

    out = BytesIO()
    image.save(out, "TIFF")
    return out.getvalue()


GREY_FILES = {
    "grey16.png": png16(GREY16, 0),
    "grey16.tif": saved(Image.fromarray(GREY16)),
    "big-endian.tif": saved(Image.frombytes("I;16B", (WIDTH, HEIGHT), GREY16.astype(">u2").tobytes())),
    "float.tif": saved(Image.fromarray((GREY / 65535).astype(np.float32))),
    "grey12.tif": tiff(packed12(GREY16 >> 4), 12),
    "white-is-zero.tif": tiff((65535 - GREY16).astype("<u2").tobytes(), 16, photometric=0),
    "white-is-zero-float.tif": tiff((1 - GREY / 65535).astype("<f4").tobytes(), 32, photometric=0, kind=3),
    "white-is-zero-8-bits.tif": tiff((255 - (GREY16 >> 8)).astype(np.uint8).tobytes(), 8, photometric=0),
    "grey16.pgm": b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + GREY16.astype(">u2").tobytes(),
    "grey12.pgm": b"P5 %d %d 4095\n" % (WIDTH, HEIGHT) + (GREY16 >> 4).astype(">u2").tobytes(),
}
COLOUR_FILES = {
    "rgb16.png": png16(COLOUR16, 2),
    "rgba16.png": png16(np.concatenate([COLOUR16, GREY16[::-1, ::-1, None]], axis=2), 6),
    "rgb16.ppm": b"P6 %d %d 65535\n" % (WIDTH, HEIGHT) + COLOUR16.astype(">u2").tobytes(),
}
LA16 = png16(np.stack([GREY16, GREY16[::-1]], axis=2), 4)


def steps_apart(content: bytes, name: str, twin: np.ndarray, folder) -> int:
    """Largest difference between what a file becomes and its 8-bit twin, uint8 [H, W, 3]."""
    path = folder / name
    path.write_bytes(content)
    with Image.open(path) as image:
        found = np.asarray(rgb_of(image, path)).astype(int)
    assert found.shape == twin.shape
    return int(np.abs(found - twin).max())


@pytest.mark.parametrize("name", GREY_FILES)
def test_grey_of_any_depth_is_its_8_bit_twin(name, tmp_path):
    twin = np.repeat((GREY16 >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    assert steps_apart(GREY_FILES[name], name, twin, tmp_path) <= 1


@pytest.mark.parametrize("name", COLOUR_FILES)
def test_colour_of_16_bits_is_its_8_bit_twin(name, tmp_path):
    assert steps_apart(COLOUR_FILES[name], name, (COLOUR16 >> 8).astype(np.uint8), tmp_path) <= 1


def test_grey_of_16_bits_with_transparency_is_its_8_bit_twin(tmp_path):
    twin = np.repeat((GREY16 >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    assert steps_apart(LA16, "la16.png", twin, tmp_path) <= 1


def test_a_twin_of_16_bits_is_the_same_to_a_network(tmp_path):
    """Through the whole of a folder: both twins lie in one, and become the same planes within one step."""
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.fromarray((GREY16 >> 8).astype(np.uint8)).save(tmp_path / part / "a" / "8.png")
        (tmp_path / part / "a" / "16.png").write_bytes(GREY_FILES["grey16.png"])
    data = load_data("folder", tmp_path, size=28)
    step = 1.01 / 255 / DEVIATION.min()
    sixteen, eight = data.test_images(np.arange(2))
    assert np.abs(sixteen - eight).max() <= step
    assert np.ptp(sixteen) > 1 / DEVIATION.max() / 2  # not one grey all over
    assert (sixteen.mean(axis=(1, 2)) * DEVIATION + MEAN) == pytest.approx([0.5] * 3, abs=0.02)


def palette(**options) -> Image.Image:
    return Image.fromarray((COLOUR16 >> 8).astype(np.uint8)).quantize(16, **options)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK"])
def test_the_other_modes_are_as_pillow_converts_them(mode, tmp_path):
    image = Image.fromarray((COLOUR16 >> 8).astype(np.uint8)).convert(mode)
    wanted = np.asarray(image.convert("RGB"))
    path = tmp_path / f"image.{'tif' if mode in ('CMYK', 'PA') else 'png'}"
    image.save(path)
    with Image.open(path) as read:
        assert np.array_equal(np.asarray(rgb_of(read, path)), wanted)
    if mode == "1":
        assert set(np.unique(wanted)) == {0, 255}


@pytest.mark.parametrize("transparency", [3, bytes(range(0, 256, 16))], ids=["one colour", "of each colour"])
def test_a_palette_with_transparency_keeps_its_colours_and_warns_of_nothing(transparency, tmp_path):
    image, path = palette(), tmp_path / "palette.png"
    image.save(path, transparency=transparency)
    with warnings.catch_warnings(), Image.open(path) as read:
        warnings.simplefilter("error")
        assert "transparency" in read.info
        assert np.array_equal(np.asarray(rgb_of(read, path)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (saved(Image.fromarray(GREY.astype(np.int32))), r"has grey values of 32 bits .*: save it with 8 or 16 bits"),
        (tiff(GREY16.tobytes(), 16, kind=2), "has grey values of 32 bits or with a sign"),
        (saved(Image.fromarray((GREY / 256).astype(np.float32))), r"has floats from 0 to 255\.996, and black is 0"),
        (saved(Image.fromarray((GREY / 65535 - 0.5).astype(np.float32))), r"has floats from -0\.5 to 0\.5"),
        (saved(Image.fromarray(np.full((HEIGHT, WIDTH), np.nan, np.float32))), "has floats from nan to nan"),
    ],
)
def test_grey_values_of_unknown_range_are_refused(content, sentence, tmp_path):
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        (tmp_path / part / "a" / "image.tif").write_bytes(content)
    with pytest.raises(DataError, match=rf"val/a/image\.tif {sentence}"):
        load_data("folder", tmp_path, size=28).test_images(np.arange(1))
