"""The primitive layers of `search_spaces.layers` as PyTorch modules, and one step of the walk."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from search_spaces.architecture import Activation, Architecture, Unit
from search_spaces.faster import Convolution, Gated, Pooled
from search_spaces.layers import Classifier, Conv, Layer, Pool, SqueezeExcite
from search_spaces.ops import NamedLayers


class SiLU(nn.SiLU):
    """In place where no gradient is wanted: autograd would copy the input first."""

    def forward(self, input: Tensor) -> Tensor:
        return F.silu(input, inplace=not (self.training and torch.is_grad_enabled()))


class Hardswish(nn.Hardswish):
    """As `SiLU`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.hardswish(input, inplace=not (self.training and torch.is_grad_enabled()))


_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "silu": SiLU,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardswish": Hardswish,
}


class Block(nn.Module):
    """One step of the walk: ``act?(drop(branch(x)) + shortcut(x))``, or ``act?(branch(x))``."""

    def __init__(self, unit: Unit, architecture: Architecture) -> None:
        super().__init__()
        plan = unit.plan
        self.branch = _sequential(plan.branch, architecture)
        self.shortcut = None if plan.shortcut is None else _sequential(plan.shortcut, architecture)
        self.drop_path = StochasticDepth(unit.drop_path, "row") if unit.drop_path else nn.Identity()
        self.activation = _activation(architecture) if plan.activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C', H', W')``; the classifier to ``(N, num_classes)``."""
        y = self.branch(x)
        if self.shortcut is not None:
            y = self.drop_path(y) + self.shortcut(x)
        return self.activation(y)


class SqueezeExcitation(nn.Module):
    """Multiplies each channel by a gate in (0, 1) computed from the channels' means."""

    def __init__(self, layer: SqueezeExcite, activation: nn.Module) -> None:
        super().__init__()
        self.reduce = Convolution(layer.channels, layer.squeezed, 1)
        self.activation = activation
        self.expand = Convolution(layer.squeezed, layer.channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape ``(N, C, H, W)``."""
        scripted = torch.jit.is_scripting()  # pyright: ignore[reportPrivateImportUsage]
        ours = isinstance(x, Tensor) and not scripted  # nor a proxy of torch.fx
        if ours and self.training and torch.is_grad_enabled():
            return self._trained(x)
        return x * self._gate(x.mean((2, 3), keepdim=True))

    @torch.jit.unused
    def _trained(self, x: Tensor) -> Tensor:
        link: list[Tensor] = []
        return Gated.apply(x.detach(), self._gate(Pooled.apply(x, link)), link)

    def _gate(self, means: Tensor) -> Tensor:
        return self.expand(self.activation(self.reduce(means))).sigmoid()


class Pooling(nn.Module):
    """Pooling whose output has `out_channels`: the last ones are cut, or zeros are appended."""

    def __init__(self, layer: Pool) -> None:
        super().__init__()
        padding = (layer.kernel - 1) // 2
        if layer.kind == "max":
            self.pool = nn.MaxPool2d(layer.kernel, layer.stride, padding)
        else:
            # The border's mean is over the pixels that exist, as with TensorFlow's SAME padding.
            self.pool = nn.AvgPool2d(layer.kernel, layer.stride, padding, count_include_pad=False)
        self.kept = min(layer.in_channels, layer.out_channels)
        self.added = layer.out_channels - self.kept

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, ceil(H / s), ceil(W / s))``."""
        x = self.pool(x[:, : self.kept])
        return F.pad(x, (0, 0, 0, 0, 0, self.added)) if self.added else x


def _sequential(layers: NamedLayers, architecture: Architecture) -> nn.Sequential:
    return nn.Sequential(OrderedDict((name, _module(item, architecture)) for name, item in layers))


def _module(layer: Layer, architecture: Architecture) -> nn.Module:
    match layer:
        case Conv():
            return _conv(layer, architecture)
        case SqueezeExcite():
            return SqueezeExcitation(layer, _activation(architecture))
        case Pool():
            return Pooling(layer)
        case Classifier():
            return nn.Sequential(
                OrderedDict(
                    pool=nn.AdaptiveAvgPool2d(1),
                    flatten=nn.Flatten(),
                    dropout=nn.Dropout(architecture.dropout),
                    linear=nn.Linear(layer.in_channels, layer.num_classes),
                )
            )


def _conv(layer: Conv, architecture: Architecture) -> nn.Sequential:
    conv = Convolution(
        layer.in_channels,
        layer.out_channels,
        layer.kernel,
        layer.stride,
        padding=(layer.kernel - 1) // 2,
        groups=layer.groups,
        bias=False,
    )
    norm = nn.BatchNorm2d(
        layer.out_channels, eps=architecture.norm_eps, momentum=architecture.norm_momentum
    )
    modules = OrderedDict[str, nn.Module](conv=conv, norm=norm)
    if layer.activation:
        modules["activation"] = _activation(architecture)
    return nn.Sequential(modules)


def _activation(architecture: Architecture) -> nn.Module:
    return _ACTIVATIONS[architecture.activation](inplace=True)
