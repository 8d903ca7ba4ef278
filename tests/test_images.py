"""Every mode and format by the one rule, to golden pixels; bad files named, not raised."""

import io
import struct
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.data import images
from nas.data.images import DataError, check_header, read_files, to_rgb
from nas.untrusted import printable

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def decode(path: Path, size: int = 2) -> np.ndarray:
    """The stored image, (S, S, 3)."""
    out = np.zeros((3, size, size), dtype=np.uint8)
    (reading,) = read_files([path], {0: out})
    assert reading.problem == ""
    return out.transpose(1, 2, 0)


def problem(path: Path) -> str:
    (reading,) = read_files([path], {0: np.zeros((3, 2, 2), dtype=np.uint8)})
    return reading.problem


def quadrants(*colours: tuple[int, int, int]) -> Image.Image:
    """2 x 2 px: top left, top right, bottom left, bottom right."""
    return Image.fromarray(np.array(colours, dtype=np.uint8).reshape(2, 2, 3))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("patience", [0.0, 60.0])
def test_a_terminal_that_waits_is_shown_how_far_the_reading_is(
    is_terminal: bool, patience: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return is_terminal

    monkeypatch.setattr(images, "_QUIET", patience)
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    quadrants(RED, GREEN, BLUE, WHITE).save(tmp_path / "image.png")
    threads = threading.active_count()
    read_files([tmp_path / "image.png"] * 100, {})
    assert ("data:   0%" in screen.getvalue()) == (is_terminal and not patience)
    assert threading.active_count() == threads


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "tiff", "ppm"])
def test_row_11_rgb_keeps_its_pixels(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    quadrants(RED, GREEN, BLUE, WHITE).save(path, lossless=True)  # for WebP; ignored by others
    np.testing.assert_array_equal(decode(path), [[RED, GREEN], [BLUE, WHITE]])


@pytest.mark.parametrize("mode", ["L", "1"])
def test_row_11_grey_fills_all_channels(tmp_path, mode):
    Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).convert(mode).save(
        tmp_path / "grey.png"
    )
    pixels = decode(tmp_path / "grey.png")
    np.testing.assert_array_equal(pixels[..., 0], [[0, 255], [255, 0]])
    assert (pixels == pixels[..., :1]).all()


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_row_10_16_bits_are_scaled_not_saturated(tmp_path, suffix):
    values = np.array([[0, 257 * 100], [257 * 100 + 128, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    expected = [[0, 100], [100, 255]]
    np.testing.assert_array_equal(decode(tmp_path / f"deep.{suffix}")[..., 1], expected)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_row_10_modes_without_a_range_are_refused_by_name(tmp_path, mode):
    path = tmp_path / "depth.tiff"
    Image.new(mode, (2, 2), 7).save(path)
    (unread,) = read_files([path], {})
    assert unread.problem == problem(path)
    assert f"mode {mode} (" in unread.problem


def test_row_11_transparency_is_composited_on_white(tmp_path):
    pixels = np.array([[(255, 0, 0, 255), (255, 0, 0, 0)], [(0, 0, 0, 51), (0, 0, 255, 255)]])
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "rgba.png")
    expected = [[RED, WHITE], [(204, 204, 204), BLUE]]
    np.testing.assert_array_equal(decode(tmp_path / "rgba.png"), expected)


def test_row_11_grey_with_alpha(tmp_path):
    pixels = np.array([[(0, 255), (0, 0)], [(100, 255), (255, 255)]], dtype=np.uint8)
    Image.fromarray(pixels, "LA").save(tmp_path / "la.png")
    np.testing.assert_array_equal(decode(tmp_path / "la.png")[..., 2], [[0, 255], [100, 255]])


@pytest.mark.parametrize(("transparency", "corner"), [(None, RED), (0, WHITE)])
def test_row_11_palette_and_its_transparent_colour(tmp_path, transparency, corner):
    image = Image.new("P", (2, 2), 1)
    image.putpalette([*RED, *BLUE])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "palette.png", transparency=transparency)
    np.testing.assert_array_equal(decode(tmp_path / "palette.png"), [[corner, BLUE], [BLUE, BLUE]])


def test_row_11_transparent_colour_of_an_rgb_png(tmp_path):
    quadrants(RED, GREEN, BLUE, WHITE).save(tmp_path / "key.png", transparency=GREEN)
    np.testing.assert_array_equal(decode(tmp_path / "key.png"), [[RED, WHITE], [BLUE, WHITE]])


def test_row_11_cmyk(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.tiff")
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=95)
    assert (decode(tmp_path / "cmyk.tiff") == RED).all()
    np.testing.assert_allclose(decode(tmp_path / "cmyk.jpg"), np.full((2, 2, 3), RED), atol=4)


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, [[RED, GREEN], [BLUE, WHITE]]),
        (2, [[GREEN, RED], [WHITE, BLUE]]),
        (3, [[WHITE, BLUE], [GREEN, RED]]),
        (6, [[BLUE, RED], [WHITE, GREEN]]),
        (8, [[GREEN, WHITE], [RED, BLUE]]),
    ],
)
def test_row_11_exif_orientation_is_applied(tmp_path, orientation, expected):
    exif = Image.Exif()
    exif[0x0112] = orientation
    quadrants(RED, GREEN, BLUE, WHITE).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(decode(tmp_path / "turned.png"), expected)


