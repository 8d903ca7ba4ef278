"""Image files of any kind to square RGB arrays by one fixed rule; what cannot be read is named.

The rule: an EXIF orientation is applied; transparency is composited on white; 16-bit grey is
divided by 257; grey fills all three channels; CMYK and other 8-bit modes are converted by Pillow;
of several frames the first is taken. Modes without a fixed range (I, F), images above `MAX_PIXELS`,
files above `MAX_BYTES` and formats beside `FORMATS` are refused.
"""

import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from nas.cores import num_cores
from nas.untrusted import printable

RULE = 1
"""Version of the rule: a higher one where the same file becomes other pixels than before."""
WORDS: dict[str, str | bool] = {
    "colour": "RGB",
    "orientation": "EXIF applied",
    "transparency": "on white",
    "crop": "central square",
    "interpolation": "bicubic",
    "antialias": True,
}
"""The rule as a model.json tells it to who prepares images elsewhere."""
MAX_PIXELS = 50_000_000
"""Larger images are refused by their header: a file of 48 KB can unfold into gigabytes."""
MAX_BYTES = 8 * MAX_PIXELS
"""Larger files are refused unread: nothing of `MAX_PIXELS` is larger, 16-bit RGBA uncompressed."""
FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "SGI"),
    *("TGA", "TIFF", "WEBP"),
)
"""What is tried on a file. Pillow opens others too, EPS by running Ghostscript on it."""

_CHUNK = 64  # files per task of the pool; a task for each file costs as much as a small file
_QUIET = 2.0
"""Seconds before a terminal is shown how far the reading is."""


class DataError(ValueError):
    """Images that cannot be used as they are; the message names what, where and the remedy."""

    problems: tuple[str, ...] = ()
    """All that is wrong, a line each, where the message has no room for it."""


class _Bar(tqdm):
    """How far the reading is, for a terminal that waits for it."""

    monitor_interval = 0  # no thread of its own, which a fork would lose

    def __init__(self, total: int) -> None:
        super().__init__(
            desc="data", total=total, unit=" images", delay=_QUIET, leave=False, disable=None
        )


@dataclass(frozen=True)
class Reading:
    """What was found out about one image."""

    digest: bytes = b""
    """SHA-256 of the content."""
    problem: str = ""
    """Why the image cannot be used; empty if it can."""
    several_frames: bool = False
    """Whether frames after the first were left out."""


def check_header(image: Image.Image) -> None:
    """Refuse what must not be decoded, before it is.

    Raises:
        DataError: Too many pixels, or a mode whose values have no fixed range.
    """
    if image.width * image.height > MAX_PIXELS:
        limit = f"more than {MAX_PIXELS // 1_000_000} megapixels"
        raise DataError(f"{image.width} x {image.height} px, {limit}")
    if image.mode in ("I", "F"):
        kind = {"I": "32-bit integers", "F": "floats"}[image.mode]
        raise DataError(
            f"mode {image.mode} ({kind}) has no fixed range of values; convert it to 8 or 16 bits"
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB, by the rule of this module; `check_header` comes first."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)  # 50 megapixels of floats are 400 MB
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def store(image: Image.Image, out: np.ndarray) -> None:
    """Write the central square of an image, resized (bicubic, antialiased), into `out`.

    Args:
        image: An opened image of any mode and size.
        out: uint8, (3, S, S).
    """
    size = out.shape[-1]
    image = to_rgb(image)
    if image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    out[...] = np.asarray(image).transpose(2, 0, 1)


def read_files(paths: Sequence[Path], targets: Mapping[int, np.ndarray]) -> list[Reading]:
    """Read and hash every file; decode those that have a target.

    Args:
        paths: The files.
        targets: Positions in `paths` -> uint8 arrays (3, S, S) to write into.

    Returns:
        A reading for each path, in order; nothing is raised for a bad file.
    """

    def task(start: int) -> list[Reading]:
        stop = min(start + _CHUNK, len(paths))
        return [_read_file(paths[i], targets.get(i)) for i in range(start, stop)]

    readings: list[Reading] = []
    with (
        quiet_pillow(),
        ThreadPoolExecutor(num_cores()) as pool,
        _Bar(len(paths)) as bar,
    ):
        for chunk in pool.map(task, range(0, len(paths), _CHUNK)):
            readings += chunk
            bar.update(len(chunk))
    return readings


def shorter_sides(paths: Sequence[Path]) -> list[int]:
    """Shorter sides in px by the headers alone; files that do not open are left out."""
    sides = []
    with quiet_pillow():
        for path in paths:
            try:
                if not (path.is_file() and path.stat().st_size):  # a read of /proc may wait forever
                    continue
                with Image.open(path, formats=_formats()) as image:
                    sides.append(min(image.size))
            except Exception:  # the decoders of damaged files raise anything; reading names them
                continue
    return sides


def explain(error: Exception) -> str:
    """One printable line for what a decoder raised."""
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"more than {MAX_PIXELS // 1_000_000} megapixels"
    if isinstance(error, UnidentifiedImageError):
        return "no image that Pillow can open, or not in a format that is read (PNG, JPEG, ...)"
    if isinstance(error, DataError):
        return str(error)
    return printable(f"{type(error).__name__}: {error}", 200)


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Pillow's warning of a huge image as an error, and no warnings about damaged metadata."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _read_file(path: Path, out: np.ndarray | None) -> Reading:
    if not path.is_file():
        return Reading(problem="not a regular file, or a broken link")
    digest = b""
    try:
        with path.open("rb") as file:
            if (num_bytes := os.fstat(file.fileno()).st_size) > MAX_BYTES:
                raise DataError(f"{num_bytes:,} bytes, more than {MAX_BYTES // 1_000_000} MB")
            if not num_bytes:  # or one of /proc, whose read may wait forever
                raise DataError("empty file")
            digest = hashlib.file_digest(file, "sha256").digest()
            file.seek(0)
            with Image.open(file, formats=_formats()) as image:
                check_header(image)
                several = bool(getattr(image, "is_animated", False))
                if out is not None:
                    # A JPEG can be decoded at 1/2, 1/4 or 1/8: what is left is resized by 2 or
                    # more, so that the antialiased filter still decides the result.
                    image.draft(None, (2 * out.shape[-1], 2 * out.shape[-1]))
                    store(image, out)
    except Exception as error:  # the decoders of damaged files raise anything
        return Reading(digest, explain(error))
    return Reading(digest, "", several)
