"""Images loaded with and without a cache, and what lies in it, for tests."""

from pathlib import Path
from typing import Any

from nas.data.cache import Cache
from nas.data.dataset import ImageData, load_for_search
from tests.trees import same

SIZE = 16


def load_pets(pets: Path, folder: Path | None, **options: Any) -> ImageData:
    """A search's images, through the cache in a folder; through none where there is no folder."""
    cache = None if folder is None else Cache(folder)
    return load_for_search(str(pets), size=SIZE, cache=cache, **options)


def equal_images(one: ImageData, other: ImageData) -> bool:
    """Whether both are the same data, to the pixel."""
    return (
        same(one.train, other.train)
        and same(one.search_validation, other.search_validation)
        and one.fingerprint == other.fingerprint
    )


def only_file(folder: Path) -> Path:
    """The one file that must lie there."""
    (file,) = folder.iterdir()
    return file
