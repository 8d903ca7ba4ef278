"""Small data sets for tests, and what to ask of a split."""

from pathlib import Path

import numpy as np
from PIL import Image

from nas.data.dataset import Split


def plant(root: Path, tree: dict[str, int], size: tuple[int, int] = (6, 4)) -> Path:
    """Class folders with that many PNGs each; every image differs from every other."""
    rng = np.random.default_rng(len(list(root.rglob("*.png"))) if root.exists() else 0)
    for folder, count in tree.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{i:03}.png")
    return root


def counts(split: Split | None) -> list[int]:
    assert split is not None
    return np.bincount(split.labels).tolist()


def contents(split: Split | None) -> set[bytes]:
    assert split is not None
    return {image.tobytes() for image in split.images}


def same(a: Split | None, b: Split | None) -> bool:
    assert a is not None
    assert b is not None
    return np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels)


def write_mnist(raw: Path) -> None:
    """Nine train and three test images, each of one grey level, in MNIST's own format."""
    raw.mkdir(parents=True)
    for prefix, count in (("train", 9), ("t10k", 3)):
        levels = np.arange(count, dtype=np.uint8)
        images = np.repeat(levels, 28 * 28).tobytes()
        header = np.array([0x803, count, 28, 28], dtype=">i4").tobytes()
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images)
        header = np.array([0x801, count], dtype=">i4").tobytes()
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(header + (levels % 3).tobytes())
