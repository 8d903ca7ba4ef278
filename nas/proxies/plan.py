"""Settings of a proxy, the networks they are tried on, and what their trials measured.

A setting is what `nas.run` can be told: epochs, image size and target. A cheaper image size or
width is the same space, made for that size or a smaller target, so that what is tried here is what
a search would do.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nas.cli import UserError, format_number, plural
from nas.costs.metrics import typical
from nas.proxies.rank import MIN_NETWORKS
from nas.search.options import MIN_RESOLUTION
from nas.trials.evaluate import Outcome
from nas.trials.trial import MeasurementKey, Proposal
from search_spaces.architecture import Architecture
from search_spaces.cost import count
from search_spaces.spaces import Choice, Space, sample

POOL = 300
"""Networks that the spread ones are chosen from."""
_NEAR = 20
"""Networks of nearly equal cost among which the most different one is taken."""
LONG_SEEDS = 1000
"""Distance of the seeds of long trainings from those of the proxy, which they must not share."""

PROXY, LONG = "proxy", "long"
"""Names of the first two series; the variants' names are their factors."""

Choices = dict[str, Choice]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a trial trains."""

    epochs: int
    resolution: int
    """Side of the images in px."""
    target_macs: float
    """T that the space is made for, in multiply-adds; it sets the widths."""

    @property
    def label(self) -> str:
        epochs = plural(self.epochs, "epoch")
        return f"{epochs}, {self.resolution} px, T = {format_number(self.target_macs)}"

    def cheaper(self, variant: str) -> "Setting":
        """The setting with factors such as `epochs=0.5,width=0.7`; a width counts squared in T.

        Fewer pixels lower T in proportion, so that widths stay where the strides can.

        Raises:
            UserError: The text has another form, or a factor is not in (0, 1].
        """
        factors = _parse_factors(variant)
        resolution = round(self.resolution * factors["resolution"])
        scale = (resolution / self.resolution * factors["width"]) ** 2
        return replace(
            self,
            epochs=max(1, round(self.epochs * factors["epochs"])),
            resolution=resolution,
            target_macs=float(f"{self.target_macs * scale:.2g}") if scale < 1 else self.target_macs,
        )


@dataclass(frozen=True, kw_only=True)
class Series:
    """The same choices at one setting, each trained with some seeds."""

    name: str
    """Of the study: PROXY, LONG or a variant."""
    setting: Setting
    networks: tuple[Architecture, ...]
    seeds: tuple[int, ...]

    @property
    def proposals(self) -> list[Proposal]:
        """All networks with the first seed, then all with the second, and so on."""
        return [
            Proposal(
                architecture=network,
                epochs=self.setting.epochs,
                seed=seed,
                labels={"setting": self.name, "network": i},
            )
            for seed in self.seeds
            for i, network in enumerate(self.networks)
        ]

    @property
    def macs(self) -> np.ndarray:
        """Multiply-adds, `(n,)`."""
        return np.array([count(network).macs for network in self.networks], dtype=float)

    @property
    def typical(self) -> Architecture:
        """The network of median multiply-adds."""
        return typical(self.networks)


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """What the trials of a series gave; NaN where one failed or is still to come."""

    series: Series
    accuracies: np.ndarray
    """`(n, seeds)`."""
    seconds: np.ndarray
    """Of the trainings, `(n, seeds)`."""


def collect(series: Series, known: Mapping[MeasurementKey, tuple[str, Outcome]]) -> Measurements:
    """The measurements of a series among all those of a run folder (`known_measurements`)."""
    shape = len(series.networks), len(series.seeds)
    accuracies, seconds = np.full(shape, np.nan), np.full(shape, np.nan)
    for i, network in enumerate(series.networks):
        for j, seed in enumerate(series.seeds):
            _, outcome = known.get((network.digest, series.setting.epochs, seed), ("", Outcome()))
            if outcome.accuracy is not None:
                accuracies[i, j], seconds[i, j] = outcome.accuracy, outcome.seconds
    return Measurements(series=series, accuracies=accuracies, seconds=seconds)


def plan_series(
    make_space: Callable[[Setting], Space],
    proxy: Setting,
    *,
    variants: Sequence[str],
    long_epochs: int,
    networks: int,
    seeds: int,
    long_seeds: int,
    seed: int,
) -> tuple[list[Series], list[str]]:
    """What to train, in this order: the proxy, the long trainings, the variants.

    Args:
        make_space: The space for a setting.
        proxy: The setting in question.
        variants: Cheaper ones, as `Setting.cheaper` reads them.
        long_epochs: Epochs of the trainings that tell the truth.
        networks: How many to train.
        seeds: Trials of each network at the proxy and its variants.
        long_seeds: Long trainings of each network.
        seed: Fixes the choice of networks; also the first seed of the trials.

    Returns:
        The series, and notices for the user.

    Raises:
        UserError: A variant cannot be read, or the space holds too few networks.
    """
    space = make_space(proxy)
    chosen, notices = spread(space, networks, seed=seed), []
    if len(chosen) < networks:
        notices.append(f"space {space.name!r} gave only {len(chosen)} different networks")
    base = tuple(space.decode(choices) for choices in chosen)
    short = tuple(range(seed, seed + seeds))
    long = tuple(range(seed + LONG_SEEDS, seed + LONG_SEEDS + long_seeds))
    long_setting = replace(proxy, epochs=long_epochs)
    series = [
        Series(name=PROXY, setting=proxy, networks=base, seeds=short),
        Series(name=LONG, setting=long_setting, networks=base, seeds=long),
    ]
    for variant in variants:
        setting = proxy.cheaper(variant)
        if setting.resolution < MIN_RESOLUTION:
            notices.append(f"variant {variant} is left out: {setting.resolution} px are too few")
            continue
        try:
            own = make_space(setting)
            smaller = tuple(own.decode(choices) for choices in chosen)
        except UserError:
            raise
        except ValueError as error:
            notices.append(f"variant {variant} is left out: {error}")
            continue
        added = Series(name=variant, setting=setting, networks=smaller, seeds=short)
        if any(_same(added, other) for other in series):
            notices.append(f"variant {variant} is left out: it trains what another setting does")
        else:
            series.append(added)
    return series, notices


def spread(space: Space, number: int, *, seed: int) -> list[Choices]:
    """Choices of different networks, far apart in cost and in kind.

    A pool of uniform samples is ordered by multiply-adds. The quantiles of van der Corput's
    sequence (1/2, 1/4, 3/4, 1/8, ...) are visited in turn, and near each the network is taken that
    differs in most choices from the nearest one taken before. So more networks are the same and
    others, and costs are spread as the space's own are, not more: a wider range would flatter the
    proxy.

    Raises:
        UserError: The space holds too few networks to rank.
    """
    rng = random.Random(seed)
    pool: dict[str, tuple[int, Choices]] = {}
    for _ in range(POOL):
        choices = sample(space, rng)
        network = space.decode(choices)
        pool.setdefault(network.digest, (count(network).macs, choices))
    if len(pool) < MIN_NETWORKS:
        raise UserError(
            f"Space {space.name!r} gave {len(pool)} different networks in {POOL} draws; at least "
            f"{MIN_NETWORKS} are needed to speak of a ranking."
        )
    ordered = [choices for _, choices in sorted(pool.values(), key=lambda item: item[0])]
    taken: dict[int, Choices] = {}
    for k in range(1, min(number, len(ordered)) + 1):
        centre = _van_der_corput(k) * len(ordered)
        free = [i for i in range(len(ordered)) if i not in taken]
        near = sorted(free, key=lambda i: abs(i + 0.5 - centre))[:_NEAR]
        farthest = max(
            near,
            key=lambda i: min((_distance(ordered[i], t) for t in taken.values()), default=0),
        )
        taken[farthest] = ordered[farthest]
    return [taken[i] for i in sorted(taken)]


def _van_der_corput(k: int) -> float:
    """The digits of `k` in base 2, mirrored at the point."""
    return sum((k >> i & 1) / 2 ** (i + 1) for i in range(k.bit_length()))


def _distance(one: Choices, other: Choices) -> int:
    return sum(one[name] != other[name] for name in one)


def _same(one: Series, other: Series) -> bool:
    digests = [[a.digest for a in series.networks] for series in (one, other)]
    return digests[0] == digests[1] and one.setting.epochs == other.setting.epochs


def _parse_factors(variant: str) -> dict[str, float]:
    factors = {"epochs": 1.0, "resolution": 1.0, "width": 1.0}
    for part in variant.split(","):
        name, _, text = part.partition("=")
        try:
            factor = float(text)
        except ValueError:
            factor = 0.0
        if name not in factors or not 0 < factor <= 1:
            raise UserError(
                "`--variants` must be factors in (0, 1] on epochs, resolution and width, such as "
                f"epochs=0.5 or resolution=0.7,width=0.5; got {variant!r}."
            )
        factors[name] = factor
    return factors
