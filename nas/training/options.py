"""The flags of `nas.train`, and the training that they name."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from nas.cli import MAX_SEED, Sections, UserError
from nas.cores import num_cores
from nas.data.cache import Cache
from nas.data.dataset import ImageData, load_for_training, uneven
from nas.folder import Stamp, warn_of_changes
from nas.training.job import Job
from nas.training.parts import choose_device
from nas.training.proxy import mirrors
from nas.training.recipe import Augment, Optimizer, Precision, Recipe
from search_spaces.adapt import adapt_classes
from search_spaces.zoo import load_architecture


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to train, on what, and how."""

    SECTIONS: ClassVar[Sections] = {
        "image": ("skip_bad", "follow_links", "cache_dir", "stored_pixels"),
        "augmentation": ("augment", "flip", "min_crop_area", "erasing"),
        "optimization": (
            "batch_size",
            "learning_rate",
            "optimizer",
            "weight_decay",
            "label_smoothing",
            "ema_decay",
            "balanced",
        ),
        "machine": ("device", "precision", "threads", "loader_workers"),
    }

    arch: str
    """A zoo name, an architecture's JSON or a model.json; of your own builder
    my_module:build@B1.json, or my_module:build@64 at 64 px."""
    data: str
    """`digits`, an image folder, or a torchvision data set by name."""
    out: Path
    """Folder for the model, its history and the checkpoints."""
    skip_bad: bool = False
    """Leave out images that cannot be used instead of refusing; skipped.txt of `--out` names
    them."""
    follow_links: bool = False
    """Follow symbolic links that lead out of the folder of `--data`."""
    cache_dir: Path | None = None
    """Folder for decoded images, which are mapped: no start decodes what another has, and they may
    be more than memory holds. By default cache/ of `--out`. May be deleted once the training is
    finished."""
    epochs: int = 30
    """Passes over the training images."""
    batch_size: int | None = None
    """Images a step. Default: 128, fewer on small data."""
    learning_rate: float = 0.4
    """Peak rate for 256 images a step; the rate used is in proportion to the batch. AdamW wants
    about 0.002."""
    optimizer: Optimizer = "sgd"
    """SGD with Nesterov momentum, or AdamW."""
    weight_decay: float = 5e-5
    """On kernels; never on batch norms and biases."""
    label_smoothing: float = 0.1
    """Share of the target that is spread over all classes."""
    ema_decay: float | None = None
    """Decay of the moving average of the weights; 0: none. Default: from the number of steps."""
    augment: Augment = "trivial"
    """flip-crop: small shifts, fastest. resized-crop: a crop for each image. trivial, randaugment:
    that and TrivialAugmentWide or RandAugment."""
    flip: bool = True
    """Mirror images; switch it off for text. Never done with `digits`."""
    balanced: bool = False
    """Draw rare classes as often as common ones."""
    min_crop_area: float = 0.25
    """Least share of the image in a resized crop."""
    stored_pixels: int | None = None
    """Side in px that train images are stored with, of which crops are taken. Default: such that no
    crop is enlarged, at most twice the resolution, and what the images have."""
    erasing: float = 0.0
    """Probability of erasing a rectangle of an image."""
    resolution: int | None = None
    """Side of the images in pixels. Default: the architecture's."""
    init_weights: Path | None = None
    """Start from these weights, a safetensors file in our, timm's or torchvision's naming; with
    your own builder, of the very same network. The classifier starts anew where the number of
    classes differs, or the file has none."""
    seed: int = 0
    """Fixes every draw."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is one."""
    precision: Precision = "auto"
    """auto: fp32 on the CPU, bf16 (else fp16) on CUDA."""
    threads: int | None = None
    """CPU threads. Default: all cores where a few timed steps are clearly faster with them, else
    one; a training that goes on keeps its number."""
    loader_workers: int | None = None
    """Processes that augment, where each image has its own crop. Default: none on the CPU, which
    is busy anyway; up to 8 with CUDA."""
    dry_run: bool = False
    """Show what is left to do and stop; nothing is written."""

    def __post_init__(self) -> None:
        for flag, least in (("threads", 1), ("seed", 0), ("loader_workers", 0), ("batch_size", 2)):
            value = getattr(self, flag)
            if value is not None and value < least:
                name = flag.replace("_", "-")
                raise UserError(f"`--{name}` must be at least {least}, but got {value}.")
        for flag, most in (("seed", MAX_SEED), ("loader_workers", max(64, 4 * num_cores()))):
            if (getattr(self, flag) or 0) > most:
                name, value = flag.replace("_", "-"), getattr(self, flag)
                raise UserError(f"`--{name}` must be at most {most}, but got {value}.")


