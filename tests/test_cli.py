"""What the commands share: numbers, flags, errors, signals."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.cli import (
    Number,
    OptionalNumber,
    Sections,
    UserError,
    command_line,
    format_duration,
    format_number,
    main,
    parse_number,
    plural,
)


@dataclass(frozen=True, kw_only=True)
class Base:
    """What others inherit."""

    SECTIONS: ClassVar[Sections] = {"pace": ("careful",), "last": ("gpus",)}

    careful: bool = True
    gpus: float | None = None


@dataclass(frozen=True, kw_only=True)
class Flags(Base):
    """One of every kind."""

    SECTIONS: ClassVar[Sections] = {"name": ("name", "folder"), "pace": ("fast",)}

    count: int = 3
    rate: float = -0.07
    target: Number = 400e6
    limit: OptionalNumber = None
    """By default
    none."""
    times: int = 1
    """At least one."""
    name: str = "x"
    """A name that takes more than a single line of the source to say what it is good for,
    and where: in tests."""
    maybe: str | None = None
    folder: Path = Path("runs/a")
    fast: bool = False
    phi: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        if self.times < 1:
            raise UserError(f"`--times` must be at least 1, but got {self.times}.")


def _parse(args: list[str]) -> Flags:
    parsed: list[Flags] = []
    assert main(lambda flags: parsed.append(flags) or 0, Flags, args, prog="x", description="") == 0
    return parsed[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("400M", 400e6),
        ("400m", 400e6),
        ("1.2G", 1.2e9),
        ("1.2B", 1.2e9),
        ("5K", 5e3),
        ("2T", 2e12),
        ("4e8", 4e8),
        ("0.4e9", 4e8),
        ("400000000", 4e8),
        ("400_000_000", 4e8),
        (" 8.2 M ", 8.2e6),
        ("-0.07", -0.07),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, value: float) -> None:
    assert parse_number(text) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("text", ["", "M", "400MM", "4 00", "1e400", "nan", "inf", "..", "four"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number such as 400M"):
        parse_number(text)


@given(st.floats(1e-3, 1e13))
def test_a_formatted_number_reads_back(value: float) -> None:
    assert parse_number(format_number(value)) == pytest.approx(value, rel=5.1e-4)


@pytest.mark.parametrize(
    ("value", "text"), [(385_814_752, "385.8M"), (1.5e9, "1.5G"), (5_300, "5.3K"), (12, "12")]
)
def test_formatted_numbers(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (42.4, "0:42"), (59.6, "1:00"), (725, "12:05")]
)
def test_formatted_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
    assert format_duration(3 * 3600 + 600) == "3:10:00"


def test_flags_take_large_numbers() -> None:
    flags = _parse(["--target", "1.2G", "--limit", "400M", "--rate", "-0.5"])
    assert (flags.target, flags.limit, flags.rate) == (1.2e9, 400e6, -0.5)


def test_the_command_line_leaves_defaults_out() -> None:
    assert command_line("nas.run", Flags()) == "python -m nas.run"
    target = parse_number("8.2M")
    settings = Flags(folder=Path("runs/my run"), fast=True, careful=False, target=target)
    assert command_line("nas.run", settings) == (
        "python -m nas.run --no-careful --target 8.2M --folder 'runs/my run' --fast"
    )
    assert command_line("x", settings, only=("fast",)) == "python -m x --fast"
    exact = Flags(target=5_000_001, limit=30e6, gpus=2e6)
    assert command_line("x", exact) == "python -m x --gpus 2000000 --target 5000001 --limit 30M"


_texts = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1).filter(
    lambda text: not text.startswith("-")
)
_floats = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.builds(
        Flags,
        count=st.integers(),
        rate=_floats,
        target=_floats,
        limit=st.none() | _floats,
        name=_texts,
        maybe=st.none() | _texts,
        fast=st.booleans(),
        careful=st.booleans(),
        gpus=st.none() | _floats,
        phi=st.lists(st.integers(-3, 7), min_size=1).map(tuple),
    )
)
def test_the_command_line_gives_back_the_settings(settings: Flags) -> None:
    _, _, _, *args = shlex.split(command_line("nas.run", settings))
    assert _parse(args) == settings


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The help of `Flags`, on a wide terminal."""
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit):
        _parse(["--help"])
    return capsys.readouterr().out


