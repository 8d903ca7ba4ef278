"""A builder that takes few resolutions: what grid, validate and family say of it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from scaling_search import family, grid, validate
from scaling_search.pixel_steps import working_step
from search_spaces.builder import BuiltNetwork

PAPER = ["--alpha", "1.2", "--beta", "1.1", "--gamma", "1.15"]
EVALUATED = ["--evaluator", "tests.builders:evaluate", "--dry-run"]


@pytest.mark.parametrize(
    ("main", "flags"),
    [
        (grid.main, ["--run-dir", "OUT", *EVALUATED, "--tolerance", "0.3"]),
        pytest.param(
            validate.main, ["--run-dir", "OUT", *EVALUATED, *PAPER], marks=pytest.mark.slow
        ),
        (family.main, ["--out", "OUT", "--no-measure", "--phi", "1", *PAPER]),
    ],
)
def test_the_error_names_the_step_that_works(
    main: Callable[[Sequence[str]], int],
    flags: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["--baseline", "tests.builders:patches@64"]
    argv += [flag.replace("OUT", str(tmp_path / "out")) for flag in flags]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert "no whole patches in " in error
    assert error.endswith(
        " tests.builders:patches takes 64 and 80 px, but not 66: with --resolution-step 16 scaled "
        "networks have multiples of 16 px.\n"
    )
    assert main([*argv, "--resolution-step", "16"]) == 0


@pytest.mark.parametrize("name", ["only_64", "shallow"])
def test_what_no_step_helps_stays_as_it_is(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--baseline", f"tests.builders:{name}@64", "--out", str(tmp_path), "--no-measure"]
    assert family.main([*argv, "--phi", "6", *PAPER]) == 2
    assert "--resolution-step" not in capsys.readouterr().err


def test_the_smallest_step_is_found() -> None:
    def step(name: str, resolution: int, step: int) -> int | None:
        reference = f"tests.builders:{name}"
        base = BuiltNetwork(name=name, reference=reference, resolution=resolution)
        return working_step(base, step)

    assert [step("patches", pixels, 1) for pixels in (16, 48, 64)] == [16, 16, 16]
    assert step("patches", 64, 8) == 16
    assert step("patches", 64, 32) is None
    assert step("only_64", 64, 2) is None
    assert step("plain", 64, 2) is None
