"""Published networks as Architecture values, and how a name or a file becomes a network."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from search_spaces.architecture import Architecture, ArchitectureError, Stage, Stem
from search_spaces.builder import (
    REFERENCE,
    AnyNetwork,
    BuilderError,
    BuiltNetwork,
    base_of_builder,
    network_from_json,
)
from search_spaces.ops import Bottleneck, MBConv, Op, SeparableConv, Skip


def efficientnet_b0() -> Architecture:
    """EfficientNet-B0 (Tan & Le 2019, Table 1): 5.29 M parameters, 385.8 M MACs."""
    return Architecture(
        name="efficientnet-b0",
        resolution=224,
        num_classes=1000,
        stem=Stem(width=32),
        stages=_stages(
            (_mbconv(3, 1, se=0.25), 16, 1, 1),
            (_mbconv(3, 6, se=0.25), 24, 2, 2),
            (_mbconv(5, 6, se=0.25), 40, 2, 2),
            (_mbconv(3, 6, se=0.25), 80, 3, 2),
            (_mbconv(5, 6, se=0.25), 112, 3, 1),
            (_mbconv(5, 6, se=0.25), 192, 4, 2),
            (_mbconv(3, 6, se=0.25), 320, 1, 1),
        ),
        head_width=1280,
    )


def mnasnet_a1() -> Architecture:
    """MnasNet-A1 (Tan et al. 2019, Figure 7): 3.89 M parameters, 311.6 M MACs."""
    return Architecture(
        name="mnasnet-a1",
        resolution=224,
        num_classes=1000,
        stem=Stem(width=32),
        stages=_stages(
            (_mbconv(3, 1, skip="none"), 16, 1, 1),
            (_mbconv(3, 6), 24, 2, 2),
            (_mbconv(5, 3, se=0.25), 40, 3, 2),
            (_mbconv(3, 6), 80, 4, 2),
            (_mbconv(3, 6, se=0.25), 112, 2, 1),
            (_mbconv(5, 6, se=0.25), 160, 3, 2),
            (_mbconv(3, 6), 320, 1, 1),
        ),
        head_width=1280,
        activation="relu",
        drop_path=0.0,
    )


def mobilenet_v1() -> Architecture:
    """MobileNetV1 (Howard et al. 2017): 4.23 M parameters, 568.7 M MACs."""
    return Architecture(
        name="mobilenet-v1",
        resolution=224,
        num_classes=1000,
        stem=Stem(width=32),
        stages=_stages(
            (SeparableConv(), 64, 1, 1),
            (SeparableConv(), 128, 2, 2),
            (SeparableConv(), 256, 2, 2),
            (SeparableConv(), 512, 6, 2),
            (SeparableConv(), 1024, 2, 2),
        ),
        head_width=0,
        activation="relu6",
        drop_path=0.0,
        norm_eps=1e-5,
        norm_momentum=0.1,
    )


def mobilenet_v2() -> Architecture:
    """MobileNetV2 (Sandler et al. 2018, Table 2): 3.50 M parameters, 300.8 M MACs."""
    return Architecture(
        name="mobilenet-v2",
        resolution=224,
        num_classes=1000,
        stem=Stem(width=32),
        stages=_stages(
            (_mbconv(3, 1), 16, 1, 1),
            (_mbconv(3, 6), 24, 2, 2),
            (_mbconv(3, 6), 32, 3, 2),
            (_mbconv(3, 6), 64, 4, 2),
            (_mbconv(3, 6), 96, 3, 1),
            (_mbconv(3, 6), 160, 3, 2),
            (_mbconv(3, 6), 320, 1, 1),
        ),
        head_width=1280,
        activation="relu6",
        drop_path=0.0,
        norm_eps=1e-5,
        norm_momentum=0.1,
    )


def resnet50() -> Architecture:
    """ResNet-50 (He et al. 2015, Table 1): 25.56 M parameters, 4,089 M MACs."""
    return Architecture(
        name="resnet-50",
        resolution=224,
        num_classes=1000,
        stem=Stem(width=64, kernel=7, pool=True),
        stages=_stages(
            (Bottleneck(), 256, 3, 1),
            (Bottleneck(), 512, 4, 2),
            (Bottleneck(), 1024, 6, 2),
            (Bottleneck(), 2048, 3, 2),
        ),
        head_width=0,
        activation="relu",
        dropout=0.0,
        drop_path=0.0,
        norm_eps=1e-5,
        norm_momentum=0.1,
    )


ZOO: dict[str, Callable[[], Architecture]] = {
    "efficientnet-b0": efficientnet_b0,
    "mnasnet-a1": mnasnet_a1,
    "mobilenet-v1": mobilenet_v1,
    "mobilenet-v2": mobilenet_v2,
    "resnet-50": resnet50,
}


def load_architecture(name_or_file: str | Path) -> AnyNetwork:
    """The network that a flag names.

    Args:
        name_or_file: A zoo name; an architecture's JSON file, or a model's that holds one;
            ``my_module:build@64``, the user's own builder at factors of 1 and 64 px; or
            ``my_module:build@B1.json``, a file of its networks. Only the last two import the
            builder: a file alone never decides which code runs.

    Raises:
        ArchitectureError: None of these, or a file that cannot be read, or holds a network of a
            builder that was not named.
        BuilderError: The builder cannot be imported, or breaks a rule.
    """
    name = str(name_or_file)
    if name in ZOO:
        return ZOO[name]()
    if os.path.isfile(name):
        network = _read(Path(name))
        if isinstance(network, BuiltNetwork):
            raise ArchitectureError(
                f"{name} holds a network of the builder {network.reference}, which is imported and "
                f"run only if you name it: {file_argument(network, name)}."
            )
        return network
    if match := re.fullmatch(rf"({REFERENCE})(?:@(.+))?", name):
        return _built(*match.groups())
    raise ArchitectureError(
        f"{name!r} is neither a file nor a network of the zoo ({', '.join(ZOO)}) nor a builder "
        "such as my_module:build@64."
    )


def file_argument(architecture: AnyNetwork, file: str | Path) -> str:
    """What a flag takes for the network in `file`."""
    return (
        f"{architecture.reference}@{file}" if isinstance(architecture, BuiltNetwork) else str(file)
    )


def split_argument(name_or_file: str) -> tuple[str | None, str]:
    """The builder that a flag names, if any, and the rest: a zoo name, a file, or pixels."""
    match = re.fullmatch(rf"({REFERENCE})@(.+)", name_or_file)
    if match is None or os.path.isfile(name_or_file):
        return None, name_or_file
    return match[1], match[2]


def _built(reference: str, rest: str | None) -> BuiltNetwork:
    if rest is None:
        raise BuilderError(
            f"A builder needs the side of its images in px: {reference}@64. A file of one of its "
            f"networks stands in the same place: {reference}@B1.json."
        )
    if rest.isdecimal():
        return base_of_builder(reference, int(rest))
    if not os.path.isfile(rest):
        raise BuilderError(
            f"{rest!r} in {reference}@{rest} is neither a number of px nor a file. "
            "`python -m scaling_search.family` writes files of scaled networks, B1.json and so on, "
            f"into its --out; {reference}@64 is the network that it scales, at 64 px."
        )
    network = _read(Path(rest))
    if not isinstance(network, BuiltNetwork) or network.reference != reference:
        whose = network.reference if isinstance(network, BuiltNetwork) else "no builder"
        raise BuilderError(f"{rest} holds a network of {whose}, not of {reference}.")
    return network


def _read(path: Path) -> AnyNetwork:
    try:
        text = path.read_text(encoding="utf-8")
        fields = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ArchitectureError(f"{path} is not the JSON of an architecture: {error}.") from error
    if isinstance(fields, dict) and isinstance(fields.get("architecture"), dict):
        text = json.dumps(fields["architecture"])
    try:
        return network_from_json(text)
    except ArchitectureError as error:
        raise ArchitectureError(f"{path}: {error}") from error


def _mbconv(kernel: int, expansion: int, *, se: float = 0.0, skip: Skip = "identity") -> MBConv:
    return MBConv(kernel=kernel, expansion=expansion, se_ratio=se, skip=skip)


def _stages(*rows: tuple[Op, int, int, int]) -> tuple[Stage, ...]:
    """Stages from rows of (block, width, repeats, stride)."""
    return tuple(
        Stage(block=block, width=width, repeats=repeats, stride=stride)
        for block, width, repeats, stride in rows
    )
