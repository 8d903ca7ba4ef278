"""The weights that all networks of a space share, and each network's own part of them.

A network is cut out by shape: of every tensor the first output and input channels, and the centre
of the kernel. What computes is `Network` itself, on these slices in place of weights of its own, so
a network of the supernet and the same network alone cannot disagree.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from nas.supernet.envelope import Envelope, SharedStage, kind_of
from nas.training.parts import build_network, initial_draws
from search_spaces.architecture import Architecture, Unit
from search_spaces.blocks import Block
from search_spaces.layers import Classifier, Conv
from search_spaces.network import Network, initialize
from search_spaces.ops import Plan


class Supernet(nn.Module):
    """Weights large enough for every network of an `Envelope`, freshly initialised from torch's
    global generator.

    Stage i, block j of kind k has its weights under ``stages.i.j.k``; stem, head and classifier
    have the names that they have in a `Network`. Batch norms share gamma and beta; their running
    statistics are each network's own and are estimated anew (`nas.training.score.estimate_norms`).
    """

    def __init__(self, envelope: Envelope) -> None:
        super().__init__()
        self.envelope = envelope
        blocks = {unit.name: Block(unit, envelope.like) for unit in _largest_units(envelope)}
        self.stem = blocks["stem"]
        self.stages = nn.ModuleList(
            nn.ModuleList(
                nn.ModuleDict({kind: blocks[f"stages.{i}.{j}.{kind}"] for kind in _kinds(stage)})
                for j in range(stage.repeats)
            )
            for i, stage in enumerate(envelope.stages)
        )
        self.head = blocks.get("head", nn.Identity())
        self.classifier = blocks["classifier"]
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean = module.running_var = module.num_batches_tracked = None
        initialize(self)
        self._by_name = dict(self.named_parameters())  # a step asks for them hundreds of times

    def weights(self, network: Network) -> dict[str, Tensor]:
        """The network's part of the weights, by its own names: views, through which gradients flow.

        Raises:
            SharingError: The envelope does not hold the network.
        """
        architecture = network.architecture
        self.envelope.check(architecture)
        kinds = [kind_of(stage.block) for stage in architecture.stages]
        return {
            name: cut(self._by_name[_shared_name(name, kinds)], own.shape)
            for name, own in network.named_parameters()
        }

    def compute(self, network: Network, images: Tensor) -> Tensor:
        """The logits ``(N, num_classes)`` of `network` with the shared weights in place of its own.

        Its batch norms' running statistics are moved, as usual, if it is in training mode.

        Args:
            network: From `Supernet.template`, or any `Network` of the envelope.
            images: Normalised, ``(N, in_channels, H, W)``.
        """
        return functional_call(network, self.weights(network), images)

    def template(self, architecture: Architecture, *, regularised: bool) -> Network:
        """A network for `compute`, whose own weights do not matter.

        Args:
            architecture: The network.
            regularised: Whether it has dropout and stochastic depth; without them a small network
                learns what it can hold (BigNAS, section 3.1).
        """
        if not regularised:
            architecture = replace(architecture, dropout=0.0, drop_path=0.0)
        with _Undrawn():
            network = build_network(architecture, seed=0)
        assert isinstance(network, Network)
        if (device := next(self.parameters()).device).type != "cpu":
            network.to_empty(device=device)  # sending weights that do not matter waits for a GPU
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.reset_running_stats()
        return network

    def extract(self, architecture: Architecture) -> Network:
        """The network alone, with a copy of its part of the weights, in eval mode.

        Its batch norms' running statistics are the initial ones: estimate them.

        Raises:
            SharingError: The envelope does not hold the network.
        """
        network = self.template(architecture, regularised=True)
        with torch.no_grad():
            weights = self.weights(network)
            for name, parameter in network.named_parameters():
                parameter.copy_(weights[name])
        return network.eval()

    @property
    def num_params(self) -> int:
        """Of all kinds together."""
        return sum(parameter.numel() for parameter in self.parameters())


class _Undrawn(TorchFunctionMode):
    """Leaves initial weights as memory has them: drawing them takes as long as all else."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def cut(tensor: Tensor, shape: torch.Size) -> Tensor:
    """The view of a tensor that has `shape`: first channels, centre of the kernel."""
    for dim, (whole, part) in enumerate(zip(tensor.shape, shape, strict=True)):
        if whole != part:
            start = 0 if dim < 2 else (whole - part) // 2
            tensor = tensor.narrow(dim, start, part)
    return tensor


def supernet(envelope: Envelope, seed: int) -> Supernet:
    """A freshly initialised supernet; torch's global generator stays as it was."""
    with initial_draws(seed):
        return Supernet(envelope)


def _shared_name(name: str, kinds: list[str]) -> str:
    """Where the supernet has the weight that a network calls `name`."""
    if not name.startswith("stages."):
        return name
    stages, i, j, rest = name.split(".", 3)
    return f"{stages}.{i}.{j}.{kinds[int(i)]}.{rest}"


def _largest_units(envelope: Envelope) -> Iterator[Unit]:
    """What the supernet is built of; sizes and shortcuts have no weights and do not matter."""
    like = envelope.like
    stem = Conv(like.in_channels, envelope.stem_width, envelope.stem_kernel)
    yield Unit("stem", Plan((("conv", stem),), None), 1)
    channels = envelope.stem_width
    for i, stage in enumerate(envelope.stages):
        for j in range(stage.repeats):
            for kind in _kinds(stage):
                plan = stage.largest(kind).plan(channels, stage.width, 1)
                yield Unit(f"stages.{i}.{j}.{kind}", plan._replace(shortcut=None), 1)
            channels = stage.width
    if envelope.head_width:
        yield Unit("head", Plan((("conv", Conv(channels, envelope.head_width)),), None), 1)
        channels = envelope.head_width
    yield Unit("classifier", Plan((("fc", Classifier(channels, like.num_classes)),), None), 1)


def _kinds(stage: SharedStage) -> list[str]:
    return sorted(stage.kinds)
