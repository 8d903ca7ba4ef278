"""The checkpoint of a training, which survives kill -9.

A checkpoint holds tensors and plain types and is read with ``weights_only=True``. It is written
whole or not at all; the one before is kept, and stands in where the newest is damaged.
"""

import hashlib
import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from search_spaces.files import atomic_write

NAME = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"

_DIGEST_BYTES = hashlib.sha256().digest_size


class CheckpointError(ValueError):
    """Checkpoints that cannot be gone on from."""


class Loaded(NamedTuple):
    """What a folder holds."""

    state: dict[str, Any] | None
    """The newest whole checkpoint; None if there was never one."""
    damaged: tuple[str, ...]
    """Names of newer files that could not be read."""


def save(folder: Path, state: Mapping[str, Any]) -> None:
    """Write `state`, tensors and plain types, as the folder's newest checkpoint."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    # torch.load compares no checksums, and passes over bytes after the end.
    buffer.write(hashlib.sha256(buffer.getvalue()).digest())
    if (folder / NAME).exists():
        (folder / NAME).replace(folder / PREVIOUS)
    atomic_write(folder / NAME, buffer.getvalue())


def load(folder: Path, flag: str = "--out") -> Loaded:
    """Read the newest checkpoint that is whole, onto the CPU; no lock is needed.

    Args:
        folder: Of the training.
        flag: What names another folder, for messages.

    Raises:
        CheckpointError: There are checkpoints, but none is whole, or one holds code.
    """
    damaged = []
    for name in (NAME, PREVIOUS):
        try:  # a training at work may be renaming it
            content = (folder / name).read_bytes()
        except FileNotFoundError:
            continue
        body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
        if hashlib.sha256(body).digest() == digest:
            try:
                state = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                raise CheckpointError(
                    f"{folder / name} holds more than tensors and plain types, so it was not "
                    f"written here and is not loaded. Delete it, or choose another {flag}."
                ) from error
            return Loaded(state, tuple(damaged))
        damaged.append(name)
    if damaged:
        raise CheckpointError(
            f"{folder} holds no whole checkpoint ({', '.join(damaged)} cannot be read). "
            f"Delete them to start again, or choose another {flag}."
        )
    return Loaded(None, ())


def resume(
    folder: Path,
    what: object,
    epochs: int,
    *,
    refuse: Callable[[Mapping[str, Any]], None],
    announce: Callable[[str], None],
    flag: str = "--out",
) -> dict[str, Any] | None:
    """The state that a training goes on from, said to the user; None at its first start.

    Args:
        folder: Of the training.
        what: Names the training to the user.
        epochs: Of the whole training.
        refuse: Raises if the training is not the one of these ``conditions``.
        announce: Is called with each line for the user.
        flag: As for `load`.

    Raises:
        CheckpointError: As `load`.
    """
    loaded = load(folder, flag)
    for name in loaded.damaged:
        announce(f"WARNING {folder / name} is damaged and was not used")
    if loaded.state is not None:
        refuse(loaded.state["conditions"])
        epoch = loaded.state["trainer"]["epoch"]
        announce(f"resume  {what} after epoch {epoch} of {epochs}")
    return loaded.state
