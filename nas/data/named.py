"""Data sets by name: scikit-learn's digits and the datasets of torchvision."""

import inspect
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from nas.data.images import DataError, explain
from nas.data.sources import ACCEPTED, Images, Items, Source, divided
from nas.untrusted import printable


def digits_source() -> Source:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    dataset = [(Image.fromarray(image),) for image in grey]
    labels = bunch.target.astype(np.int64)
    items = Items("digits", dataset, np.arange(len(labels)), labels)
    return divided("digits", tuple(map(str, bunch.target_names)), items)


def torchvision_class(name: str) -> Any:
    if not name.isidentifier():
        return None
    # Only here: importing torchvision takes seconds that other sources need not spend.
    from torchvision import datasets

    classes = {
        known.lower(): getattr(datasets, known)
        for known in datasets.__all__
        if inspect.isclass(getattr(datasets, known))
    }
    return classes.get(name.lower())


def torchvision_source(dataset: Any, root: str) -> Source:
    title = dataset.__name__
    if title in ("ImageFolder", "DatasetFolder"):  # they would decode before any limit is checked
        raise DataError(f"Name the folder itself, `--data {printable(root)}`, without {title}.")
    parameters = inspect.signature(dataset).parameters
    if "train" in parameters:
        choices = {"train": [{"train": True}], "test": [{"train": False}]}
    elif "split" in parameters:
        names = {"train": ("train", "trainval"), "validation": ("val", "valid"), "test": ("test",)}
        choices = {split: [{"split": name} for name in known] for split, known in names.items()}
    else:
        choices = {"train": [{}]}
    built = _build(dataset, root, choices["train"])
    if built is None:
        raise DataError(f"torchvision's {title} has no split named train or trainval.")
    train_labels = _raw_labels(built, title)
    values = np.unique(train_labels)
    train = _items(built, title, train_labels, values)
    classes = _torchvision_classes(built, values)
    if len(choices) == 1:
        return divided(title, classes, train)

    def others() -> dict[str, Images]:
        found = {}
        for split, known in choices.items():
            built = None if split == "train" else _build(dataset, root, known)
            if built is not None:
                found[split] = _items(built, title, _raw_labels(built, title), values)
        return found

    return Source(name=title, classes=classes, train=train, others=others)


def _build(dataset: Any, root: str, choices: Sequence[Mapping[str, Any]]) -> Any:
    """The first of `choices` that the dataset knows, or None; downloaded if need be."""
    parameters = inspect.signature(dataset).parameters
    base = {"root": root} if "root" in parameters else {}
    for choice in choices:
        try:
            try:
                return dataset(**base, **choice)
            except RuntimeError:  # not there: how torchvision asks for `download=True`
                if "download" not in parameters:
                    raise
                return dataset(**base, **choice, download=True)
        except Exception as error:  # anything from a missing package to a broken connection
            if "split" in choice and isinstance(error, ValueError) and "split" in str(error):
                continue
            raise DataError(
                f"torchvision's {dataset.__name__} could not be opened in {printable(root)}: "
                f"{explain(error)}. Give its folder as {dataset.__name__}@/path/to/root, "
                "or unpack it into a folder with train/ and test/."
            ) from error
    return None


def _items(dataset: Any, title: str, labels: np.ndarray, values: np.ndarray) -> Items:
    strange = np.setdiff1d(labels, values)
    if strange.size:
        raise DataError(f"{title} has classes that its train split lacks: {strange.tolist()}.")
    return Items(title, dataset, np.arange(len(labels)), np.searchsorted(values, labels))


def _raw_labels(dataset: Any, title: str) -> np.ndarray:
    """Labels as the dataset numbers them, int64 (N,); without decoding where it lists them."""
    try:
        for attribute in ("targets", "labels", "_labels"):
            labels = np.asarray(getattr(dataset, attribute, None))
            if labels.shape == (len(dataset),) and labels.dtype.kind in "iu":
                return labels.astype(np.int64)
        labels = [operator.index(dataset[i][1]) for i in range(len(dataset))]
    except Exception as error:  # the code of a dataset raises anything
        raise DataError(
            f"{title} does not hold images with one class each: {explain(error)}. {ACCEPTED}"
        ) from error
    return np.array(labels, dtype=np.int64)


def _torchvision_classes(dataset: Any, values: np.ndarray) -> tuple[str, ...]:
    known = getattr(dataset, "classes", None)
    if not isinstance(known, list | tuple) or (values.size and values.max() >= len(known)):
        return tuple(str(value) for value in values)
    names = [known[value] for value in values]  # Imagenette: a tuple of synonyms each
    return tuple(printable(name if isinstance(name, str) else name[0]) for name in names)
