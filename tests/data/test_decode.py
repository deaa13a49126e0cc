from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from nasimb.data.decode import UnreadableImage, decode, native_channels

RED, WHITE = (255, 0, 0), (255, 255, 255)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)


def test_colour_comes_back_channels_first(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (decode(tmp_path / "a.png", 6, 3) == pixels.transpose(2, 0, 1)).all()


def test_grey_is_repeated_in_colour_and_colour_becomes_luma(tmp_path, pixels):
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    assert (decode(tmp_path / "grey.png", 6, 3) == pixels[None, ..., 0]).all()
    Image.fromarray(pixels).save(tmp_path / "colour.png")
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decode(tmp_path / "colour.png", 6, 1)[0] - luma).max() <= 0.51


@pytest.mark.parametrize(
    ("mode", "name", "channels"),
    [
        ("1", "a.png", 1),
        ("L", "a.png", 1),
        ("LA", "a.png", 1),
        ("L", "a.gif", 1),
        ("RGB", "a.jpg", 3),
        ("RGBA", "a.png", 3),
        ("RGBA", "a.webp", 3),
        ("P", "a.png", 3),
        ("P", "a.gif", 3),
        ("CMYK", "a.jpg", 3),
        ("YCbCr", "a.jpg", 3),
        ("RGB", "a.bmp", 3),
        ("RGB", "a.tiff", 3),
        ("L", "a.pgm", 1),
    ],
)
def test_every_mode_loads(tmp_path, mode, name, channels):
    red = Image.new("RGB", (8, 8), RED)
    red.convert(mode).save(tmp_path / name)
    assert native_channels(tmp_path / name) == channels
    for wanted in (1, 3):
        found = decode(tmp_path / name, 4, wanted).astype(int)
        assert found.shape == (wanted, 4, 4)
        # Red stays red where the mode has colour; JPEG and CMYK are a little off.
        expected = np.array(RED if wanted == 3 and channels == 3 else [76] * wanted)
        if mode != "1":
            assert np.abs(found - expected[:, None, None]).max() <= 4


def test_transparency_is_laid_over_white(tmp_path):
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    clear.putpixel((0, 0), (255, 0, 0, 255))
    clear.putpixel((1, 0), (0, 0, 0, 128))
    clear.save(tmp_path / "a.png")
    found = decode(tmp_path / "a.png", 4, 3)
    assert tuple(found[:, 0, 0]) == RED
    assert abs(int(found[0, 0, 1]) - 127) <= 1
    assert tuple(found[:, 3, 3]) == WHITE
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 0, 0])
    palette.save(tmp_path / "p.png", transparency=1)
    assert (decode(tmp_path / "p.png", 4, 3) == 255).all()
    Image.new("LA", (4, 4), (0, 0)).save(tmp_path / "la.png")
    assert (decode(tmp_path / "la.png", 4, 1) == 255).all()


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 32768, 65535]] * 4, dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "a.tiff")
    for name in ("a.png", "a.tiff"):
        assert native_channels(tmp_path / name) == 1
        assert decode(tmp_path / name, 4, 1)[0, 0].tolist() == [0, 1, 128, 255]
        assert (decode(tmp_path / name, 4, 3)[2] == decode(tmp_path / name, 4, 1)[0]).all()


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [(1, lambda a: a), (3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1)), (8, np.rot90)],
)
@pytest.mark.parametrize("sixteen_bit", [False, True])
def test_the_exif_orientation_is_respected(tmp_path, orientation, undo, sixteen_bit):
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(grey.astype(np.uint16) * 257 if sixteen_bit else grey).save(tmp_path / "a.png", exif=exif)
    assert (decode(tmp_path / "a.png", 4, 1)[0] == undo(grey)).all()


def test_a_palette_of_greys_is_grey(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 90, 90, 90])
    image.save(tmp_path / "a.png")
    assert native_channels(tmp_path / "a.png") == 1
    assert (decode(tmp_path / "a.png", 4, 1) == 90).all()


def test_mixed_shapes_are_resized_with_antialiasing(tmp_path):
    # A fine checkerboard: antialiasing gives its mean, picking pixels would give black or white.
    board = (np.indices((40, 60)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "a.png")
    found = decode(tmp_path / "a.png", 5, 1)
    assert found.shape == (1, 5, 5)
    assert np.abs(found.astype(int) - 127).max() <= 8


def test_skipping_detail_of_large_jpegs_hardly_changes_them(tmp_path):
    rows, columns = np.mgrid[0:800, 0:1000] / 100
    smooth = (127 + 60 * np.sin(rows) + 60 * np.cos(columns)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(smooth).save(tmp_path / "a.png")
    difference = decode(tmp_path / "a.jpg", 16, 1).astype(int) - decode(tmp_path / "a.png", 16, 1)
    assert np.abs(difference).max() <= 2


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (b"hello", "a.png", "not an image in a known format"),
        (b"", "a.png", "not an image in a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "a.eps", "not an image"),
        (None, "a.png", "no such file"),
    ],
)
def test_what_is_no_image_has_a_reason(tmp_path, content, name, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableImage, match=reason):
        decode(tmp_path / name, 4, 1)
    with pytest.raises(UnreadableImage, match=reason):
        native_channels(tmp_path / name)


def test_a_truncated_image_is_unreadable(tmp_path, picture):
    path = picture("a.jpg", size=(64, 64))
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(UnreadableImage, match="truncated"):
        decode(path, 4, 3)


def test_float_pixels_are_refused_with_advice(tmp_path):
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(UnreadableImage, match="8 or 16 bits"):
        decode(tmp_path / "a.tiff", 4, 1)
