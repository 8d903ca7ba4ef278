"""Weights into a Network: its own, or an EfficientNet's in timm's or torchvision's naming.

The names of the others are derived from the walk. They exist for networks of MBConv blocks with a
head, which is what timm and torchvision build under these names.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from search_spaces.architecture import Unit, units
from search_spaces.builder import AnyNetwork, BuiltNetwork
from search_spaces.building import BuiltModule
from search_spaces.files import atomic_write
from search_spaces.layers import Classifier, Conv, SqueezeExcite
from search_spaces.network import AnyModule
from search_spaces.ops import MBConv

Naming = Literal["own", "timm", "torchvision"]

_FIRST: dict[str, Naming] = {
    "stem.branch.": "own",
    "conv_stem.": "timm",
    "features.": "torchvision",
}
"""How names begin that occur in one naming only."""
_CLASSIFIER = "classifier."
"""How a classifier's names begin, in every naming."""


class WeightsError(ValueError):
    """Weights that do not belong to the network, or a file that holds none."""


def load_weights(
    network: AnyModule, state: Mapping[str, Tensor], *, reset_classifier: bool = False
) -> Naming:
    """Copy all of `state` into `network`, in place, or raise and change nothing.

    Batch norm's epsilon is no weight: timm's `efficientnet_...` and torchvision's B0-B4 use 1e-5,
    so build the network from ``dataclasses.replace(architecture, norm_eps=1e-5)`` for theirs.

    Args:
        network: Receives the weights; it keeps its device and dtype.
        state: Tensors by name, in this library's, timm's or torchvision's naming; those of a
            user's builder have the names that its own module gives them.
        reset_classifier: Leave the network's classifier as it is and ignore that of `state`, for
            transfer to other classes.

    Returns:
        The naming that `state` has.

    Raises:
        WeightsError: A name is missing or unexpected, or a shape differs.
    """
    naming = "own" if isinstance(network, BuiltModule) else _naming(state)
    wanted = _named(network).state_dict()
    names = _names(network.architecture, naming, wanted)
    given = dict(state)
    if reset_classifier:
        names = {theirs: own for theirs, own in names.items() if not own.startswith(_CLASSIFIER)}
        given = {name: t for name, t in given.items() if not name.startswith(_CLASSIFIER)}
    _check(network.architecture, naming, names, wanted, given)
    _named(network).load_state_dict({**wanted, **{names[name]: given[name] for name in given}})
    return naming


def weights_bytes(network: AnyModule) -> bytes:
    """The network's weights as the content of a safetensors file."""
    # Cloned, since the format refuses tensors that share memory, as tied weights do.
    state = {name: t.contiguous().clone() for name, t in _named(network).state_dict().items()}
    return safetensors.torch.save(state)


