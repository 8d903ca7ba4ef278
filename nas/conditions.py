"""The conditions that a run or a training was started under, and what of them is other now."""

from collections.abc import Mapping
from typing import Any

from search_spaces.files import differences

_FLAGS = {"target_macs": "target_flops"}
"""By condition: the flag that sets it, where it has another name."""
_FOLLOWING = ("resolution", "num_classes", "target_macs", "images")
"""What may follow from other conditions, and so is named after them."""
_DIGESTS = ("choices", "fingerprint")
"""What tells people nothing but that there is a change; named where nothing else is."""


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One phrase for every condition that is not as it was, by `differences`; none where `old`
    holds. What the user can set comes first.

    The same images in a folder of another name are the same data.
    """
    if (images := _fingerprint(old)) is not None and images == _fingerprint(new):
        old = {**old, "data": new["data"]}
    plain, digests = ([_sorted(side, told) for side in (old, new)] for told in (True, False))
    return differences(*plain) or differences(*digests)


def _sorted(conditions: Mapping[str, Any], told: bool) -> dict[str, Any]:
    """Either what tells people something, or the digests."""
    kept = [key for key in conditions if (key not in _DIGESTS) == told]
    kept.sort(key=lambda key: _FOLLOWING.index(key) + 1 if key in _FOLLOWING else 0)
    return {_FLAGS.get(key, key): conditions[key] for key in kept}


def _fingerprint(conditions: Mapping[str, Any]) -> str | None:
    """Of the images; a training has it behind their name, in parentheses."""
    if "fingerprint" in conditions:
        return conditions["fingerprint"]
    name, opened, rest = str(conditions.get("data")).rpartition(" (")
    return rest.removesuffix(")") if name and opened and rest.endswith(")") else None
