"""What `python -m scaling_search.family` refuses: one line, status 2, nothing written."""

from pathlib import Path

import pytest

from tests.families import B0, PAPER, run_family


def test_constants_need_a_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_family([*PAPER, "--out", str(tmp_path / "family")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --baseline is missing: an architecture's JSON file, or a zoo")
    assert not (tmp_path / "family").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "got none of them."),
        ([*PAPER, "--released"], "got --alpha --beta --gamma and --released."),
        (["--constants", "c.json", "--released"], "got --constants and --released."),
        (["--alpha", "1.2"], "--beta and --gamma missing."),
        (["--alpha", "-1.2", "--beta", "1", "--gamma", "1"], "`alpha, beta, gamma > 0`"),
        (["--constants", "nowhere.json"], "nowhere.json cannot be read: No such file"),
        ([*PAPER, "--phi", "nan"], "`-1000 <= phi <= 1000` must hold; got nan"),
        ([*PAPER, "--phi", "60"], "Choose a smaller phi or alpha."),
        ([*PAPER, "--phi"], "--phi needs at least one number."),
        ([*PAPER, "--target-flops"], "--target-flops needs at least one number."),
        ([*PAPER, "--target-flops", "1G", "1.00001G"], "agree in four digits"),
        ([*PAPER, "--target-flops", "-1"], "--target-flops needs numbers above 0; got -1."),
        ([*PAPER, "--target-flops", "1"], "does not bring its multiply-adds to 1:"),
        ([*PAPER, "--target-flops", "1G", "--target-memory", "1G"], "Members are asked for in one"),
        ([*PAPER, "--target-flops", "1G", "--phi", "1"], "got --target-flops and --phi."),
        (["--released", "--target-flops", "1G"], "got --target-flops and --released."),
        ([*PAPER, "--at-most"], "--at-most is about targets"),
        ([*PAPER, "--train-batch", "1"], "`--train-batch >= 2` must hold; got 1."),
        ([*PAPER, "--phi", "1", "1.00000001"], "agree in six digits"),
        (["--released", "--phi", "9"], "--released has the members 0 to 8; got --phi 9."),
        (["--released", "--phi", "0.5"], "--released has the members 0 to 8"),
        (["--released", "--resolution-step", "0"], "Divisors must be at least 1"),
    ],
)
def test_what_cannot_be_is_one_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "family"
    assert run_family([*B0, *flags, "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Invalid JSON"),
        ("[]", "is not the constants.json of scaling_search.grid"),
        ('{"alpha": 1.2, "beta": "1.1"}', "beta: Input should be a valid number; gamma: Field"),
        ('{"alpha": 1.2, "beta": NaN, "gamma": 1}', "`alpha, beta, gamma > 0`"),
    ],
)
def test_a_broken_constants_file_is_one_line(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "constants.json"
    file.write_text(content)
    assert run_family([*B0, "--constants", str(file), "--out", str(tmp_path / "family")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_an_unknown_baseline_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_family(["--baseline", "b9", "--released", "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'b9' is neither a file nor a network of the zoo" in line


def test_an_output_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "file"
    out.write_text("")
    assert run_family([*B0, "--released", "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{out} cannot be written" in line
