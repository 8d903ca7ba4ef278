"""What a built module really costs, counted without this project's arithmetic."""

from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from search_spaces.architecture import Architecture
from search_spaces.cost import Cost
from search_spaces.network import Network


def count_module(module: nn.Module, in_channels: int, resolution: int) -> Cost:
    """Real parameters, fvcore's conv + linear count, and conv outputs seen by hooks."""
    module = module.eval()
    image = torch.zeros(1, in_channels, resolution, resolution)
    outputs: list[int] = []

    def record(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        outputs.append(output.numel())

    convs = [child for child in module.modules() if isinstance(child, nn.Conv2d)]
    hooks = [conv.register_forward_hook(record) for conv in convs]
    # One trace serves both counts.
    analysis = FlopCountAnalysis(module, image)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    operators = analysis.by_operator()
    for hook in hooks:
        hook.remove()
    params = sum(parameter.numel() for parameter in module.parameters())
    return Cost(params, int(operators["conv"] + operators["linear"]), sum(outputs))


def count_built(architecture: Architecture) -> Cost:
    """`count_module` of the architecture's own network at its resolution."""
    return count_module(Network(architecture), architecture.in_channels, architecture.resolution)