def test_the_help_is_running_text_and_tells_no_default_that_is_none(shown: str) -> None:
    assert (
        "more than a single line of the source to say what it is good for, and where: in" in shown
    )
    assert "By default none.  " in shown
    hints = re.findall(r"\(default: (.*?)\)", shown)
    assert hints == ["3", "-0.07", "400M", "1", "1 2", "x", "runs/a", "yes"]


def test_the_help_is_in_sections_with_what_is_inherited_last(shown: str) -> None:
    titles = r"([a-z]+(?= options))"
    found = re.findall(rf"(?m)^\W*(?:{titles}|--(?!no-)([a-z]+))", shown)
    first = ["count", "rate", "target", "limit", "times", "maybe", "phi"]
    assert [flag or f"[{about}]" for about, flag in found] == [
        *first,
        "[name]",
        "name",
        "folder",
        "[pace]",
        "fast",
        "careful",
        "[last]",
        "gpus",
    ]


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 trials"), (1, "1 trial"), (2, "2 trials"), (12000, "12,000 trials")],
)
def test_plurals(number: int, words: str) -> None:
    assert plural(number, "trial") == words
    assert plural(number, "class", "classes").endswith(" class") == (number == 1)


def _main(run: Any, argv: list[str] | None = None) -> int:
    return main(run, Flags, argv or [], prog="python -m x", description="")


def test_settings_reach_the_run_and_its_status_comes_back() -> None:
    seen = []
    assert _main(lambda flags: seen.append(flags) or 7, ["--count", "5"]) == 7
    assert seen == [Flags(count=5)]


def test_an_error_of_the_user_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def run(_: Flags) -> int:
        raise UserError("`--x` must be 1, but got 2.")

    assert _main(run) == 2
    assert capsys.readouterr().err == "error: `--x` must be 1, but got 2.\n"


def test_so_is_a_value_that_the_settings_refuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert _main(lambda _: pytest.fail("ran"), ["--times", "0"]) == 2
    assert capsys.readouterr().err == "error: `--times` must be at least 1, but got 0.\n"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--target", "many"], "'many' is not a number such as 400M"),
        (["--cost", "1"], "Unrecognized options: --cost"),
    ],
)
def test_what_is_no_flag_or_no_value_is_refused_with_help(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        _main(lambda _: pytest.fail("ran"), flags)
    assert words in capsys.readouterr().err


def test_a_bug_of_ours_keeps_its_traceback() -> None:
    def run(_: Flags) -> int:
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        _main(run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_unwinds_the_run_and_sets_the_status(number: signal.Signals) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    unwound = []

    def run(_: Flags) -> int:
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            unwound.append(number)
        return 0

    assert _main(run) == 128 + number
    assert unwound == [number]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


_STUBBORN = """
import os, sys, time
from tests.test_cli import Flags
from nas.cli import main

def run(flags):
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
        time.sleep(10)
    finally:
        os.kill(os.getpid(), int(sys.argv[1]))
        time.sleep(10)

main(run, Flags, [], prog="x", description="")
"""


_FROM_TEXT = """
import sys
from tests.test_cli import Flags
from nas.cli import main

def run(flags):
    exec("import os, sys, time; os.kill(os.getpid(), int(sys.argv[1])); time.sleep(10)")

sys.exit(main(run, Flags, [], prog="x", description=""))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_sets_the_status_while_code_is_run_from_text(
    number: signal.Signals, tmp_path: Path
) -> None:
    """As in the import of a dataclass."""
    (tmp_path / "command.py").write_text(_FROM_TEXT)
    child = subprocess.run(
        [sys.executable, "-m", "command", str(int(number))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert child.returncode == 128 + number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_process_at_once(number: signal.Signals) -> None:
    root = Path(__file__).parents[1]
    child = subprocess.run([sys.executable, "-c", _STUBBORN, str(int(number))], cwd=root)
    assert child.returncode == 128 + number
