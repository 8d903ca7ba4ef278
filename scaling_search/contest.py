"""Rules of scaling side by side: the networks that they make of a base at one measured cost."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import cast

from nas.costs.metrics import Metric
from scaling_search.compound import DROPOUT_PER_PHI, Coefficients, ScalingError, shift_dropout
from scaling_search.shares import RULES
from scaling_search.solve import scale_to
from search_spaces.architecture import Architecture
from search_spaces.builder import AnyNetwork
from search_spaces.rounding import Rounding

FITTED = "fitted"
"""Name of the rule that is put to the test."""
TOLERANCE = 0.05
"""Relative distance from the wanted cost above which a network is marked."""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A network, and the rules that make it."""

    rules: tuple[str, ...]
    """Names, `FITTED` first where it is among them."""
    architecture: AnyNetwork
    coefficients: Coefficients
    """Of the first of the rules, per doubling of cost; `FITTED` as given."""
    phi: float
    """Of these coefficients, solved for the cost."""
    cost: float
    """By the metric."""

    @property
    def label(self) -> str:
        return " = ".join(self.rules)


@dataclass(frozen=True, kw_only=True)
class Level:
    """The contestants at one cost."""

    phi: float
    """The target is 2^phi times the base's cost."""
    target: float
    """In the metric's unit."""
    contestants: tuple[Contestant, ...]
    """No two are one network; that of `FITTED` comes first."""
    missing: Mapping[str, str]
    """Rules that make no network of this cost, and why."""

    @property
    def fitted(self) -> Contestant:
        return self.contestants[0]

    @property
    def rivals(self) -> tuple[Contestant, ...]:
        """The others."""
        return self.contestants[1:]

    def off_target(self, contestant: Contestant) -> float:
        """Relative distance of a contestant's cost from the target."""
        return contestant.cost / self.target - 1

    def is_marked(self, contestant: Contestant) -> bool:
        """Whether it costs so much more or less that this may decide."""
        return abs(self.off_target(contestant)) > TOLERANCE


def find_level(
    base: AnyNetwork, fitted: Coefficients, phi: float, metric: Metric, rounding: Rounding
) -> Level:
    """The networks of `fitted` and of `RULES` at 2^phi times the base's cost.

    All have the dropout of this phi: that of a rule's own phi would differ among networks of one
    cost, by how the rule's coefficients are written.

    Raises:
        ScalingError: The fitted coefficients make no network of this cost.
    """
    target = 2**phi * metric(base)
    rules = {FITTED: fitted, **{name: shares.coefficients() for name, shares in RULES.items()}}
    found: dict[str, Contestant] = {}
    missing: dict[str, str] = {}
    for rule, coefficients in rules.items():
        try:
            scaled = scale_to(base, coefficients, target, metric, rounding)
        except ScalingError as error:
            if rule == FITTED:
                raise
            missing[rule] = str(error)
            continue
        network = replace(scaled.architecture, name=f"{base.name}-x{2**phi:.3g}-{rule}")
        if isinstance(network, Architecture):
            rate = shift_dropout(cast(Architecture, base).dropout, DROPOUT_PER_PHI * phi)
            network = replace(network, dropout=rate)
        same = found.get(network.digest)
        found[network.digest] = (
            replace(same, rules=(*same.rules, rule))
            if same is not None
            else Contestant(
                rules=(rule,),
                architecture=network,
                coefficients=coefficients,
                phi=scaled.phi,
                cost=scaled.cost,
            )
        )
    return Level(phi=phi, target=target, contestants=tuple(found.values()), missing=missing)


def networks(base: AnyNetwork, levels: Iterable[Level]) -> dict[str, AnyNetwork]:
    """All that is to be trained, by digest: the base first, and each network once."""
    found: dict[str, AnyNetwork] = {base.digest: base}
    for level in levels:
        for contestant in level.contestants:
            found.setdefault(contestant.architecture.digest, contestant.architecture)
    return found
