"""What of a search is left to do, and how long that takes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nas.cli import format_duration, plural
from nas.costs.metrics import typical
from nas.search.session import about, seconds_of_starts, timed
from nas.search.space import some_networks
from nas.trials.progress import ended_slots, measured_keys

if TYPE_CHECKING:
    from nas.folder import RunFolder
    from nas.search.plan import Plan
    from nas.trials.halving import Halving


@dataclass(frozen=True, kw_only=True)
class Left:
    """Trials that a run folder does not have yet."""

    begun: bool
    """Whether it has any."""
    search: int
    control: int
    """Of random search."""
    finals: int
    """Trainings of finalists and of stock B0: at most, for which they are the trials tell."""

    @property
    def nothing(self) -> bool:
        return not (self.search or self.control or self.finals)

    def describe(self) -> str:
        """For people."""
        parts = (
            (self.search, plural(self.search, "trial") + " of the search"),
            (self.control, plural(self.control, "trial") + " of random search"),
            (self.finals, "at most " + plural(self.finals, "training") + " of finalists"),
        )
        return ", ".join(words for number, words in parts if number) or "nothing"


def left_of(plan: "Plan", folder: "RunFolder") -> Left:
    """What a folder's record lacks of what the plan's flags ask for."""
    settings, database = plan.settings, folder.database
    names = ("search",) if settings.strategy == "random" else ("search", "random")
    ended = {name: ended_slots(database, name) for name in names}
    left = {name: len(set(range(settings.trials)) - ended[name]) for name in names}
    finals = 0
    if settings.finalists == 0:
        left["random"] = 0
    else:
        seeds = range(settings.seed + 1, settings.seed + 1 + settings.finalist_seeds)
        finals = len(seeds) * (len(names) * settings.finalists + 1)
        if not any(left.values()) and not _picks_anew(plan, folder):
            trainings = {(settings.epochs_of_finalists, seed) for seed in seeds}
            known = [key for key in measured_keys(database) if key[1:] in trainings]
            finals = max(0, finals - len(known))
    return Left(
        begun=any(ended.values()),
        search=left["search"],
        control=left.get("random", 0),
        finals=finals,
    )


def _picks_anew(plan: "Plan", folder: "RunFolder") -> bool:
    """Whether other networks of a front are finalists than at the last start."""
    now = plan.settings
    if not now.pareto:
        return False
    before = folder.settings()
    return any(before.get(flag) != getattr(now, flag) for flag in ("target_flops", "target_cost"))


def estimate(plan: "Plan", left: Left) -> str:
    """Time for what is left, from a few timed training steps of a typical network."""
    settings, workers, shared = plan.settings, plan.workers, plan.shared
    seconds_of = timed(plan.task, workers, typical(some_networks(plan.space)))
    if seconds_of is None:
        return about(None)
    epochs = float(settings.epochs)
    if plan.halving is not None:
        epochs = expected_epochs(plan.halving, settings.epochs)
    if shared is None:
        trial = seconds_of(epochs)
    else:
        trial = workers.crowding * shared.seconds_of_evaluation()
    studies = bool(left.search) + bool(left.control) + 2 * bool(left.finals)  # stock B0 is apart
    parts = {
        "supernet": 0.0 if shared is None or left.begun else shared.seconds_of_training(),
        "search": trial * left.search / workers.count,
        "random search": trial * left.control / workers.count,
        "finalists": seconds_of(settings.epochs_of_finalists) * left.finals / workers.count,
        "starts of workers": seconds_of_starts(workers, studies),
    }
    words = [f"{name} {format_duration(seconds)}" for name, seconds in parts.items() if seconds]
    detail = f" ({', '.join(words)})" if len(words) > 1 else ""
    return f"{about(sum(parts.values()))}{detail}"


def expected_epochs(halving: "Halving", epochs: int) -> float:
    """Epochs that a trial takes on average, if just the share that should passes each rung."""
    expected, share, before = 0.0, 1.0, 0
    for rung in halving.rungs(epochs):
        expected += share * (rung - before)
        share, before = share / halving.reduction, rung
    return expected