def prepare(settings: Settings) -> Job:
    """Read what the settings name, and check that it goes together.

    Raises:
        ValueError: It does not, or cannot be read.
    """
    warn_of_changes(settings.arch)
    architecture = load_architecture(settings.arch)
    if settings.resolution is not None:
        architecture = replace(architecture, resolution=settings.resolution)
    recipe = _recipe(settings)
    device = choose_device(settings.device)
    data = _load(settings, architecture.resolution, recipe)
    if architecture.num_classes != len(data.classes):
        before, architecture = architecture, adapt_classes(architecture, len(data.classes))
        print(
            f"note    {architecture.name} has {before.num_classes} classes, the data have "
            f"{len(data.classes)}: the classifier gets {len(data.classes)}"
        )
    recipe = replace(recipe, flip=recipe.flip and mirrors(data))
    weights, pixels = settings.init_weights, data.train.images.shape[-1]
    conditions = {
        "arch": f"{architecture.name} ({architecture.digest})",
        "data": f"{data.name} ({data.fingerprint})",
        "seed": settings.seed,
        "init_weights": None if weights is None else _digest_of(weights),
        "stored_pixels": None if pixels == architecture.resolution else pixels,
        "recipe": _binding(recipe),
    }
    workers = settings.loader_workers
    if workers is None:
        workers = min(8, num_cores()) if device.type == "cuda" else 0
    return Job(
        architecture=architecture,
        data=data,
        recipe=recipe,
        init_weights=weights,
        seed=settings.seed,
        device=device,
        workers=workers,
        threads=settings.threads,
        conditions=conditions,
    )


def _load(settings: Settings, resolution: int, recipe: Recipe) -> ImageData:
    """The images; what there is to say of them is printed."""
    stored = settings.stored_pixels
    if stored is not None and not recipe.crops:
        raise UserError(
            f"`--stored-pixels` is for crops of each image, which `--augment {recipe.augment}` "
            "does not take. Leave it out."
        )
    if stored is not None and stored < resolution:
        raise UserError(
            f"`--stored-pixels` must be at least {resolution}, the network's resolution, but got "
            f"{stored}."
        )
    data = load_for_training(
        settings.data,
        size=resolution,
        train_size=stored or recipe.stored_pixels(resolution),
        skip_bad=settings.skip_bad,
        follow_links=settings.follow_links,
        cache=Cache(settings.cache_dir or settings.out / "cache", is_read_only=settings.dry_run),
    )
    print(f"data    {data.summary()}")
    for notice in data.notices:
        print(f"note    {notice}")
    if not recipe.balanced and (words := uneven(data.train.labels, data.classes)):
        print(f"note    {words}")
    return data


def _recipe(settings: Settings) -> Recipe:
    recipe = Recipe.full(
        settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        augment=settings.augment,
        flip=settings.flip,
        erasing=settings.erasing,
        ema_decay=settings.ema_decay,
    )
    return replace(
        recipe,
        optimizer=settings.optimizer,
        weight_decay=settings.weight_decay,
        label_smoothing=settings.label_smoothing,
        min_crop_area=settings.min_crop_area,
        balanced=settings.balanced,
        precision=settings.precision,
    )


def _binding(recipe: Recipe) -> dict[str, Any]:
    """A recipe, as folders of earlier versions have it where it says nothing that they could not:
    no memory format, which is channels-last here and was always so, and no word of even classes
    where they are not."""
    fields = asdict(recipe)
    del fields["memory_format"]
    if not recipe.balanced:
        del fields["balanced"]
    return fields


def _digest_of(weights: Path) -> str:
    if (stamp := Stamp.at(weights)) is None:
        raise UserError(f"There is no weights file {weights}; name one with --init-weights.")
    return stamp.sha256[:12]
