"""A trained model on disk: weights in safetensors and the model.json that describes them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor

from nas.cli import format_number
from search_spaces.builder import AnyNetwork
from search_spaces.cost import count
from search_spaces.network import AnyModule, module_of
from search_spaces.weights import WeightsError, load_weights, read_weights
from search_spaces.zoo import ZOO, file_argument, load_architecture, split_argument

_MAX_EXCESS = 2
"""Parameters of a network that is built, over the numbers in its weights."""

CARD = "model.json"
"""Name of the file that describes a model, beside its weights and beside what is exported."""


class ModelError(ValueError):
    """A model.json, architecture and weights that do not belong together."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a pixel in [0, 1] becomes what the network was trained on."""

    mean: tuple[float, ...]
    """Subtracted, by channel."""
    std: tuple[Annotated[float, Field(gt=0)], ...]
    """Divided by, by channel."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """The fields of a model.json that are read here; it may have others."""

    classes: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    weights_sha256: str | None = None
    """Of the weights file, 64 hex digits."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network with its weights, and what is known of it."""

    network: AnyModule
    """In eval mode, on the CPU, in float32."""
    card: Card
    card_path: Path | None
    """The model.json that describes the weights, if there is one."""
    fields: dict[str, Any]
    """All that the model.json says."""
    weights_sha256: str

    @property
    def architecture(self) -> AnyNetwork:
        return self.network.architecture


def load_model(weights: Path, arch: str | None) -> Model:
    """The network that `arch`, or the model.json beside the weights, describes.

    A model.json beside the weights is used with an explicit `arch` too where its `weights_sha256`
    shows that it describes this very file.

    Raises:
        ModelError: No architecture is known, the weights do not fit the one that is named, or
            they are not the file that the model.json describes.
        ArchitectureError: The architecture cannot be read.
        WeightsError: The weights cannot be read.
    """
    state = read_weights(weights)
    digest = sha256(weights)
    architecture, card_path = _choose(weights, digest, arch)
    fields = read_json(card_path) if card_path else {}
    card = _read_card(fields, card_path, architecture)
    if card.weights_sha256 not in (None, digest):
        raise ModelError(
            f"{weights} has sha256 {digest[:12]}…, but {card_path} describes weights with "
            f"{card.weights_sha256[:12]}…: the file was damaged, or is another model's. "
            "Restore it, or name its own architecture with --arch."
        )
    try:
        _check_size(architecture, state)
        network = module_of(architecture)
        load_weights(network, state)
    except WeightsError as error:
        raise ModelError(
            f"{weights} does not fit {arch or card_path}. Name the architecture that the weights "
            f"were trained in, or none where their {CARD} lies beside them. In detail: {error}"
        ) from error
    return Model(
        network=network.eval(),
        card=card,
        card_path=card_path,
        fields=fields,
        weights_sha256=digest,
    )


def _check_size(architecture: AnyNetwork, state: Mapping[str, Tensor]) -> None:
    """Refuse a network that is far larger than its weights, before it takes memory.

    One that does not fit is built otherwise, to name the tensors that differ.
    """
    claimed, given = count(architecture).params, sum(map(torch.numel, state.values()))
    if claimed > _MAX_EXCESS * given:
        raise WeightsError(
            f"{architecture.name} has {format_number(claimed)} parameters, the file "
            f"{format_number(given)} numbers."
        )


def _read_card(fields: dict[str, Any], path: Path | None, architecture: AnyNetwork) -> Card:
    try:
        card = TypeAdapter(Card).validate_json(json.dumps(fields), strict=True)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()
        )
        raise ModelError(f"{path} is not valid: {problems}.") from error
    lengths: dict[str, tuple[Sequence[object] | None, int]] = {
        "classes": (card.classes, architecture.num_classes)
    }
    if card.preprocessing:
        lengths["preprocessing.mean"] = (card.preprocessing.mean, architecture.in_channels)
        lengths["preprocessing.std"] = (card.preprocessing.std, architecture.in_channels)
    for name, (values, length) in lengths.items():
        if values is not None and len(values) != length:
            raise ModelError(
                f"`{name}` has {len(values)} entries in {path}, but its architecture "
                f"needs {length}. Restore the file that training wrote."
            )
    return card


def _choose(weights: Path, digest: str, arch: str | None) -> tuple[AnyNetwork, Path | None]:
    """The architecture, and the model.json that describes the weights."""
    beside = weights.parent / CARD
    if arch is None:
        if not beside.is_file():
            raise ModelError(
                f"--arch must name the architecture of {weights}, because there is no {beside}."
            )
        return load_architecture(beside), beside
    architecture = load_architecture(arch)
    builder, rest = split_argument(arch)
    if not (rest in ZOO or rest.isdecimal()) and "architecture" in read_json(Path(rest)):
        return architecture, Path(rest)
    if not beside.is_file() or read_json(beside).get("weights_sha256") != digest:
        return architecture, None
    trained = load_architecture(f"{builder}@{beside}" if builder else beside)
    if trained.digest != architecture.digest:
        ours, theirs = json.loads(architecture.to_json()), json.loads(trained.to_json())
        fields = [f for f in ours if ours[f] != theirs[f] and f != "name"]
        remedy = f"Name {file_argument(trained, beside)}" if builder else "Leave --arch out"
        raise ModelError(
            f"{beside} says that the weights are those of {trained.name} ({trained.digest}), but "
            f"--arch {arch} ({architecture.digest}) differs in {', '.join(fields)}. {remedy}."
        )
    return architecture, beside


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty for JSON that is no object.

    Raises:
        ModelError: The file cannot be read, or is no JSON.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}.") from error
    return fields if isinstance(fields, dict) else {}


def sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
