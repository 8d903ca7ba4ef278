"""Shares within their bounds, samples disjoint and complete, for any labels."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nas.data.stratify import allocate, draw, three_way

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=80).map(np.array)


@given(labels=LABELS, fraction=st.floats(0, 1))
def test_shares_are_bounded_and_add_up(labels, fraction):
    counts = np.bincount(labels)
    total = round(fraction * len(labels))
    low, high = np.minimum(1, counts), counts
    shares = allocate(counts, total, low=low, high=high)
    assert (shares >= low).all()
    assert (shares <= high).all()
    assert shares.sum() == np.clip(total, low.sum(), high.sum())


@given(labels=LABELS, fraction=st.floats(0, 1))
def test_without_bounds_shares_are_within_one_of_proportional(labels, fraction):
    counts = np.bincount(labels)
    total = round(fraction * len(labels))
    shares = allocate(counts, total, low=0, high=counts)
    assert (np.abs(shares - total * counts / len(labels)) < 1).all()


@given(labels=LABELS, seed=st.integers(0, 9))
def test_samples_are_disjoint_complete_and_repeatable(labels, seed):
    take = np.bincount(labels) // 3
    parts = draw(labels, take, take, seed=seed)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    for part in parts[:2]:
        np.testing.assert_array_equal(np.bincount(labels[part], minlength=len(take)), take)
    for part, again in zip(parts, draw(labels, take, take, seed=seed), strict=True):
        np.testing.assert_array_equal(part, again)


@given(labels=LABELS)
def test_three_way_keeps_two_of_a_class_for_train(labels):
    num_classes = int(labels.max()) + 1
    parts = three_way(labels, num_classes)
    train, validation, test = (np.bincount(labels[p], minlength=num_classes) for p in parts)
    np.testing.assert_array_equal(train + validation + test, np.bincount(labels))
    assert (train >= np.minimum(2, np.bincount(labels))).all()
    np.testing.assert_array_equal(validation, test)


def test_a_split_is_the_same_in_every_version():
    labels = np.repeat([0, 1], 5)
    first, rest = draw(labels, np.array([2, 2]), seed=0)
    assert first.tolist() == [0, 2, 5, 7]
    assert rest.tolist() == [1, 3, 4, 6, 8, 9]
