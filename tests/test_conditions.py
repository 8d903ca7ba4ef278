"""What of the conditions of a run is said to be other now."""

from typing import Any

import pytest

from nas.conditions import changes

RUN: dict[str, Any] = {
    "space": "mnasnet",
    "choices": "12ab34cd",
    "resolution": 64,
    "num_classes": 10,
    "target_macs": 4e8,
    "data": "photos",
    "fingerprint": "ab12",
    "images": [100, 10],
}
TRAINING: dict[str, Any] = {
    "arch": "B0 (1f)",
    "data": "photos (ab12)",
    "recipe": {"epochs": 2, "batch_size": 8},
}


def test_what_follows_from_other_images_comes_after_them() -> None:
    """And checksums not at all."""
    other = {"data": "ships", "fingerprint": "cd34", "resolution": 32, "images": [50, 5]}
    new = {**RUN, **other, "choices": "0", "num_classes": 3, "target_macs": 6e8}
    assert changes(RUN, new) == [
        "data was 'photos', now 'ships'",
        "resolution was 64, now 32",
        "num_classes was 10, now 3",
        "target_flops was 400M, now 600M",
        "images was [100, 10], now [50, 5]",
    ]


@pytest.mark.parametrize("checksum", ["choices", "fingerprint"])
def test_a_checksum_is_named_where_nothing_else_tells(checksum: str) -> None:
    """As where an image was replaced, or a user's space offers other choices."""
    assert changes(RUN, {**RUN, checksum: "0"}) == [f"{checksum} was '{RUN[checksum]}', now '0'"]


@pytest.mark.parametrize(
    ("old", "moved"), [(RUN, {"data": "moved"}), (TRAINING, {"data": "moved (ab12)"})]
)
def test_images_in_a_folder_of_another_name_are_the_same(
    old: dict[str, Any], moved: dict[str, str]
) -> None:
    assert changes(old, {**old, **moved}) == []


@pytest.mark.parametrize("name", ["photos (cd34)", "photos", "photos (2019) (cd34)"])
def test_other_images_of_a_training_are_not(name: str) -> None:
    assert changes(TRAINING, {**TRAINING, "data": name}) == [
        f"data was 'photos (ab12)', now '{name}'"
    ]


def test_nested_conditions_are_named_one_by_one() -> None:
    recipe = {"epochs": 3, "batch_size": 8}
    assert changes(TRAINING, {**TRAINING, "recipe": recipe}) == ["epochs was 2, now 3"]
    assert changes({"evaluator": "a:b"}, {"evaluator": "a:b"}) == []
