"""What every command shares: flags from a dataclass, numbers such as `400M`, errors in one line."""

import errno
import io
import math
import os
import re
import shlex
import signal
import sys
from collections import ChainMap, defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from nas.interrupts import Interruptible
from nas.untrusted import printable_lines
from search_spaces import references
from search_spaces.numbers import format_number

_SUFFIXES = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}

_DISK_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM),
    *(errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
)
"""A disk that is full or goes bad, which comes in the middle of work; or a file that is not to be
had, or another kind of thing under its name."""

GOES_ON = "What is finished is kept, and the same command goes on."
"""The end of an error that time or the user puts right."""

MAX_SEED = 2**32 - 1
"""Sums with it are seeds that torch and numpy take."""

Sections = Mapping[str, Sequence[str]]
"""Parts of a command's `--help`: what they are about -> names of flags. A class of settings has
them as `SECTIONS`, before those that it inherits; flags in none of them come first."""

Settings = TypeVar("Settings")


class UserError(ValueError):
    """Something the user can put right; shown in one line, without a traceback."""


def parse_number(text: str) -> float:
    """`400M`, `1.2G`, `0.4e9` or `400000000` as a float.

    Raises:
        ValueError: The text is no finite number with an optional suffix K, M, G, B or T.
    """
    match = re.fullmatch(r"\s*([+-]?[\d_.]+(?:[eE][+-]?\d+)?)\s*([KMGBT]?)\s*", text, re.IGNORECASE)
    try:
        value = float(match[1]) * _SUFFIXES[match[2].upper()] if match else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a number such as 400M, 1.2G or 4e8")
    return value


def format_duration(seconds: float) -> str:
    """`0:42`, `12:05` or `3:10:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def plural(number: int, noun: str, nouns: str = "") -> str:
    """`1 trial`, `3 trials`; `nouns` where the plural is no mere s more."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


_NUMBER: Any = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="NUMBER",
    instance_from_str=lambda args: parse_number(args[0]),
    is_instance=lambda value: value is None or isinstance(value, int | float),
    str_from_instance=lambda value: ["none" if value is None else format_number(value)],
)
Number = Annotated[float, _NUMBER]
"""A float flag that accepts `400M` and `1.2G`."""
OptionalNumber = Annotated[float | None, _NUMBER]
"""The same, where leaving the flag out means None."""
_NUMBERS = (Number, OptionalNumber)


def format_bytes(value: float) -> str:
    """`512 B`, `76.3 MiB` or `10.1 GiB`."""
    units = ["B", "KiB", "MiB", "GiB"]
    power = 0
    while value >= 1000 and power < len(units) - 1:  # four digits are the next unit's
        value, power = value / 1024, power + 1
    decimals = 0 if power == 0 or value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{decimals}f} {units[power]}"


def load_function(reference: str, flag: str) -> Callable[..., Any]:
    """The function that ``my_module:name`` names; the working directory is searched too.

    Raises:
        UserError: The reference has another form, does not import, or names no function.
    """
    try:
        found = references.load_object(reference, flag)
    except references.UnresolvedError as error:
        raise UserError(str(error)) from error
    if not callable(found):
        raise UserError(f"`{flag} {reference}` names {found!r}, which is no function.")
    return found


