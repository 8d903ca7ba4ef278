"""From an Architecture to a PyTorch module, by the same walk as the cost.

A `BuiltNetwork` becomes the module that the user's builder makes.
"""

import math

from torch import Tensor, nn

from search_spaces.architecture import Architecture, units
from search_spaces.blocks import Block
from search_spaces.builder import AnyNetwork, BuiltNetwork
from search_spaces.building import BuiltModule


class Network(nn.Module):
    """The network that an `Architecture` describes, freshly initialised.

    Submodules have the walk's names, so ``stages.2.0.branch.expand.conv.weight`` is the kernel of
    layer ``branch.expand`` of unit ``stages.2.0``. Padding is symmetric, (kernel - 1) / 2 pixels;
    weights trained with TensorFlow's SAME padding do not fit. Initial weights come from torch's
    global generator: call `torch.manual_seed` first.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        blocks = {unit.name: Block(unit, architecture) for unit in units(architecture)}
        self.stem = blocks.pop("stem")
        self.stages = nn.Sequential(
            *(
                nn.Sequential(*(blocks.pop(f"stages.{i}.{j}") for j in range(stage.repeats)))
                for i, stage in enumerate(architecture.stages)
            )
        )
        self.head = blocks.pop("head", nn.Identity())
        self.classifier = blocks.pop("classifier")
        assert not blocks, f"units without a place in the module: {list(blocks)}"
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images ``(N, in_channels, H, W)`` to logits ``(N, num_classes)``.

        H and W are the architecture's `resolution`; other sizes run, at another cost.
        """
        return self.classifier(self.head(self.stages(self.stem(images))))


AnyModule = Network | BuiltModule
"""A module that knows its `architecture`."""


def module_of(architecture: AnyNetwork) -> AnyModule:
    """The module of a network, freshly initialised from torch's global generator.

    Raises:
        BuilderError: A user's builder cannot be had, or breaks a rule.
    """
    if isinstance(architecture, BuiltNetwork):
        return BuiltModule(architecture)
    return Network(architecture)


def initialize(network: nn.Module) -> None:
    """Draw EfficientNet's initial weights, in place, from torch's global generator.

    Convolutions: N(0, 2 / fan_out) with fan_out = kernel^2 * out_channels / groups, so a depthwise
    3x3 kernel has a standard deviation of 0.471 (`nn.init.kaiming_normal_` ignores groups). Fully
    connected: U(-b, b), b = 1 / sqrt(num_classes). Biases 0. Batch norm: gamma 1, beta 0.
    Source: tensorflow/tpu, `efficientnet_model.py` (`conv_kernel_initializer`).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.out_features)
            nn.init.uniform_(module.weight, -bound, bound)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
