"""The grid's verdict in words, and its plot."""

from collections.abc import Sequence

from scaling_search.constants import Ranking, rank
from scaling_search.report import ranking_plot, summary
from tests.grid_evaluators import candidates

CANDIDATES = candidates()
FIRST, SECOND, THIRD = (candidate.coefficients.label for candidate in CANDIDATES[:3])


def _rank(*groups: Sequence[float]) -> Ranking:
    chosen = CANDIDATES[: len(groups)]
    return rank(chosen, {c.architecture.digest: g for c, g in zip(chosen, groups, strict=True)})


def test_the_best_with_its_evidence_comes_first() -> None:
    best = CANDIDATES[1]
    alpha, beta, gamma = best.coefficients.values
    assert summary(_rank([0.5, 0.5], [0.8, 0.82]), None)[0] == (
        f"best    alpha {alpha:g}, beta {beta:g}, gamma {gamma:g} · accuracy 0.8100 (mean of 2 "
        f"seeds) · product {best.product:.3f} · measured x{best.ratio:.2f}"
    )


def test_a_clear_winner_is_said_to_be_one() -> None:
    lines = summary(_rank([0.9, 0.91], [0.5, 0.51]), 0.1)
    assert lines[1:] == [
        "noise   0.0071 between seeds of one network (standard deviation, 2 d.o.f.)",
        "        ahead of all others by more than the seed noise explains",
    ]


def test_the_tied_are_named() -> None:
    lines = summary(_rank([0.9, 0.91], [0.5, 0.51], [0.9, 0.905]), None)
    assert lines[2] == (
        "NOT RESOLVED: 1 of the other 2 cannot be told apart from the best: " + THIRD
    )


def test_one_seed_and_one_network_resolve_nothing() -> None:
    assert summary(_rank([0.9], [0.5]), None)[1].startswith("NOT RESOLVED: one seed says nothing")
    assert summary(_rank([0.9, 0.8]), None)[1].startswith("NOT RESOLVED: there is one network only")


def test_no_better_than_the_largest_class_is_a_warning() -> None:
    ranking = _rank([0.11, 0.12], [0.1, 0.1])
    assert summary(ranking, 0.1)[1].startswith(
        "WARNING no candidate is better than the largest class (10.0%)"
    )
    assert not any(line.startswith("WARNING") for line in summary(ranking, 0.05))
    assert not any(line.startswith("WARNING") for line in summary(ranking, None))


def test_the_plot_is_a_png_whatever_the_number_of_seeds() -> None:
    for ranking in (_rank([0.9]), _rank([0.9], [0.5]), _rank([0.9, 0.9], [0.5, 0.52], [0.4])):
        assert ranking_plot(ranking).startswith(b"\x89PNG")
