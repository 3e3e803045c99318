"""Red, green and blue of 8 bits each from whatever an image file holds, scaled where Pillow would clip.

Pillow's own `convert("RGB")` takes grey values of 16 bits, of 32 bits and floats for values of 8 bits, so that nearly
all of them become white. Transparency is left out, as usual for image folders: a pixel keeps the colour below it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

from mest_compiler.errors import DataError

SIXTEEN_BITS = 2**16 - 1
# Formats that Pillow reads into 32-bit integers although their grey values have 16 bits, PPM's scaled to all of them.
SIXTEEN_BITS_IN_32 = ("PNG", "PPM")
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # TIFF tags
WHITE_IS_ZERO = 0


def rgb_of(image: Image.Image, path: Path) -> Image.Image:
    """The image in mode RGB.

    Integers of up to 16 bits are scaled, white to 255; floats go from 0, black, to 1, white. DataError, naming the
    path, for floats beyond that and for integers of 32 bits, of which a file does not say how bright white is.
    """
    if image.mode == "F":
        return _grey(np.rint(255 * _in_unit_range(np.asarray(image), path)), image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in SIXTEEN_BITS_IN_32):
        white = _white(image)
        return _grey((np.asarray(image).astype(np.uint32) * 255 + white // 2) // white, image)
    if image.mode == "I":
        raise DataError(
            f"{path} has grey values of 32 bits or with a sign, and does not say how bright white is: save it with 8 "
            "or 16 bits"
        )
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # a direct way to RGB warns of transparency that it leaves out
    return image.convert("RGB")


def _in_unit_range(values: np.ndarray, path: Path) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= 1:  # not a number neither
        raise DataError(
            f"{path} has floats from {low:g} to {high:g}, and black is 0 and white 1 there: scale them, or save it "
            "with 8 or 16 bits"
        )
    return values


def _white(image: Image.Image) -> int:
    """The largest value there can be: in TIFF files of 12 bits Pillow leaves the values as they are."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return 2 ** image.tag_v2.get(BITS_PER_SAMPLE, (16,))[0] - 1
    return SIXTEEN_BITS


def _grey(values: np.ndarray, image: Image.Image) -> Image.Image:
    """Grey values from 0 to 255 in all three channels; Pillow turns those of 8 bits where 0 is white, and no others."""
    values = values.astype(np.uint8)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        values = 255 - values
    return Image.fromarray(values).convert("RGB")
