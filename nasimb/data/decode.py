"""One image file to pixels: every mode Pillow knows, upright, at the size and channels wanted.

Transparent pixels are laid over white, the paper that viewers show behind them. Sixteen-bit grey is scaled to
eight. Of an animation the first frame counts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# A closed list: some of Pillow's other readers (EPS) start programs, and some accept nearly any bytes (TGA).
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")
SUFFIXES = frozenset(
    (
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k"),
    )
)
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
GREY = ("1", "L", "LA", *SIXTEEN_BIT)


class UnreadableImage(Exception):
    """A file that does not decode; the message is the reason."""


def decode(path: Path, size: int, channels: int) -> np.ndarray:
    """uint8 [channels, size, size] of the image at `path`: upright by its EXIF tag, bilinear with antialiasing.

    Raises:
        UnreadableImage: missing, not an image, damaged, too large, or with pixels that have no 0..255 meaning.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            # JPEG can skip detail while decoding; four times the size wanted leaves the result what it was.
            image.draft(None, (4 * size, 4 * size))
            upright = _eight_bit(ImageOps.exif_transpose(image)).convert("L" if channels == 1 else "RGB")
        if upright.size != (size, size):
            upright = upright.resize((size, size), Image.Resampling.BILINEAR)
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them raise
        raise UnreadableImage(_reason(error)) from None
    return np.asarray(upright, dtype=np.uint8).reshape(size, size, channels).transpose(2, 0, 1).copy()


def native_channels(path: Path) -> int:
    """1 if the file stores grey values (or a palette of greys), else 3; from its header alone.

    Raises:
        UnreadableImage: missing or not an image.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.mode == "P":
                palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
                return 1 if (palette == palette[:, :1]).all() else 3
            return 1 if image.mode in GREY else 3
    except Exception as error:  # as in decode
        raise UnreadableImage(_reason(error)) from None


def _eight_bit(image: Image.Image) -> Image.Image:
    """Without transparency, and with values in 0..255."""
    if image.mode in SIXTEEN_BIT:
        # Older Pillow opens sixteen-bit PNG in the 32-bit mode "I".
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("32-bit float pixels; save it with 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque)
    return image


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a known format"
    return " ".join(str(error).split()) or type(error).__name__
