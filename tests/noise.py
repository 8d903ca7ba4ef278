"""Images of noise, as a split and as a data set."""

import numpy as np

from nas.data.dataset import ImageData, Split


def noise(count: int, side: int = 8, classes: int = 10, seed: int = 0) -> Split:
    """Images that say nothing of their classes, which take turns."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    return Split(images, np.arange(count) % classes)


def image_data(train: Split, held_out: Split | None) -> ImageData:
    """Data of ten classes; without held-out images, none for a search."""
    return ImageData(
        name="noise",
        classes=tuple("0123456789"),
        fingerprint="0",
        native_size=8,
        train=train,
        search_validation=held_out,
    )
