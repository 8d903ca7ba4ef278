"""Do the fitted constants hold further up? From accuracies at like cost to a verdict; pure.

Networks of one target differ in cost all the same, by what rounding leaves. So the costlier of two
is also read off the line from the base to it, at the cost of the cheaper one; accuracy grows ever
more slowly with cost, hence the line lies below what the rule would reach there. One network is
ahead of another if it is ahead both ways: neither the difference in cost nor its correction decides
alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nas.search.report import spread
from scaling_search.compound import ScalingError
from scaling_search.contest import Contestant, Level
from scaling_search.shares import AXES
from scaling_search.two_way import Accuracies, TwoWay

Kind = Literal["HOLDS", "NOT RESOLVED", "FAILS"]
Outcome = Literal["ahead", "behind", "not told apart"]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A contestant and the accuracies of its seeds, at least one."""

    contestant: Contestant
    accuracies: Accuracies

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.accuracies.values())))

    @property
    def spread(self) -> float:
        """Standard deviation between seeds; NaN for a single one."""
        return spread(list(self.accuracies.values()))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The fitted network against a rival at the same target."""

    rival: Standing
    difference: float
    """Accuracy of the fitted network less the rival's, seed by seed."""
    even: float
    """The same, the costlier of the two at the cost of the cheaper one."""
    margin: float
    """Half of the interval's width; infinite where there is no telling."""
    seeds_needed: int | None
    """Seeds of each network that would tell them apart, were the difference as it is seen; None:
    they are told apart, or no number of seeds that anybody trains would do."""

    @property
    def interval(self) -> tuple[float, float]:
        return self.difference - self.margin, self.difference + self.margin

    @property
    def outcome(self) -> Outcome:
        """Of the fitted network."""
        return _outcome(self.difference, self.even, self.margin)

    @property
    def hangs_on_cost(self) -> bool:
        """Whether they would be told apart, but for the difference in cost."""
        return self.outcome == "not told apart" and abs(self.difference) > self.margin

    @property
    def axes(self) -> tuple[str, ...]:
        """The single axis that the rival is; of coarse networks perhaps several."""
        return tuple(rule for rule in self.rival.contestant.rules if rule in AXES)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A level with the accuracies of its networks."""

    level: Level
    fitted: Standing
    comparisons: tuple[Comparison, ...]
    """With every rival that has an accuracy."""
    failed: tuple[Contestant, ...]
    """Rivals without: all their trials failed."""
    noise: float
    """Standard deviation between seeds of one network, without what a seed adds to all; NaN with
    one seed."""
    freedom: int
    """Degrees of freedom of `noise`."""


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """What the trials say of the fitted constants."""

    base: Standing | None
    """The network at phi = 0; None: all its trials failed, and no difference in cost is weighed."""
    levels: tuple[Judged, ...]

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Of all levels."""
        return tuple(c for judged in self.levels for c in judged.comparisons)

    @property
    def open_axes(self) -> tuple[Comparison, ...]:
        """Single axes that the fitted network cannot be told apart from."""
        return tuple(c for c in self.comparisons if c.axes and c.outcome == "not told apart")

    @property
    def decisive(self) -> Comparison | None:
        """The open axis whose seeds decide the verdict; None: no number of seeds does.

        One axis ahead of the fit is enough for FAILS: of those that look ahead it is the one that
        takes the fewest seeds. HOLDS takes all axes: else it is the one that takes most.
        """
        known = [(c.seeds_needed, c) for c in self.open_axes if c.seeds_needed is not None]
        if ahead := [pair for pair in known if pair[1].difference < 0]:
            return min(ahead, key=lambda pair: pair[0])[1]
        if not known or len(known) < len(self.open_axes):
            return None
        return max(known, key=lambda pair: pair[0])[1]

    @property
    def kind(self) -> Kind:
        """HOLDS: ahead of every single axis, and behind no rule; FAILS: behind some rule."""
        if any(c.outcome == "behind" for c in self.comparisons):
            return "FAILS"
        against_axes = [c.outcome == "ahead" for c in self.comparisons if c.axes]
        failed = any(
            rule in AXES for judged in self.levels for c in judged.failed for rule in c.rules
        )
        return "HOLDS" if against_axes and all(against_axes) and not failed else "NOT RESOLVED"


def assess(
    base: Contestant, levels: Sequence[Level], accuracies: Mapping[str, Accuracies]
) -> Assessment:
    """Compare the fitted network with its rivals at every level.

    The error of 5 % is shared by all comparisons of all levels.

    Args:
        base: The network at phi = 0.
        levels: Whose networks were trained.
        accuracies: By the network's digest; empty or missing: all its trials failed.

    Raises:
        ScalingError: A fitted network has no accuracy.
    """
    anchor = _standing(base, accuracies)
    compared = sum(len(level.rivals) for level in levels)
    return Assessment(
        base=anchor,
        levels=tuple(_judge(level, anchor, accuracies, compared) for level in levels),
    )


def _judge(
    level: Level, base: Standing | None, accuracies: Mapping[str, Accuracies], compared: int
) -> Judged:
    fitted = _standing(level.fitted, accuracies)
    if fitted is None:
        raise ScalingError(
            f"Every trial of the fitted network at phi = {level.phi:g} failed; trials.csv has the "
            "reasons."
        )
    standings = [(rival, _standing(rival, accuracies)) for rival in level.rivals]
    rivals = [standing for _, standing in standings if standing is not None]
    two_way = TwoWay.fit([s.accuracies for s in (fitted, *rivals)], compared)
    return Judged(
        level=level,
        fitted=fitted,
        comparisons=tuple(
            _compare(fitted, rival, base, two_way, index) for index, rival in enumerate(rivals, 1)
        ),
        failed=tuple(contestant for contestant, standing in standings if standing is None),
        noise=two_way.noise,
        freedom=two_way.freedom,
    )


def _standing(contestant: Contestant, accuracies: Mapping[str, Accuracies]) -> Standing | None:
    found = accuracies.get(contestant.architecture.digest)
    return Standing(contestant=contestant, accuracies=found) if found else None


def _compare(
    fitted: Standing, rival: Standing, base: Standing | None, two_way: TwoWay, index: int
) -> Comparison:
    """With the rival that is network `index` of the fit."""
    difference, margin = two_way.difference(index)
    even = difference - _edge(fitted, rival, base) + _edge(rival, fitted, base)
    needed = None
    if _outcome(difference, even, margin) == "not told apart" and difference * even > 0:
        needed = two_way.seeds_needed(min(abs(difference), abs(even)))
    return Comparison(
        rival=rival, difference=difference, even=even, margin=margin, seeds_needed=needed
    )


def _outcome(difference: float, even: float, margin: float) -> Outcome:
    if min(difference, even) > margin:
        return "ahead"
    return "behind" if max(difference, even) < -margin else "not told apart"


def _edge(one: Standing, other: Standing, base: Standing | None) -> float:
    """What `one` gains by costing more than `other`, on the line from the base to `one`."""
    mine, theirs = one.contestant.cost, other.contestant.cost
    if base is None or mine <= theirs or mine <= base.contestant.cost:
        return 0.0
    rise = max(0.0, one.mean - base.mean)
    return rise * math.log(mine / theirs) / math.log(mine / base.contestant.cost)
