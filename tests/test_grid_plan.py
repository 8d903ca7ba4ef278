"""`python -m scaling_search.grid` before it trains: what it plans, announces and refuses."""

import re
from pathlib import Path
from typing import Any, Literal

import pytest

from scaling_search.grid import Settings, main
from scaling_search.grid_plan import prepare
from tests.grid_evaluators import arguments, candidates
from tests.trees import plant

NETWORKS = candidates()


def test_a_dry_run_measures_and_writes_nothing(
    tmp_path: Path, baseline: Path, calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    assert main(arguments(baseline, tmp_path / "run", "--dry-run")) == 0
    assert sorted(tmp_path.iterdir()) == before
    assert calls.read_text() == ""
    output = capsys.readouterr().out
    assert "plan    a race of at most 18 of 54 trainings (9 networks x 6 seeds) of 5" in output
    outside = sum(not 1.8 <= candidate.ratio <= 2.2 for candidate in NETWORKS)
    assert f"note    {outside} of 9 networks really cost more or less than the tolerance" in output


def test_images_are_stored_with_the_pixels_that_the_finest_network_sees(
    tmp_path: Path, baseline: Path
) -> None:
    """By the formula 46 px are enough, which steps of 16 px round up to 48."""
    plan = prepare(
        Settings(
            baseline=str(baseline),
            data=str(plant(tmp_path / "photos", {"a": 12, "b": 12}, size=(96, 96))),
            run_dir=tmp_path / "run",
            candidates=0,
            select="formula",
            resolution_step=16,
        )
    )
    assert plan.task.training is not None
    assert max(candidate.architecture.resolution for candidate in plan.candidates) == 48
    assert plan.task.training.data.train.images.shape[-1] == 48


@pytest.mark.parametrize(
    ("base", "cost"), [("tiny", "memory"), ("tests.builders:plain@16", "macs")]
)
def test_a_cost_that_takes_long_is_announced(
    base: str,
    cost: Literal["memory", "macs"],
    tmp_path: Path,
    baseline: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before the first network is costed: the plan comes minutes later."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scaling_search.grid_plan.find_candidates", interrupted)
    settings = Settings(
        baseline=str(baseline) if base == "tiny" else base,
        evaluator="tests.grid_evaluators:peaked",
        run_dir=tmp_path / "run",
        cost=cost,
    )
    with pytest.raises(KeyboardInterrupt):
        prepare(settings)
    assert capsys.readouterr().out.startswith(f"search  {cost} of up to some 300 networks")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--step", "0"], "`step > 0`"),
        (["--tolerance", "0.001"], "Raise the tolerance, take a smaller step, or widen the bounds"),
        (["--baseline", "b9"], "'b9' is neither a file nor a network of the zoo"),
        (["--evaluator", "tests.grid_evaluators"], "must have the form my_module:function"),
        (["--workers", "0"], "`--workers` must be at least 1, but got 0."),
        (["--trials", "8"], "A budget of 8 trainings does not suffice for one of each of the 9"),
        (["--cost", "params"], "formula"),
    ],
)
def test_what_cannot_be_is_one_line(
    flags: list[str],
    message: str,
    tmp_path: Path,
    baseline: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*arguments(baseline, tmp_path / "run"), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "flags",
    [
        *(["--seeds", "0"], ["--epochs", "0"], ["--seed", "-1"], ["--trials", "0"]),
        *(["--seed", str(2**32)], ["--hours", "inf"], ["--hours", "1e308"]),
        *(["--max-alpha", "0.5"], ["--max-beta", "nan"], ["--max-gamma", "inf"]),
    ],
)
def test_numbers_out_of_range_are_refused(
    flags: list[str], tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(baseline, tmp_path / "run"), *flags]) == 2
    assert re.search(rf"`{flags[0]}` must (be a|not be neg|be above 0)", capsys.readouterr().err)


@pytest.mark.parametrize("ratio", ["1", "0.5", "nan", "inf"])
def test_a_ratio_that_is_no_growth_is_refused(
    ratio: str, tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--ratio", ratio, "--tolerance", "0.5"]
    assert main([*arguments(baseline, tmp_path / "run"), *flags]) == 2
    assert "`--ratio` must be above 1" in capsys.readouterr().err


@pytest.mark.parametrize(("ratio", "tolerance"), [("1.05", "0.05"), ("2", "0.5")])
def test_a_tolerance_that_admits_no_growth_is_refused(
    ratio: str,
    tolerance: str,
    tmp_path: Path,
    baseline: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Rounding makes networks of the baseline's cost, whose share of width is 1."""
    flags = ["--ratio", ratio, "--tolerance", tolerance]
    assert main([*arguments(baseline, tmp_path / "run"), *flags]) == 2
    assert f"`--ratio {ratio}` with `--tolerance {tolerance}`" in capsys.readouterr().err
