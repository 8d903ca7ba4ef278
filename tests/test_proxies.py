"""Settings, the choice of networks, and the verdict, without a run."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.cli import UserError
from nas.proxies.plan import Measurements, Series, Setting, collect, plan_series, spread
from nas.proxies.verdict import Assessment, assess_all, gain_difference, recommended
from nas.trials.evaluate import Outcome
from nas.trials.trial import MeasurementKey
from search_spaces.cost import count
from search_spaces.spaces import Space, mnasnet
from tests.proxy_evaluators import two_networks
from tests.searching import SPACE, SmallSpace

PROXY = Setting(epochs=5, resolution=32, target_macs=8e6)


def make_space(setting: Setting) -> Space:
    return mnasnet(setting.resolution, 10, setting.target_macs)


def series(*variants: str, networks: int = 12, seeds: int = 2) -> tuple[list[Series], list[str]]:
    return plan_series(
        make_space,
        PROXY,
        variants=variants,
        long_epochs=20,
        networks=networks,
        seeds=seeds,
        long_seeds=1,
        seed=0,
    )


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("epochs=0.5", Setting(epochs=2, resolution=32, target_macs=8e6)),
        ("epochs=0.01", Setting(epochs=1, resolution=32, target_macs=8e6)),
        ("width=0.5", Setting(epochs=5, resolution=32, target_macs=2e6)),
        ("resolution=0.75", Setting(epochs=5, resolution=24, target_macs=4.5e6)),
        ("epochs=0.4,width=0.5", Setting(epochs=2, resolution=32, target_macs=2e6)),
    ],
)
def test_variants_are_factors(variant: str, expected: Setting) -> None:
    assert PROXY.cheaper(variant) == expected


@pytest.mark.parametrize("variant", ["", "epochs", "epochs=2", "width=0", "depth=0.5", "width=x"])
def test_other_variants_are_refused(variant: str) -> None:
    with pytest.raises(UserError, match=r"factors in \(0, 1\] on epochs, resolution and width"):
        PROXY.cheaper(variant)


@settings(max_examples=10)
@given(st.integers(0, 2**32), st.integers(6, 16))
def test_networks_are_spread(seed: int, number: int) -> None:
    chosen = spread(SPACE, number, seed=seed)
    macs = [count(SPACE.decode(choices)).macs for choices in chosen]
    assert len({SPACE.decode(choices).digest for choices in chosen}) == number
    assert macs == sorted(macs)
    differences = [
        sum(a[name] != b[name] for name in a) for i, a in enumerate(chosen) for b in chosen[:i]
    ]
    assert min(differences) > 15  # of 42; two random ones differ in 24 on average


def test_more_networks_are_the_same_and_others() -> None:
    assert all(choices in spread(SPACE, 24, seed=3) for choices in spread(SPACE, 12, seed=3))
    assert spread(SPACE, 12, seed=3) != spread(SPACE, 12, seed=4)


def test_a_small_space_gives_what_it_has() -> None:
    assert len(spread(SmallSpace(), 12, seed=0)) == 6
    with pytest.raises(UserError, match="gave 2 different networks in 300 draws; at least 6"):
        spread(two_networks(), 12, seed=0)


def test_the_order_is_proxy_long_variants_with_other_seeds_for_long() -> None:
    planned, notices = series("epochs=0.5", "resolution=0.75")
    assert [s.name for s in planned] == ["proxy", "long", "epochs=0.5", "resolution=0.75"]
    assert notices == []
    assert not set(planned[0].seeds) & set(planned[1].seeds)
    assert planned[0].seeds == planned[2].seeds
    assert [p.seed for p in planned[0].proposals] == [0] * 12 + [1] * 12
    assert {a.resolution for a in planned[3].networks} == {24}


def test_variants_that_add_nothing_or_cannot_be_built_are_left_out() -> None:
    planned, notices = series("epochs=1", "resolution=0.2", "width=0.1")
    assert len(planned) == 2
    for notice, words in zip(
        notices, ("what another setting does", "6 px are too few", "No width brings"), strict=True
    ):
        assert words in notice


def test_what_is_not_measured_is_nan() -> None:
    (proxy, *_), _ = series()
    key: MeasurementKey = (proxy.networks[3].digest, 5, 1)
    known: dict[MeasurementKey, tuple[str, Outcome]] = {}
    known[key] = "proxy #3", Outcome(accuracy=0.7, seconds=2.0)
    measured = collect(proxy, known)
    assert measured.accuracies[3, 1] == 0.7
    assert measured.seconds[3, 1] == 2.0
    assert np.isnan(measured.accuracies).sum() == 23


def made(
    *,
    noise: float = 0.01,
    short: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    seconds: tuple[float, ...] = (10.0,),
) -> list[Measurements]:
    """Proxy, long and variants (one for each further time) of 12 networks."""
    rng = np.random.default_rng(0)
    order = rng.permutation(12) / 12.0
    truth = order if truth is None else truth
    short = order if short is None else short
    planned, _ = series(*[f"epochs=0.{8 - 2 * i}" for i in range(len(seconds) - 1)])
    proxy, long, *variants = planned

    def short_trials(one: Series, time: float) -> Measurements:
        accuracies = 0.3 + 0.2 * short[:, None] + noise * rng.normal(size=(12, 2))
        return Measurements(series=one, accuracies=accuracies, seconds=np.full((12, 2), time))

    return [
        short_trials(proxy, seconds[0]),
        Measurements(
            series=long, accuracies=0.5 + 0.3 * truth[:, None], seconds=np.full((12, 1), 40.0)
        ),
        *(short_trials(v, time) for v, time in zip(variants, seconds[1:], strict=True)),
    ]


def judge(measurements: list[Measurements], *, majority: float = 0.1) -> list[Assessment]:
    return assess_all(
        measurements, reward=lambda acc, macs, setting: acc, majority=majority, seed=0
    )


def test_a_proxy_that_ranks_is_fit() -> None:
    (proxy,) = judge(made())
    assert proxy.fit
    assert proxy.tau > 0.8
    assert proxy.tau_reward == pytest.approx(proxy.tau)
    assert proxy.above_macs[0] > 0


def test_unfit_for_noise() -> None:
    (proxy,) = judge(made(noise=0.3))
    assert any("seed noise exceeds the spread" in reason for reason in proxy.reasons)


def test_unfit_for_another_order() -> None:
    measurements = made(short=np.random.default_rng(7).permutation(12) / 12.0)
    (proxy,) = judge(measurements)
    assert any("cannot be told from chance" in reason for reason in proxy.reasons)


def test_unfit_for_having_learnt_nothing() -> None:
    (proxy,) = judge(made(), majority=0.4)
    assert any("they have learnt nothing yet" in reason for reason in proxy.reasons)


def test_unfit_where_cost_ranks_as_well() -> None:
    by_cost = np.arange(12) / 12.0  # networks are listed by multiply-adds
    (proxy,) = judge(made(noise=0.02, short=by_cost, truth=by_cost))
    assert proxy.tau_macs == pytest.approx(1)
    assert [r.startswith("counting multiply-adds ranks as well") for r in proxy.reasons] == [True]


def test_a_cheaper_setting_that_ranks_as_well_buys_most() -> None:
    measurements = made(seconds=(10.0, 5.0, 9.0))
    assessments = judge(measurements)
    best = recommended(assessments)
    assert best is not None
    assert best is assessments[1]
    assert best.trials_in_budget == pytest.approx(100)
    low, high = gain_difference(best, assessments[0], measurements, seed=0)
    assert low < best.gain - assessments[0].gain < high


def test_networks_without_all_trials_do_not_count() -> None:
    measurements = made()
    measurements[0].accuracies[2, 0] = np.nan
    measurements[1].accuracies[5, 0] = np.nan
    (proxy,) = judge(measurements)
    assert proxy.num_networks == 10
    measurements[1].accuracies[:7] = np.nan
    assert judge(measurements) == []


def test_a_variant_without_trials_is_left_out() -> None:
    measurements = made(seconds=(10.0, 5.0))
    empty = np.full((12, 2), np.nan)
    measurements[2] = replace(measurements[2], accuracies=empty, seconds=empty)
    assert len(judge(measurements)) == 1
