"""A picture looks the same however it is stored, or it is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coterie.data import decoding
from coterie.data.decoding import UnreadableImage, read_image, readable_extensions, upright
from coterie.errors import CoterieError
from coterie.tasks.images.data.raw import Files, to_pixels
from coterie.tasks.images.data.stored import ImagePaths
from coterie.tasks.images.predict import load_images

GREY = np.random.default_rng(0).integers(0, 256, (12, 9), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (12, 9, 3), dtype=np.uint8)
AS_RGB = np.stack([GREY] * 3, axis=-1)

PREPARED = {"mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bilinear", "crop": 1.0}
DESCRIPTION = {"data": "x", "class_names": ["a"], "input_size": [3, 12, 9], **PREPARED}


def pixels(path: Path) -> np.ndarray:
    return Files(ImagePaths.of([path]), np.zeros(1, dtype=np.int64)).pixels(0)


@pytest.mark.parametrize("scale", [256, 257])
@pytest.mark.parametrize("suffix", ["png", "tiff", "tif"])
def test_sixteen_bit_grey_equals_its_eight_bit_twin(tmp_path, suffix, scale):
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(GREY.astype(np.uint16) * scale).save(path)
    assert np.array_equal(pixels(path), AS_RGB)
    with Image.open(path) as image:
        assert np.array_equal(to_pixels(image), GREY[..., None])


def test_sixteen_bit_pgm(tmp_path):
    path = tmp_path / "deep.pgm"
    path.write_bytes(b"P5 9 12 65535\n" + (GREY.astype(">u2") * 257).tobytes())
    assert np.array_equal(pixels(path), AS_RGB)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_of_unknown_range_are_refused(tmp_path, mode):
    path = tmp_path / "a.tiff"
    image = Image.fromarray(GREY).convert(mode)
    image.save(path)
    with pytest.raises(UnreadableImage, match="unknown range"):
        read_image(path)
    with pytest.raises(CoterieError, match="unknown range"):
        to_pixels(image)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16"])
def test_every_mode_becomes_rgb_or_grey(mode):
    base = Image.fromarray(COLOUR)
    image = Image.fromarray(GREY.astype(np.uint16) * 257) if mode == "I;16" else base.convert(mode)
    for grey in (False, True):
        result = upright(image, grey)
        assert (result.mode, result.size) == ("L" if grey else "RGB", (9, 12))
        assert np.asarray(result).std() > 20  # neither black nor white


def test_older_versions_of_pillow_open_sixteen_bits_as_thirty_two(tmp_path):
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as opened:
        opened.load()
        older = Image.fromarray(np.asarray(opened).astype(np.int32))
        older.format = "PNG"
    assert np.array_equal(np.asarray(upright(older, grey=True)), GREY)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("colour", [0, 255])
def test_a_drawing_in_transparency_alone_is_refused(tmp_path, mode, colour):
    """Black lines on nothing would be a black picture, white ones a white one."""
    image = Image.new("L", (9, 12), colour).convert(mode)
    image.putalpha(Image.fromarray(GREY))
    image.save(tmp_path / "icon.png")
    with pytest.raises(UnreadableImage, match="transparency alone"):
        read_image(tmp_path / "icon.png")
    image.putalpha(255)
    assert np.unique(np.asarray(upright(image))).tolist() == [colour]  # a plain picture is one


def test_transparency_changes_no_colour(tmp_path):
    image = Image.fromarray(COLOUR)
    image.putalpha(Image.fromarray(GREY))
    image.save(tmp_path / "a.png")
    assert np.array_equal(pixels(tmp_path / "a.png"), COLOUR)


def test_a_damaged_orientation_is_no_damage_of_the_picture(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\xff\xff broken")
    assert np.array_equal(pixels(tmp_path / "a.png"), COLOUR)


def test_only_regular_files_are_opened(tmp_path):
    """Opening a pipe that nobody writes to would never end."""
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        with pytest.raises(UnreadableImage, match="no regular file"):
            read_image(path)
        with pytest.raises(CoterieError, match="no regular file"):
            load_images([path], DESCRIPTION)
    with pytest.raises(CoterieError, match="no regular file"):
        load_images([tmp_path], DESCRIPTION)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(tmp_path, orientation):
    turned = {1: COLOUR, 2: COLOUR[:, ::-1], 3: COLOUR[::-1, ::-1], 4: COLOUR[::-1], 5: COLOUR.transpose(1, 0, 2)}
    turned |= {6: np.rot90(COLOUR, 1), 7: COLOUR[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(COLOUR, -1)}
    image = Image.fromarray(np.ascontiguousarray(turned[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    image.save(path, exif=exif)
    assert np.array_equal(pixels(path), COLOUR)
    with Image.open(path) as opened:
        assert np.array_equal(to_pixels(opened), COLOUR)
    batch = load_images([path], DESCRIPTION)
    assert np.array_equal((batch[0].permute(1, 2, 0) * 255).round().byte().numpy(), COLOUR)  # predict, too


def test_a_palette_with_transparency_gives_no_warning(tmp_path, recwarn):
    path = tmp_path / "a.png"
    Image.fromarray(COLOUR).convert("P").save(path, transparency=bytes(range(0, 250)))
    read_image(path)
    assert not recwarn.list


@pytest.mark.parametrize(
    "suffix",
    [
        ".avif",
        ".j2k",
        ".qoi",
        ".apng",
        ".ppm",
        ".jfif",
        ".jpe",
        ".jpg",
        ".jp2",
        ".pnm",
        ".bmp",
        ".gif",
        ".webp",
        ".tga",
    ],
)
def test_what_pillow_reads_is_read(tmp_path, suffix):
    assert suffix in readable_extensions()
    path = tmp_path / f"a{suffix}"
    Image.fromarray(COLOUR).save(path)
    assert read_image(path).size == (9, 12)


@pytest.mark.parametrize("suffix", [".eps", ".ps", ".pdf", ".svg", ".txt", ".wmf", ".heic"])
def test_what_is_no_plain_picture_is_not(suffix):
    assert suffix not in readable_extensions()


def test_postscript_under_another_name_starts_no_program(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    monkeypatch.setattr(subprocess, "check_call", lambda *a, **k: pytest.fail("a program was started"))
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a program was started"))
    with pytest.raises(Image.UnidentifiedImageError):
        read_image(path)


def test_a_picture_of_too_many_pixels_is_refused_by_its_header(tmp_path, monkeypatch, recwarn):
    path = tmp_path / "a.png"
    Image.fromarray(COLOUR).save(path)
    monkeypatch.setattr(decoding, "largest_image", lambda: 100)
    with pytest.raises(UnreadableImage, match="9 x 12 pixels, more than the 100"):
        read_image(path)
    assert not recwarn.list


def test_the_limit_fits_the_machine_and_a_camera():
    assert 64_000_000 <= decoding.largest_image() <= 178_956_970
    assert sys.maxsize > decoding.memory_size() > 2**28