def test_row_12_first_frame_of_an_animation_and_a_mark(tmp_path):
    path = tmp_path / "moving.gif"
    frames = [Image.new("RGB", (2, 2), colour) for colour in (RED, BLUE)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert (decode(path) == RED).all()
    assert read_files([path], {})[0].several_frames


@pytest.mark.parametrize("shape", [(8, 16), (16, 8), (8, 8)])
def test_shorter_side_is_resized_and_the_centre_cropped(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "image.png")
    for size in (4, 8, 16):
        width, height = (side * size // 8 for side in image.size)
        left, top = (width - size) // 2, (height - size) // 2
        whole = image.resize((width, height), Image.Resampling.BICUBIC)
        expected = np.asarray(whole.crop((left, top, left + size, top + size)))
        stored = decode(tmp_path / "image.png", size).astype(int)
        np.testing.assert_allclose(stored, expected, atol=1)


def test_large_jpegs_come_out_as_by_a_full_decode(tmp_path):
    ramp = np.linspace(0, 255, 512).astype(np.uint8)
    pixels = np.stack([np.tile(ramp, (512, 1)), np.tile(ramp[:, None], (1, 512))], axis=-1)
    pixels = np.concatenate([pixels, pixels[..., :1] // 2], axis=-1)
    Image.fromarray(pixels).save(tmp_path / "large.jpg", quality=95)
    with Image.open(tmp_path / "large.jpg") as image:
        whole = np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(decode(tmp_path / "large.jpg", 32).astype(int), whole, atol=4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"not an image", "no image that Pillow can open"),
        (png_header(8000, 8000), "8000 x 8000 px, more than 50 megapixels"),
        (png_header(10000, 10000), "more than 50 megapixels"),
        (png_header(30000, 30000), "more than 50 megapixels"),
        (png_header(64, 64), "OSError: image file is truncated"),
    ],
)
def test_row_9_bad_files_are_named(tmp_path, content, message):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    assert message in problem(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tiff", "webp"])
def test_row_9_truncated_files_are_named(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert problem(path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_row_9_a_file_of_no_size_is_not_read():
    # Its content comes when it is read, and that of others never comes.
    assert problem(Path("/proc/self/status")) == "empty file"


def test_missing_file_and_broken_link(tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    assert "broken link" in problem(tmp_path / "link.png")


def test_readings_keep_the_order_of_the_paths(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(200)]
    for i, path in enumerate(paths):
        Image.new("RGB", (2, 2), (i, i, i)).save(path)
    targets = {i: np.zeros((3, 2, 2), dtype=np.uint8) for i in range(0, 200, 3)}
    readings = read_files(paths, targets)
    assert len({reading.digest for reading in readings}) == len(paths)
    assert all((out == i).all() for i, out in targets.items())


def test_header_check_and_rule_are_usable_alone():
    with pytest.raises(DataError, match="floats"):
        check_header(Image.new("F", (2, 2)))
    assert to_rgb(Image.new("L", (2, 2), 9)).getpixel((0, 0)) == (9, 9, 9)


def test_control_characters_are_escaped():
    assert printable("a\x1b[31m\nb\udcff é") == r"a\x1b[31m\nb\udcff é"
