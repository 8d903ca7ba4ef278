"""How a network is trained: every number of the loop, as one frozen value.

The paper's recipe (Tan & Le 2019; tensorflow/tpu): RMSProp in TensorFlow's variant, 350 epochs,
warm-up over 5, a staircase of x0.97 every 2.4 epochs, EMA .9999, weight decay 1e-5, label smoothing
.1, crops of 8-100 % of the image, AutoAugment later. Kept here: warm-up, label smoothing, EMA with
its warm form, the rate in proportion to the batch, dropout and stochastic depth (the architecture's
own fields), the ImageNet mean and std. Ours: SGD with Nesterov momentum, because PyTorch's RMSprop
is not TensorFlow's and turns unstable with these numbers; a cosine to zero, which needs no 350
epochs; no weight decay on biases; gentler crops; TrivialAugment, which has nothing to tune.
"""

import math
from dataclasses import dataclass
from typing import Literal, Self

Augment = Literal["none", "flip-crop", "resized-crop", "trivial", "randaugment"]
Optimizer = Literal["sgd", "adamw"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
MemoryFormat = Literal["channels-last", "contiguous"]

BATCH_OF_RATE = 256
"""Images in the batch that `Recipe.learning_rate` is given for, as in the released code."""


class RecipeError(ValueError):
    """A recipe that breaks a rule."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that training depends on, but for network, images, seed and device."""

    epochs: int
    """Passes over the images."""
    batch_size: int = 128
    """Images a step at most; see `min_steps`."""
    min_steps: int = 20
    """Steps an epoch at least: data too small for them get smaller batches (never below 8)."""
    learning_rate: float = 0.4
    """Peak rate for 256 images a batch; the rate used is in proportion to the batch."""
    optimizer: Optimizer = "sgd"
    """`sgd`: Nesterov momentum. `adamw`: decoupled decay; wants rates near 0.002."""
    momentum: float = 0.9
    """Of SGD; AdamW's beta1."""
    weight_decay: float = 5e-5
    """On convolution and classifier weights; never on batch norms and biases."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up from 0, step by step; a cosine to 0 follows."""
    label_smoothing: float = 0.1
    """Share of the target spread over all classes; the paper's .1."""
    ema_decay: float | None = 0.0
    """Decay of the moving average of the weights; 0: none, None: from the number of steps."""
    augment: Augment = "flip-crop"
    """`flip-crop`: shifts by up to 1/8, whole batches at once, fast. The others draw a resized crop
    for each image: alone, with TrivialAugmentWide, or with RandAugment (N = 2, torchvision's)."""
    flip: bool = True
    """Whether images may be mirrored; wrong for digits, text and X-rays with text."""
    balanced: bool = False
    """Whether an epoch has as many images of each class, those of rare ones several times."""
    erasing: float = 0.0
    """Probability of erasing a rectangle; only where each image has its own crop."""
    min_crop_area: float = 0.25
    """Least share of the image in a resized crop; the paper's .08 suits its 350 epochs."""
    precision: Precision = "auto"
    """`auto`: fp32 on CPU (bf16 autocast trains slower there); on CUDA bf16, or fp16 where the GPU
    only emulates that (before Ampere). On CUDA fp32 is PyTorch's, with TF32 in convolutions."""
    memory_format: MemoryFormat = "channels-last"
    """Of network and images in training; evaluation is channels-last always."""

    def __post_init__(self) -> None:
        checks = {
            "epochs >= 1": self.epochs >= 1,
            "batch_size >= 2 (batch norm needs two images)": self.batch_size >= 2,
            "min_steps >= 1": self.min_steps >= 1,
            "learning_rate > 0": 0 < self.learning_rate < math.inf,
            "0 <= momentum < 1": 0 <= self.momentum < 1,
            "weight_decay >= 0": 0 <= self.weight_decay < math.inf,
            "0 <= warmup_epochs <= epochs": 0 <= self.warmup_epochs <= self.epochs,
            "0 <= label_smoothing < 1": 0 <= self.label_smoothing < 1,
            "0 <= ema_decay < 1": self.ema_decay is None or 0 <= self.ema_decay < 1,
            "0 <= erasing <= 1": 0 <= self.erasing <= 1,
            "0 < min_crop_area <= 1": 0 < self.min_crop_area <= 1,
        }
        broken = [rule for rule, holds in checks.items() if not holds]
        if broken:
            raise RecipeError(f"`{broken[0]}` must hold, but got {self}.")
        if self.erasing and not self.crops:
            raise RecipeError(
                f"`erasing` needs augment resized-crop, trivial or randaugment; got {self}."
            )

    @property
    def crops(self) -> bool:
        """Whether every image has a resized crop of its own."""
        return self.augment not in ("none", "flip-crop")

    def stored_pixels(self, resolution: int) -> int:
        """Side in px of images whose smallest crop has about `resolution`, so that none is enlarged
        much; twice the resolution at most, which is four times the bytes."""
        if not self.crops:
            return resolution
        return min(2 * resolution, math.ceil(resolution / math.sqrt(self.min_crop_area)))

    @classmethod
    def proxy(
        cls,
        epochs: int,
        *,
        batch_size: int = 128,
        learning_rate: float = 0.4,
        flip: bool = True,
        balanced: bool = False,
    ) -> Self:
        """The short, fast recipe that ranks candidates; ours, since no paper gives its own.

        Shifts and flips only, no EMA: over a few hundred steps a cosine to zero averages enough.
        """
        return cls(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            warmup_epochs=min(1.0, 0.2 * epochs),
            flip=flip,
            balanced=balanced,
        )

    @classmethod
    def full(
        cls,
        epochs: int,
        *,
        batch_size: int | None = None,
        learning_rate: float = 0.4,
        augment: Augment = "trivial",
        flip: bool = True,
        erasing: float = 0.0,
        ema_decay: float | None = None,
    ) -> Self:
        """The recipe of `nas.train`: EMA, strong augmentation, up to the paper's 5 warm-up epochs.

        Args:
            epochs: Passes over the images.
            batch_size: Exactly this many images a step; None: 128, fewer on small data.
            learning_rate: Peak rate for 256 images.
            augment: See `Recipe.augment`.
            flip: Whether images may be mirrored.
            erasing: Probability of erasing a rectangle.
            ema_decay: None: from the number of steps; 0: no average.
        """
        return cls(
            epochs=epochs,
            batch_size=batch_size or 128,
            min_steps=1 if batch_size else 20,
            learning_rate=learning_rate,
            warmup_epochs=min(5.0, 0.1 * epochs),
            ema_decay=ema_decay,
            augment=augment,
            flip=flip,
            erasing=erasing,
        )

    def batch(self, num_images: int) -> int:
        """Images a step on data of `num_images`; at least 2, never more than there are."""
        most = max(8, num_images // self.min_steps)
        return max(2, min(self.batch_size, most, num_images))

    def steps(self, num_images: int) -> int:
        """Steps an epoch. The last, incomplete batch is left out; which images it would hold
        changes from epoch to epoch."""
        return max(1, num_images // self.batch(num_images))

    def peak_rate(self, num_images: int) -> float:
        """`learning_rate` for the batch that data of `num_images` get."""
        return self.learning_rate * self.batch(num_images) / BATCH_OF_RATE

    def rate(self, step: int, num_images: int) -> float:
        """Learning rate of step 0, 1, …: linear warm-up, then half a cosine down to 0."""
        peak, steps = self.peak_rate(num_images), self.steps(num_images)
        warmup, total = round(self.warmup_epochs * steps), self.epochs * steps
        if step < warmup:
            return peak * (step + 1) / warmup
        return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    def average_decay(self, num_images: int) -> float:
        """EMA decay before its warm form; 0: no average.

        The paper's .9999 averages over 10,000 steps, about 1/20 of its training; so does
        1 - 20 / steps, never above .9999.
        """
        if self.ema_decay is not None:
            return self.ema_decay
        return min(0.9999, max(0.0, 1 - 20 / (self.epochs * self.steps(num_images))))
