"""A small training by `nas.train`: its images, its network, its flags."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from tests.models import tiny


def write_digits(root: Path) -> Path:
    """Images of three digits in folders: 90 to train on, 30 to validate, 30 to test."""
    pixels, labels = load_digits(return_X_y=True)
    assert isinstance(pixels, np.ndarray)
    for digit, name in ((0, "zero"), (1, "one"), (2, "two")):
        images = (pixels[labels == digit][:50].reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
        for split, part in (("train", images[:30]), ("val", images[30:40]), ("test", images[40:])):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i, image in enumerate(part):
                Image.fromarray(image).save(folder / f"{i}.png")
    return root


def write_tiny(folder: Path) -> Path:
    """The file of a network for a thousand classes."""
    path = folder / "tiny.json"
    path.write_text(tiny(num_classes=1000).to_json())
    return path


def flags(arch: Path, data: Path, out: Path, epochs: int = 3, *more: str) -> list[str]:
    common = ["--arch", str(arch), "--data", str(data), "--out", str(out)]
    return [*common, "--epochs", str(epochs), "--no-flip", "--threads", "1", *more]