def main(
    run: Callable[[Settings], int],
    settings: type[Settings],
    argv: Sequence[str] | None,
    *,
    prog: str,
    description: str,
) -> int:
    """Parse `argv` into `settings` and run; the exit status.

    A `ValueError` of ours, one of the settings' values too, and a disk that takes no more, are
    printed in one line (status 2).
    Ctrl-C and SIGTERM unwind the run, so that it can save and say how to go on (status 130 and
    143); a second one ends it at once. So does a pipe that nobody reads from any more (status 141).
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name need not be text in any encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    args = sys.argv[1:] if argv is None else list(argv)
    parsed: Any = tyro.cli(
        settings,
        args=args,
        prog=prog,
        description=description,
        registry=_flags_of(settings),
        # None is to leave the flag out; a section is no part of a flag's name.
        config=(tyro.conf.DisallowNone, tyro.conf.OmitArgPrefixes),
    )
    with Interruptible() as interruption:
        try:
            return run(parsed())
        except KeyboardInterrupt:
            return interruption.status
        except ValueError as error:
            print(f"error: {printable_lines(error)}", file=sys.stderr)
            return 2
        except BrokenPipeError as error:
            with suppress(BrokenPipeError):  # as of `2>&1 | head`
                print(f"error: Nobody reads on: {error.strerror}. {GOES_ON}", file=sys.stderr)
            # Else Python flushes once more at its end, and complains.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (sys.stdout, sys.stderr):
                os.dup2(nowhere, stream.fileno())
            return 128 + signal.SIGPIPE
        except OSError as error:
            if error.errno not in _DISK_ERRORS:
                raise
            print(f"error: {printable_lines(_disk_error(error))}", file=sys.stderr)
            return 2


def _flags_of(settings: type[Any]) -> ConstructorRegistry:
    """How flags become settings, and how `--help` shows them.

    What is parsed makes the settings when it is called, since tyro names the class in what that
    raises. The help has required flags first, sections last, docstrings as running text, and of the
    defaults those that the text does not tell.
    """
    info = StructTypeInfo.make(settings, tyro.MISSING_NONPROP, in_union_context=False)
    spec = ConstructorRegistry.get_struct_spec(info)
    assert isinstance(spec, StructConstructorSpec)
    shown = {field.name: _shown(field) for field in spec.fields}
    specs: dict[type[Any], StructConstructorSpec] = {}
    sections: list[StructFieldSpec] = []
    for about, names in _sections_of(settings).items():
        section, flags = type(about, (), {}), tuple(map(shown.pop, names))
        specs[section] = replace(spec, instantiate=dict, fields=flags)
        sections.append(
            StructFieldSpec(name=about, type=section, default=tyro.MISSING_NONPROP, helptext="")
        )

    def made(**given: Any) -> Callable[[], Any]:
        parts = [given.pop(section.name) for section in sections]
        return partial(settings, **dict(ChainMap(given, *parts)))

    first = sorted(shown.values(), key=lambda field: field.default is not tyro.MISSING_NONPROP)
    specs[settings] = replace(spec, instantiate=made, fields=(*first, *sections))
    registry = ConstructorRegistry()
    registry.struct_rule(lambda info: specs.get(info.type))
    return registry


def _sections_of(settings: type[Any]) -> dict[str, list[str]]:
    """Those of a class and of its bases, its own first."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for one in settings.__mro__:
        for about, names in vars(one).get("SECTIONS", {}).items():
            found[about] += names
    return found


def _shown(field: StructFieldSpec) -> StructFieldSpec:
    default, text = field.default, field.helptext

    def running_text() -> str:  # read from the source, and so when asked for only
        return " ".join(((text() if callable(text) else text) or "").split())

    def hint(label: str) -> str:
        if default is None or default is False or default == ():
            return ""
        return "(default: yes)" if default is True else f"(default: {label})"

    shown: Any = Annotated[field.type, tyro.conf.arg(help_behavior_hint=hint)]
    return replace(field, type=shown, helptext=running_text)


def _disk_error(error: OSError) -> str:
    place = error.filename2 or error.filename or "The output"
    return (
        f"{place} cannot be written or read: {error.strerror}. Put that right, such as by making "
        f"room. {GOES_ON}"
    )


def command_line(module: str, settings: Any, only: Container[str] | None = None) -> str:
    """The command that gives these settings, or `only` some; those at their defaults are left
    out."""
    words = ["python", "-m", module]
    types = get_type_hints(type(settings), include_extras=True)
    for field in fields(settings):
        if only is not None and field.name not in only:
            continue
        value = getattr(settings, field.name)
        flag = "--" + field.name.replace("_", "-")
        if value == field.default:
            continue
        if isinstance(value, bool) and isinstance(field.default, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            values = value if isinstance(value, tuple) else (value,)
            write = _number_value if types[field.name] in _NUMBERS else _flag_value
            words += [flag, *map(write, values)]
    return shlex.join(words)


def _number_value(value: float) -> str:
    """As people write it, where that is the same number."""
    with suppress(ValueError):  # beyond 999T there is an exponent
        if parse_number(short := format_number(value)) == value:
            return short
    return _flag_value(value)


def _flag_value(value: Any) -> str:
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)
