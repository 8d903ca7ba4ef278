"""Valid contents of files, changed at random, value by value and byte by byte."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def fuzz(
    examples: int,
    strategy: st.SearchStrategy[Any],
    read: Callable[[Any], None],
    *,
    random_from: int = 1000,
) -> None:
    """Read so many examples: the same ones every time if they are fewer than `random_from`."""
    limits = settings(
        max_examples=examples,
        derandomize=examples < random_from or settings().derandomize,
        database=None,
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
    )
    limits(given(strategy)(read))()


NAMES = st.text(max_size=12) | st.sampled_from(
    ["=cmd|x", "<img onerror=x>", "\x1b[2J", "a\u202eb", "x" * 300, "../../x", "\ud800"]
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 300)
    | st.sampled_from([-(10**40), 10**40, 1e308, float("nan"), float("inf"), -0.0])
    | st.floats()
    | NAMES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
TEXTS = st.sampled_from(
    ["", "null", "[" * 100_000, '{"a":' * 990 + "1" + "}" * 990, "1" * 5000, "\ufeff{}", "{}{}"]
).map(str.encode)


@st.composite
def changed(draw: st.DrawFn, valid: Any, values: st.SearchStrategy[Any] = JSON) -> Any:
    """`valid` with a value somewhere in it replaced, removed, or with one more beside it."""
    if not isinstance(valid, dict | list) or not valid or draw(st.integers(0, 5)) == 0:
        return draw(values)
    if isinstance(valid, list):
        i = draw(st.integers(0, len(valid) - 1))
        return [*valid[:i], draw(changed(valid[i], values)), *valid[i + 1 :]]
    key = draw(st.sampled_from(sorted(valid)))
    kind = draw(st.integers(0, 7))
    if kind == 0:
        return {name: value for name, value in valid.items() if name != key}
    if kind == 1:
        return {**valid, draw(NAMES): draw(values)}
    return {**valid, key: draw(changed(valid[key], values))}


def bytes_of(valid: bytes) -> st.SearchStrategy[bytes]:
    """`valid` cut, or with some bytes overwritten."""

    def spoil(edits: tuple[int, list[tuple[int, int]]]) -> bytes:
        end, overwritten = edits
        content = bytearray(valid)
        for position, byte in overwritten:
            content[position : position + 1] = bytes([byte])
        return bytes(content[:end])

    places = st.tuples(st.integers(0, max(0, len(valid) - 1)), st.integers(0, 255))
    ends = st.just(len(valid)) | st.integers(0, len(valid))
    return st.tuples(ends, st.lists(places, max_size=8)).map(spoil)


def files_like(valid: str, values: st.SearchStrategy[Any] = JSON) -> st.SearchStrategy[bytes]:
    """Contents of files that nearly are the valid one."""
    texts = changed(json.loads(valid), values).map(lambda fields: json.dumps(fields).encode())
    return texts | bytes_of(valid.encode()) | TEXTS
