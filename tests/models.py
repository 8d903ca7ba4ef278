"""Small models on disk, as training or a user leaves them, shared by the tests."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from search_spaces.architecture import Architecture, Stage, Stem
from search_spaces.network import Network
from search_spaces.ops import Bottleneck, MBConv, Op, PlainConv, SeparableConv
from search_spaces.weights import save_weights

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
CLASSES = ["ant", "bee", "cat", "=dog", "émeu"]


def _stage(block: Op, width: int, repeats: int, stride: int) -> Stage:
    return Stage(block=block, width=width, repeats=repeats, stride=stride)


EVERY_OP = Architecture(
    name="every-op",
    resolution=32,
    num_classes=len(CLASSES),
    stem=Stem(width=8, pool=True),
    stages=(
        _stage(MBConv(expansion=1, se_ratio=0.25, skip="none"), 8, 1, 1),
        _stage(MBConv(expansion=3, kernel=5, se_ratio=0.25), 12, 2, 2),
        _stage(MBConv(expansion=6, skip="pool"), 16, 2, 2),
        _stage(PlainConv(skip="pool", se_ratio=0.5), 12, 2, 1),
        _stage(SeparableConv(kernel=5, skip="identity"), 12, 2, 1),
        _stage(Bottleneck(), 16, 2, 2),
    ),
    head_width=24,
)
SMALL = replace(EVERY_OP, name="small", stages=EVERY_OP.stages[:1], resolution=16)


def network(architecture: Architecture) -> Network:
    """With batch statistics unlike the initial ones, so that a graph without them shows."""
    torch.manual_seed(3)
    built = Network(architecture)
    with torch.no_grad():
        for module in built.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
    return built.eval()


def trained(folder: Path, architecture: Architecture, **changes: Any) -> Path:
    """The weights of a folder such as `nas.train` writes."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "model.safetensors"
    save_weights(network(architecture), weights)
    fields = {
        "schema": 1,
        "architecture": json.loads(architecture.to_json()),
        "classes": CLASSES,
        "preprocessing": {"resolution": architecture.resolution, "mean": MEAN, "std": STD},
        "metrics": {"test_accuracy": 0.5, "loss": float("nan")},
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        **changes,
    }
    (folder / "model.json").write_text(json.dumps(fields))
    return weights


def bare(folder: Path, architecture: Architecture) -> tuple[Path, Path]:
    """Weights and an architecture's file, without a model.json."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(network(architecture), folder / "model.safetensors")
    (folder / "arch.json").write_text(architecture.to_json())
    return folder / "model.safetensors", folder / "arch.json"


def tiny(resolution: int = 8, num_classes: int = 10) -> Architecture:
    """Learns three digits in seconds."""
    block = MBConv(kernel=3, expansion=4, se_ratio=0.25)
    return Architecture(
        name="tiny",
        resolution=resolution,
        num_classes=num_classes,
        stem=Stem(width=16, stride=1),
        stages=(
            Stage(block=block, width=16, repeats=1, stride=1),
            Stage(block=block, width=24, repeats=2, stride=2),
        ),
        head_width=64,
    )


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether both have the same state, to the bit."""
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)
