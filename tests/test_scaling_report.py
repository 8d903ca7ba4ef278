"""The grid's verdict in words, and its plot."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from scaling_search.fit import Fit
from scaling_search.report import remedies, seeds_needed, summary, triangle_plot
from tests.scaled import fitted, lattice, peak

SHARES = lattice(4)


def _fit(noise: float, depth: float = 0.06, networks: int = 15, seeds: int = 3) -> Fit:
    rng = np.random.default_rng(1)
    truth = peak((0.25, 0.25, 0.5), depth)(SHARES[:networks])
    return fitted(truth[:, None] + rng.normal(0, noise, (networks, seeds)), SHARES[:networks])


def _line(lines: list[str], start: str) -> str:
    return next(line for line in lines if line.startswith(start))


def test_a_resolved_fit_tells_optimum_region_and_known_rules() -> None:
    fit = _fit(0.002)
    lines = summary(fit, 0.1, 2.0)
    assert _line(lines, "best ").startswith(
        f"best    {fit.best.candidate.coefficients.label} · accuracy {fit.best.mean:.4f}"
    )
    assert "90 % region: depth 0." in _line(lines, "fit ")
    assert any("published (0.28/0.29/0.43): " in line for line in lines)
    assert any("width (0.00/1.00/0.00): " in line for line in lines)
    assert _line(lines, "RESOLVED").startswith("RESOLVED: the networks differ by more than noise")
    result = _line(lines, "result ")
    assert result.endswith("for every doubling of multiply-adds (the fit's optimum)")
    assert not any(line.startswith(("remedy", "NOT")) for line in lines)


def test_how_far_a_rule_is_behind_is_about_right() -> None:
    """Depth alone: .06 * (.75^2 + .25^2 + .5^2) = .0525 below the peak."""
    (line,) = (x for x in summary(_fit(0.001), None, 2.0) if "depth (1.00" in x)
    behind = float(line.split("): ")[1].split(" behind")[0])
    assert behind == pytest.approx(0.0525, abs=0.003)


def test_noise_that_explains_all_is_said_with_its_remedies() -> None:
    lines = summary(_fit(0.03, depth=0.0), None, 2.0)
    assert _line(lines, "NOT RESOLVED").startswith(
        "NOT RESOLVED: noise explains the differences of all networks (p "
    )
    assert "a default and no finding" in _line(lines, "result ")
    assert "alpha=1.214 beta=1.107 gamma=1.16 " in _line(lines, "result ")
    found = [line for line in lines if line.startswith("remedy")]
    assert any("more --epochs" in line for line in found)
    assert any("--ratio 4: networks differ more" in line for line in found)


def test_few_networks_and_one_seed_say_what_is_missing() -> None:
    few = summary(_fit(0.001, networks=4), None, 2.0)
    assert "the networks differ by more than seed noise" in _line(few, "RESOLVED")
    assert "a surface needs 9 networks of different shares, and there are 4" in _line(few, "remedy")
    assert "for every doubling of cost (the best network; no surface tells more)" in _line(
        few, "result "
    )
    one_seed = _fit(0.001, networks=4, seeds=1)
    assert "too few trainings" in _line(summary(one_seed, None, 2.0), "NOT RESOLVED")
    assert remedies(one_seed, 2.0)[-1].startswith("one seed says little about noise: --seeds 3")
    alone = fitted(np.array([[0.5, 0.6]]), SHARES[:1])
    assert _line(summary(alone, None, 2.0), "NOT RESOLVED").endswith("there is one network only.")
    assert remedies(alone, 2.0) == [
        "there is one network only: a smaller --step, wider bounds, or --ratio 4"
    ]


def test_networks_that_were_left_out_are_the_first_remedy() -> None:
    few = _fit(0.001, networks=4)
    (remedy,) = remedies(few, 4.0, left_out=37, finer=("--resolution-step 4",))
    assert remedy.endswith(
        "and there are 4: --candidates 0 (37 more), a smaller --step, --resolution-step 4, or "
        "--ratio 8"
    )
    assert f"remedy  {remedy}" in summary(few, None, 4.0, 37, ("--resolution-step 4",))
    assert "--candidates" not in "".join(remedies(few, 4.0))
    assert "--candidates" not in "".join(remedies(few, 4.0, left_out=4))  # 8 do not suffice


@pytest.mark.parametrize(
    ("seeds", "words"), [(3, "between seeds of one network"), (1, "in what the fit leaves")]
)
def test_noise_is_named_for_what_shows_it(seeds: int, words: str) -> None:
    assert f" {words}; " in _line(summary(_fit(0.001, seeds=seeds), None, 2.0), "noise ")


def test_equal_accuracies_are_not_called_few() -> None:
    """Such as networks that all answer the largest class; there may be hundreds of trainings."""
    lines = summary(fitted(np.full((15, 6), 0.5), SHARES), None, 2.0)
    assert _line(lines, "NOT RESOLVED").endswith("all trainings gave the same accuracy.")


def test_seeds_needed_suffice() -> None:
    """Where differences are real but small, so many seeds do show them, four times in five."""
    rng = np.random.default_rng(1)
    truth = peak((0.25, 0.25, 0.5), 0.02)(SHARES)
    values = truth[:, None] + rng.normal(0, 0.01, (len(SHARES), 3))
    needed = seeds_needed(fitted(values, SHARES))
    assert needed is not None
    resolved = [
        fitted(truth[:, None] + rng.normal(0, 0.01, (len(SHARES), needed)), SHARES).resolved
        for _ in range(20)
    ]
    assert sum(resolved) >= 12


def test_networks_that_differ_without_a_pattern_ask_for_networks_not_for_seeds() -> None:
    rng = np.random.default_rng(1)
    own = 0.6 + rng.normal(0, 0.05, 9)
    fit = fitted(own[:, None] + rng.normal(0, 0.005, (9, 6)), SHARES[:9])
    assert not fit.resolved
    assert fit.patternless
    lines = summary(fit, None, 2.0)
    assert "how they share their cost does not explain it" in _line(lines, "NOT RESOLVED")
    assert [line for line in lines if line.startswith("remedy")] == [
        "remedy  networks differ by what each has of its own, as rounding makes it; seeds do not "
        "average that out, more networks do: a smaller --step, or --ratio 4"
    ]


def test_an_optimum_that_the_networks_do_not_follow_comes_with_a_caution() -> None:
    """More seeds of the same networks show that these differ, and nothing of their shares."""
    rng = np.random.default_rng(1)
    own = 0.6 + rng.normal(0, 0.05, 15)
    fit = fitted(own[:, None] + rng.normal(0, 0.005, (15, 6)), SHARES)
    assert fit.resolved
    lines = summary(fit, None, 2.0, left_out=8)
    assert "an optimum of the shares is not" in _line(lines, "CAUTION")
    assert "more networks do: --candidates 0 (8 more), a smaller" in _line(lines, "remedy")
    assert not any(line.startswith("CAUTION") for line in summary(_fit(0.002), None, 2.0))


@pytest.mark.parametrize("networks", [2, 4, 15])
def test_seeds_needed_are_more_than_there_are(networks: int) -> None:
    seen = 0
    for seed in range(20):
        values = 0.6 + np.random.default_rng(seed).normal(0, 0.01, (networks, 4))
        fit = fitted(values, SHARES[:networks])
        needed = None if fit.resolved else seeds_needed(fit)
        assert needed is None or needed > 4
        seen += needed is not None
    assert seen > 0


def test_no_better_than_the_largest_class_is_a_warning() -> None:
    fit = _fit(0.002)
    assert any(
        line.startswith("WARNING no candidate is better than the largest class (60.0%)")
        for line in summary(fit, 0.6, 2.0)
    )
    assert not any(line.startswith("WARNING") for line in summary(fit, 0.1, 2.0))


@pytest.mark.parametrize("networks", [1, 2, 4, 15])
@pytest.mark.parametrize("seeds", [1, 3])
def test_the_plot_is_a_png_whatever_there_is(networks: int, seeds: int) -> None:
    fit = _fit(0.002, networks=networks, seeds=seeds)
    assert triangle_plot(fit).startswith(b"\x89PNG")


@pytest.mark.parametrize("corner", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_nothing_hides_the_colour_of_a_corner(corner: tuple[float, float, float]) -> None:
    """The most accurate network is there: its colour is the last of the scale, and of no other."""
    values = np.repeat(peak(corner)(SHARES)[:, None], 2, axis=1)
    image = Image.open(BytesIO(triangle_plot(fitted(values, SHARES)))).convert("RGB")
    pixels = np.asarray(image)[:, : image.width * 4 // 5]  # without the scale itself
    assert (pixels == (253, 231, 37)).all(-1).sum() > 30
