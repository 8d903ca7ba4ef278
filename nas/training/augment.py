"""Images between storage and network: resized once, batched, augmented, normalised.

Every draw comes from a seed that the caller passes, and depends on seed, epoch and image alone: a
resumed training sees the same images, with any number of loader processes. Images stay uint8
until `normalise`.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torchvision.transforms import v2

from nas.data.dataset import Split
from nas.data.stratify import even_order
from nas.training.recipe import Recipe

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's, for values in [0, 1]; what published weights expect. A batch norm follows the first
convolution, so other data lose nothing by them."""

_CHUNK = 1024
_EXIT_SECONDS = 10.0
"""How long a killed process may take to be gone; a large one's memory is given back first."""
_SHARE = 0.05
"""Of a GPU's free memory that a training's images may take: little enough for what a network's
counted memory leaves to spare."""


def derive_seed(*entropy: int) -> int:
    """A seed of 32 bits that any change of the given non-negative numbers changes."""
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`; a GPU's work that is under way is not waited for."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def at_resolution(split: Split, resolution: int) -> Split:
    """The split with square images of `resolution` pixels; the same object if it has them already.

    Bicubic with antialiasing, once for the whole split, so that epochs pay nothing for it.
    """
    if split.images.shape[2:] == (resolution, resolution):
        return split
    resized = np.empty((*split.images.shape[:2], resolution, resolution), np.uint8)
    for start in range(0, len(split), _CHUNK):
        part = slice(start, start + _CHUNK)
        resized[part] = v2.functional.resize(
            torch.from_numpy(split.images[part].copy()),
            [resolution, resolution],
            interpolation=v2.InterpolationMode.BICUBIC,
            antialias=True,
        ).numpy()
    return replace(split, images=resized)


def normalise(
    images: Tensor,
    device: torch.device,
    mean: tuple[float, ...] = MEAN,
    std: tuple[float, ...] = STD,
    *,
    memory_format: torch.memory_format = torch.channels_last,
) -> Tensor:
    """Map uint8 ``(N, 3, H, W)`` to (x / 255 - mean) / std, fp32, on `device`."""
    # One multiplication and one addition: (x / 255 - mean) / std = x * scale + shift.
    scale = sent(torch.tensor([1 / (255 * s) for s in std]), device)[:, None, None]
    shift = sent(torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]), device)
    pixels = sent(images, device).to(torch.float32)
    # Plane by plane, then laid out: over interleaved channels a CPU takes three times as long.
    pixels = pixels.mul_(scale).add_(shift[:, None, None])
    return pixels.contiguous(memory_format=memory_format)


def shift_and_flip(images: Tensor, *, flip: bool, generator: torch.Generator) -> Tensor:
    """Shift every image by its own whole number of pixels, up to 1/8, and mirror half of them.

    The border is reflected. torchvision's v2 transforms draw one crop for a whole batch, and image
    by image they cost as much as a small network's step; hence this one.

    Args:
        images: ``(N, C, S, S)`` of any dtype, on any device.
        flip: Whether to mirror at all.
        generator: On the CPU.
    """
    (count, channels, side, _), device = images.shape, images.device
    reach = max(1, side // 8) if side > 1 else 0
    offsets = sent(torch.randint(-reach, reach + 1, (2, count, 1), generator=generator), device)
    pixels = torch.arange(side, device=device)
    last = side - 1
    # Reflection without repeating the border: -1 -> 1, side -> side - 2.
    rows, columns = last - (last - (pixels + offsets).abs()).abs()
    if flip:
        mirrored = sent(torch.rand(count, 1, generator=generator) < 0.5, device)
        columns = torch.where(mirrored, columns.flip(1), columns)
    # One gather in the flattened plane: eight times as fast as indexing with four tensors.
    places = (rows[:, :, None] * side + columns[:, None, :]).reshape(count, 1, -1)
    planes = images.reshape(count, channels, -1)
    moved = planes.gather(2, places.expand(-1, channels, -1))
    return moved.view(images.shape)


def per_image(recipe: Recipe, resolution: int) -> v2.Transform:
    """The torchvision transforms of one uint8 image ``(C, H, W)``."""
    steps: list[torch.nn.Module] = [
        v2.RandomResizedCrop(
            resolution,
            scale=(recipe.min_crop_area, 1.0),
            interpolation=v2.InterpolationMode.BICUBIC,
            antialias=True,
        )
    ]
    if recipe.flip:
        steps.append(v2.RandomHorizontalFlip())
    if recipe.augment == "trivial":
        steps.append(v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR))
    elif recipe.augment == "randaugment":
        steps.append(v2.RandAugment(interpolation=v2.InterpolationMode.BILINEAR))
    if recipe.erasing:
        steps.append(v2.RandomErasing(recipe.erasing))
    return v2.Compose(steps)


class Batches:
    """Augmented uint8 training batches, in an order of their own for every epoch."""

    def __init__(
        self,
        split: Split,
        recipe: Recipe,
        *,
        resolution: int,
        seed: int,
        device: torch.device,
        workers: int = 0,
    ) -> None:
        """Take the images to train on.

        Args:
            split: They have `resolution` already, unless the recipe crops each.
            recipe: Says how they are batched and augmented.
            resolution: Side of the batches' images, in pixels.
            seed: Together with the epoch, all that the draws depend on.
            device: Where batches come to; whole ones are augmented there.
            workers: Processes that augment where each image has its own transforms; 0: none.
        """
        self._split, self._recipe, self._seed, self._device = split, recipe, seed, device
        self._batch, self._steps = recipe.batch(len(split)), recipe.steps(len(split))
        self._stored: tuple[Tensor, Tensor] | None = None
        self._loader: DataLoader[tuple[Tensor, Tensor]] | None = None
        self._plan: list[list[tuple[int, int, int]]] = []
        if recipe.crops:
            self._loader = DataLoader(
                _Augmented(split, per_image(recipe, resolution), seed),
                batch_sampler=self._plan,
                collate_fn=_shared,
                num_workers=workers,
                persistent_workers=workers > 0,
                pin_memory=device.type == "cuda" and workers > 0,
                generator=torch.Generator(),  # or it would draw from the global one
            )
        elif device.type == "cuda":
            self._stored = _stored(split, device)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield pairs of images ``(B, C, R, R)``, uint8, and labels ``(B,)``, int64, on the
        device."""
        rng = np.random.default_rng([self._seed, epoch])
        if self._recipe.balanced:
            order = even_order(self._split.labels, rng)
        else:
            order = rng.permutation(len(self._split))
        order = order[: self._steps * self._batch]
        if self._loader is None:
            batches = order.reshape(self._steps, self._batch)
            yield from self._whole_batches(batches, derive_seed(self._seed, epoch))
        else:
            again = pd.Series(order).groupby(order).cumcount()
            keys = np.stack([np.full(len(order), epoch), order, again], axis=1)
            batches = keys.reshape(self._steps, self._batch, 3)
            self._plan[:] = [[(e, i, k) for e, i, k in batch] for batch in batches.tolist()]
            for images, labels in _read(self._loader):
                yield sent(images, self._device), sent(labels, self._device)

    def _whole_batches(self, batches: np.ndarray, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        for batch in batches:
            images, labels = self._chosen(batch)
            if self._recipe.augment == "flip-crop":
                images = shift_and_flip(images, flip=self._recipe.flip, generator=generator)
            yield images, labels

    def _chosen(self, batch: np.ndarray) -> tuple[Tensor, Tensor]:
        if self._stored is not None:
            images, labels = self._stored
            chosen = sent(torch.from_numpy(batch), self._device)
            return images[chosen], labels[chosen]
        # Indexing copies, so that read-only arrays (Ray shares them so) are never wrapped.
        wholes = self._split.images, self._split.labels
        images, labels = (sent(torch.from_numpy(whole[batch]), self._device) for whole in wholes)
        return images, labels


def _read(loader: DataLoader[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a loader's batches.

    Raises:
        RuntimeError: One of its processes died; torch's words, "DataLoader worker (pid" first.
    """
    try:
        yield from loader
    except (ConnectionError, EOFError):
        # The sockets of a process that is being killed close before its exit is signalled; the
        # signal then raises torch's error here, which names the process.
        time.sleep(_EXIT_SECONDS)
        raise


def _stored(split: Split, gpu: torch.device) -> tuple[Tensor, Tensor] | None:
    """Images and labels on a GPU that has the room: an epoch then copies none; None: it has not."""
    free, _ = torch.cuda.mem_get_info(gpu)
    if split.images.nbytes > _SHARE * free:
        return None
    images = torch.empty(split.images.shape, dtype=torch.uint8, device=gpu)
    for start in range(0, len(split), _CHUNK):
        part = slice(start, start + _CHUNK)
        images[part] = torch.from_numpy(split.images[part].copy())
    return images, sent(torch.from_numpy(split.labels.copy()), gpu)


class _Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Batches by their (epoch, index, repetition) keys; a key's draws depend on it and the seed
    alone."""

    def __init__(self, split: Split, transform: v2.Transform, seed: int) -> None:
        self._split, self._transform, self._seed = split, transform, seed

    def __getitems__(self, keys: list[tuple[int, int, int]]) -> tuple[Tensor, Tensor]:
        with torch.random.fork_rng(devices=[]):
            images = torch.stack([self._image(*key) for key in keys])
        return images, torch.from_numpy(self._split.labels[[index for _, index, _ in keys]])

    def _image(self, epoch: int, index: int, repetition: int) -> Tensor:
        # Not `torch.manual_seed`: it seeds GPUs too, where the network draws.
        torch.default_generator.manual_seed(derive_seed(self._seed, epoch, index, repetition))
        return self._transform(torch.from_numpy(self._split.images[index].copy()))


def _shared(batch: Any) -> Any:
    """A batch as it is; of a loader process, in memory that both processes have.

    Raises:
        RuntimeError: There is too little of it (/dev/shm). The loader's own thread, that would
            move the batch later, drops it then, and it is waited for without end.
    """
    if get_worker_info() is not None:
        for tensor in batch:
            tensor.share_memory_()
    return batch
