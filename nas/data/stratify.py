"""Stratified samples and splits: fixed by a seed, bounded in every class."""

import numpy as np


def allocate(
    counts: np.ndarray, total: int, *, low: np.ndarray | int, high: np.ndarray | int
) -> np.ndarray:
    """Share `total` among classes in proportion to `counts`, by largest remainders.

    Args:
        counts: Images of each class, int (K,).
        total: Wanted sum.
        low: Least of each class; wins over `total`.
        high: Most of each class, at least `low`; wins over `total`.

    Returns:
        int64 (K,), between the bounds; sums to `total` where the bounds allow it.
    """
    quotas = total * counts / max(1, counts.sum())
    shares = np.clip(np.floor(quotas).astype(np.int64), low, high)
    while shares.sum() < total and np.any(shares < high):
        shares[np.argmax(np.where(shares < high, quotas - shares, -np.inf))] += 1
    while shares.sum() > total and np.any(shares > low):
        shares[np.argmin(np.where(shares > low, quotas - shares, np.inf))] -= 1
    return shares


def draw(labels: np.ndarray, *takes: np.ndarray, seed: int) -> list[np.ndarray]:
    """Disjoint random samples, `take[c]` images of class c each, and last what is left.

    Args:
        labels: Classes 0 … K-1 of the images, int (N,).
        takes: One int (K,) for each sample.
        seed: The same seed, the same samples.

    Returns:
        Sorted positions in `labels`, one array a take and one of the rest.
    """
    # Not a Generator: NumPy has frozen the stream of RandomState, and a split must not move
    # between two versions, or tested images become training images.
    rng = np.random.RandomState(seed)
    parts: list[list[np.ndarray]] = [[] for _ in range(len(takes) + 1)]
    for label in range(len(takes[0])):
        members = rng.permutation(np.flatnonzero(labels == label))
        stops = np.cumsum([take[label] for take in takes])
        for part, piece in zip(parts, np.split(members, stops), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate(part)) for part in parts]


def even_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many positions as there are images, the classes in equal parts, in random order.

    Where a class has fewer images than its part, each comes equally often, or once more; of a
    larger one some come, others the next time.

    Args:
        labels: Classes of the images, int (N,).
        rng: Draws them.

    Returns:
        Positions in `labels`, (N,).
    """
    classes = rng.permutation(np.unique(labels))
    parts = np.full(len(classes), len(labels) // len(classes))
    parts[: len(labels) % len(classes)] += 1
    drawn = [
        np.resize(rng.permutation(np.flatnonzero(labels == label)), part)
        for label, part in zip(classes, parts, strict=True)
    ]
    return rng.permutation(np.concatenate(drawn))


def three_way(labels: np.ndarray, num_classes: int, *, seed: int = 0) -> list[np.ndarray]:
    """80 / 10 / 10: positions of train, validation and test.

    A class keeps two images for train before validation and test get any.
    """
    counts = np.bincount(labels, minlength=num_classes)
    high = np.maximum(counts - 2, 0) // 2
    tenth = allocate(counts, round(0.1 * len(labels)), low=np.minimum(1, high), high=high)
    validation, test, train = draw(labels, tenth, tenth, seed=seed)
    return [train, validation, test]
