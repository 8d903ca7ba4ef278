"""`python -m scaling_search.family`: a baseline and three constants become B0, B1, ... B7.

Members are asked for by phi, or by what each may cost, which is then solved for phi.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from nas import cli
from nas.folder import warn_of_changes
from nas.untrusted import csv_text
from scaling_search.compound import Coefficients, default_rounding
from scaling_search.device import Device
from scaling_search.family_report import (
    implied_text,
    members_text,
    off_target,
    rules,
    tinynet_text,
)
from scaling_search.family_settings import Settings, Targets, warn
from scaling_search.hardware import Needs, member_needs, needs_frame, needs_table
from scaling_search.members import (
    Member,
    family_table,
    implied_table,
    member_at,
    member_for,
    released_member,
)
from scaling_search.next_training import data_words, training_lines
from scaling_search.pixel_steps import suggesting_steps
from search_spaces.builder import AnyNetwork
from search_spaces.cost import count
from search_spaces.files import atomic_write
from search_spaces.zoo import load_architecture


@dataclass(frozen=True, kw_only=True)
class _Family:
    """What the command makes."""

    base: AnyNetwork
    coefficients: Coefficients | None
    """None: the published factors."""
    members: list[Member]
    targets: Targets | None
    """None: by phi."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    return cli.main(
        run, Settings, argv, prog="python -m scaling_search.family", description=__doc__ or ""
    )


def run(settings: Settings) -> int:
    """Scale, print, and write unless it is a dry run.

    Raises:
        ValueError: Settings, files or coefficients from which no family can be made.
    """
    settings.check()
    warn_of_changes(settings.baseline_argument(), settings.constants)
    base = load_architecture(settings.baseline_argument())
    step = settings.steps.rounding(default_rounding(base, 1)).resolution_divisor
    with suggesting_steps(base, step):
        family = _make(base, settings)
        table = family_table(family.members, count(base).macs)
    print(f"\n{_report(settings, family, table)}\n")
    if not settings.dry_run:
        _write(family.members, table, settings.out)
    needs = []
    if settings.measure:
        device = settings.find_device()
        needs = _measure(family.members, settings, device)
        if not settings.dry_run:
            _write([], table.join(needs_frame(needs, device)), settings.out)
    if settings.dry_run:
        print(f"dry run, nothing written to {settings.out}")
    else:
        _say_written(family.members, settings.out)
        for line in _next(family.members, needs, settings):
            print(line)
    return 0


def _make(base: AnyNetwork, settings: Settings) -> _Family:
    """The family that the flags ask for; says what it is made of."""
    coefficients = settings.coefficients(base)
    targets = settings.targets()
    phis = settings.phis() if targets is None else []
    print(
        f"base    {base.name!r} · {base.resolution} px · "
        f"{cli.format_number(count(base).macs)} MACs (conv + linear) · digest {base.digest}"
    )
    steps = settings.steps
    if coefficients is None:
        members = [released_member(base, int(phi), steps) for phi in phis]
        print("scale   the published factors of EfficientNet, by index")
        print("rules   dropout and rounding as published; another baseline's dropout moves alike")
        return _Family(base=base, coefficients=None, members=members, targets=None)
    print(
        f"scale   {coefficients} · x{coefficients.product:.4g} MACs per phi by the formula, "
        "before rounding"
    )
    if targets is None:
        members = [member_at(base, coefficients, phi, steps) for phi in phis]
    else:
        how = "largest up to" if targets.at_most else "nearest to"
        print(f"solve   {how} {targets.metric.describe()}")
        members = [
            member_for(base, coefficients, value, targets.metric, steps, at_most=targets.at_most)
            for value in targets.values
        ]
    print(f"rules   {rules(base, steps, [member.phi for member in members])}")
    return _Family(base=base, coefficients=coefficients, members=members, targets=targets)


def _report(settings: Settings, family: _Family, table: pd.DataFrame) -> str:
    """The tables; warnings go to stderr."""
    metric = None if family.targets is None else family.targets.metric
    texts: list[str | None] = [members_text(table, family.members, metric)]
    if family.coefficients is None:
        texts.append(implied_text(table))
    elif settings.compare_released:
        compared = implied_table(family.base, family.coefficients)
        texts.append(implied_text(compared, family.coefficients))
    texts.append(tinynet_text(family.members, table))
    if metric is not None:
        message = off_target(family.members, metric, family.base, settings.steps)
        if message:
            warn(message)
    if same := table["name"][table.duplicated("digest", keep=False)].tolist():
        warn(f"{', '.join(same)}: some of these are one network, by rounding; see their digests.")
    return "\n\n".join(text for text in texts if text is not None)


def _measure(members: Sequence[Member], settings: Settings, device: Device) -> list[Needs]:
    """What the members need on the device, printed."""

    def progress(needs: Needs) -> None:
        print(f"measured {needs.name}", file=sys.stderr)

    networks = [replace(member.architecture, name=member.name) for member in members]
    needs = member_needs(networks, device, train_batch=settings.train_batch, on_member=progress)
    print(f"{needs_table(needs, device)}\n")
    return needs


def _write(members: Sequence[Member], table: pd.DataFrame, out: Path) -> None:
    try:
        for member in members:
            atomic_write(out / f"{member.name}.json", member.architecture.to_json())
        atomic_write(out / "family.csv", csv_text(table))
    except OSError as error:
        raise cli.UserError(f"{out} cannot be written: {error.strerror}.") from error


def _say_written(members: Sequence[Member], out: Path) -> None:
    others = {file.stem for file in out.glob("B*.json")} - {member.name for member in members}
    files = ",".join([*(f"{member.name}.json" for member in members), "family.csv"])
    print(f"wrote   {out}/{{{files}}}")
    if others:
        warn(f"{out} also has {', '.join(sorted(others))}, of an earlier run and not in the table.")


def _next(members: Sequence[Member], needs: Sequence[Needs], settings: Settings) -> Iterator[str]:
    further = [] if settings.device == "auto" else ["--device", settings.device]
    data = data_words(settings.baseline, settings.constants)
    return training_lines(members, needs, settings.out, data, further)


if __name__ == "__main__":
    sys.exit(main())