def save_weights(network: AnyModule, path: Path) -> None:
    """Write the network's weights to a safetensors file, whole or not at all."""
    atomic_write(path, weights_bytes(network))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a safetensors file.

    Raises:
        WeightsError: There is no such file, it cannot be read, or it is not in the safetensors
            format.
    """
    if not path.is_file():
        raise WeightsError(f"There is no weights file {path}.")
    try:
        return safetensors.torch.load_file(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}.") from error
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is not a whole safetensors file ({error}). Weights are read from safetensors "
            "only, because a pickle can run code: convert others with "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW_FILE)."
        ) from error


def _named(network: AnyModule) -> nn.Module:
    """The module whose names the weights have."""
    return network.module if isinstance(network, BuiltModule) else network


def _naming(state: Mapping[str, Tensor]) -> Naming:
    for first, naming in _FIRST.items():
        if any(name.startswith(first) for name in state):
            return naming
    raise WeightsError(
        f"The weights' names ({_some(state)}) are neither ours nor those of an EfficientNet of "
        "timm or torchvision. Pass the state dict itself, not a checkpoint that holds one."
    )


def _names(
    architecture: AnyNetwork, naming: Naming, wanted: Mapping[str, Tensor]
) -> dict[str, str]:
    """Our name of every tensor, by its name in `naming`."""
    if naming == "own" or isinstance(architecture, BuiltNetwork):
        return {name: name for name in wanted}
    stages = architecture.stages
    if not (architecture.head_width and all(isinstance(s.block, MBConv) for s in stages)):
        raise WeightsError(
            f"The weights have {naming}'s EfficientNet names, which fit MBConv stages and a head; "
            f"{architecture.name} has other layers. Load weights that this library has written."
        )
    block_modules = _timm_block if naming == "timm" else _torchvision_block
    modules: dict[str, str] = {}
    for unit in units(architecture):
        if unit.name.startswith("stages."):
            theirs = block_modules(unit)
        else:
            theirs = _ends(naming, len(stages))[unit.name]
        modules.update(zip(_own_modules(unit), theirs, strict=True))
    split = ((name, *name.rsplit(".", 1)) for name in wanted)
    return {f"{modules[module]}.{tensor}": name for name, module, tensor in split}


def _own_modules(unit: Unit) -> Iterator[str]:
    """Paths of the unit's modules with weights, in the walk's order."""
    for name, layer, _ in unit.layers:
        match layer:
            case Conv():
                ends = ("conv", "norm")
            case SqueezeExcite():
                ends = ("reduce", "expand")
            case Classifier():
                ends = ("linear",)
            case _:
                ends = ()
        yield from (f"{unit.name}.{name}.{end}" for end in ends)


def _ends(naming: Naming, num_stages: int) -> dict[str, tuple[str, ...]]:
    """Their modules before and after the stages."""
    if naming == "timm":
        return {
            "stem": ("conv_stem", "bn1"),
            "head": ("conv_head", "bn2"),
            "classifier": ("classifier",),
        }
    last = num_stages + 1
    return {
        "stem": ("features.0.0", "features.0.1"),
        "head": (f"features.{last}.0", f"features.{last}.1"),
        "classifier": ("classifier.1",),
    }


def _timm_block(unit: Unit) -> Iterator[str]:
    path = unit.name.replace("stages", "blocks")
    num_convs = sum(isinstance(layer, Conv) for _, layer in unit.plan.branch)
    convs = iter(("conv_dw", "conv_pw") if num_convs == 2 else ("conv_pw", "conv_dw", "conv_pwl"))
    norms = iter(("bn1", "bn2", "bn3"))
    for _, layer in unit.plan.branch:
        if isinstance(layer, Conv):
            yield from (f"{path}.{next(convs)}", f"{path}.{next(norms)}")
        else:
            yield from (f"{path}.se.conv_reduce", f"{path}.se.conv_expand")


def _torchvision_block(unit: Unit) -> Iterator[str]:
    _, stage, repeat = unit.name.split(".")
    for i, (_, layer) in enumerate(unit.plan.branch):
        ends = ("0", "1") if isinstance(layer, Conv) else ("fc1", "fc2")
        yield from (f"features.{int(stage) + 1}.{repeat}.block.{i}.{end}" for end in ends)


def _check(
    architecture: AnyNetwork,
    naming: Naming,
    names: Mapping[str, str],
    wanted: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
) -> None:
    problems = []
    if missing := [name for name in names if name not in given]:
        problems.append(f"missing {_some(missing)}")
    if unexpected := [name for name in given if name not in names]:
        problems.append(f"unexpected {_some(unexpected)}")
    different = [
        name
        for name, own in names.items()
        if name in given and given[name].shape != wanted[own].shape
    ]
    if different:
        shapes = [
            f"{name} {tuple(given[name].shape)} instead of {tuple(wanted[names[name]].shape)}"
            for name in different
        ]
        problems.append(f"of another shape {_some(shapes)}")
    if not problems:
        return
    built = isinstance(architecture, BuiltNetwork)
    only_shapes = not (built or missing or unexpected) and given[different[0]].ndim
    if only_shapes and all(name.startswith(_CLASSIFIER) for name in different):
        raise WeightsError(
            f"The weights tell {len(given[different[0]])} classes apart, {architecture.name} "
            f"{architecture.num_classes}. Load them with `reset_classifier=True` to keep all but "
            "the classifier, or into a network with their number of classes."
        )
    raise WeightsError(
        f"The weights ({naming} naming) are not those of {architecture.name}: "
        f"{'; '.join(problems)}. Load them into the architecture that they were trained in."
    )


def _some(names: Mapping[str, Tensor] | list[str], most: int = 3) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return (", ".join(listed[:most]) or "none") + more
