"""`python -m scaling_search.family`: a baseline and three constants become B0, B1, ... B7."""

import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ValidationError
from tabulate import tabulate

from nas import cli
from scaling_search.compound import Coefficients, default_rounding, member_name, scale
from scaling_search.released import PAPER, RELEASED, release, released_rounding
from search_spaces.architecture import Architecture
from search_spaces.cost import count
from search_spaces.files import atomic_write
from search_spaces.rounding import Rounding
from search_spaces.zoo import load_architecture

_AXES = ("depth", "width", "resolution")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Give the coefficients by --constants, by --alpha --beta --gamma, or by --released."""

    baseline: str | None = None
    """An architecture's JSON file, or a zoo name; without it --released takes efficientnet-b0."""
    out: Path
    """Folder for B0.json, B1.json, ... and family.csv."""
    constants: Path | None = None
    """The constants.json that scaling_search.grid wrote."""
    alpha: float | None = None
    """Growth of depth per unit of phi."""
    beta: float | None = None
    """Growth of width per unit of phi."""
    gamma: float | None = None
    """Growth of resolution per unit of phi."""
    released: bool = False
    """Take EfficientNet's published factors, which are no powers of its constants."""
    phi: tuple[float, ...] = (0, 1, 2, 3, 4, 5, 6, 7)
    """Members B<phi> to write; negative: smaller networks. With --released: B-indices, 0 to 8."""
    depth_rounding: Literal["ceil", "round"] | None = None
    """Repeats are rounded up (ceil, as published) or half up. Default: ceil; round if phi < 0."""
    resolution_step: int | None = None
    """Pixels that resolutions are a multiple of. Default: 8 at 224 px, less for smaller images."""
    dry_run: bool = False
    """Print the table, write nothing."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One network of a family and the factors that made it."""

    name: str
    """File name without its suffix: B1."""
    phi: float
    """As asked for; of released networks the index."""
    architecture: Architecture
    factors: tuple[float, float, float]
    """Depth, width and resolution, before rounding."""
    implied_phi: tuple[float, float, float] | None = None
    """Of released networks: the phi of the paper's constants with these factors."""


class _Baseline(BaseModel):
    name: str = ""
    digest: str


class _Constants(BaseModel):
    """The keys of constants.json that matter here; others are evidence."""

    alpha: float
    beta: float
    gamma: float
    baseline: _Baseline | None = None
    tied: Any = None


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
    phis = _phis(settings)
    base = load_architecture(_baseline(settings))
    coefficients = _coefficients(settings, base)
    macs = count(base).macs
    print(
        f"base    {base.name!r} · {base.resolution} px · {cli.format_number(macs)} MACs (conv + "
        f"linear) · digest {base.digest}"
    )
    if coefficients is None:
        members = [_released_member(base, phi, settings) for phi in phis]
        print("scale   the published factors of EfficientNet, by index")
    else:
        members = [_member(base, coefficients, phi, settings) for phi in phis]
        print(
            f"scale   {coefficients} · x{coefficients.product:.4g} MACs per phi by the formula, "
            "before rounding"
        )
    table = family_table(members, macs)
    print(f"\n{_for_terminal(table)}\n")
    if settings.dry_run:
        print(f"dry run, nothing written to {settings.out}")
    else:
        _write(members, table, settings.out)
    return 0


def family_table(members: Sequence[Member], base_macs: int) -> pd.DataFrame:
    """One row a member, as in family.csv.

    Args:
        members: The family; all with `implied_phi` or all without.
        base_macs: Multiply-adds of the baseline; `ratio` is over these.

    Returns:
        Columns name, phi, resolution (px), params, macs, activations, ratio (measured), target
        (2^phi; not of released networks, whose index is no phi), the three factors before
        rounding, dropout, blocks, digest; of released networks also the implied phi.
    """
    whole = all(float(member.phi).is_integer() for member in members)
    rows = []
    for member in members:
        architecture, cost = member.architecture, count(member.architecture)
        row: dict[str, Any] = {
            "name": member.name,
            "phi": int(member.phi) if whole else member.phi,
            "resolution": architecture.resolution,
            "params": cost.params,
            "macs": cost.macs,
            "activations": cost.activations,
            "ratio": cost.macs / base_macs,
            "target": 2**member.phi if member.implied_phi is None else math.nan,
            **{f"{axis}_factor": f for axis, f in zip(_AXES, member.factors, strict=True)},
            "dropout": architecture.dropout,
            "blocks": sum(stage.repeats for stage in architecture.stages),
            "digest": architecture.digest,
        }
        if member.implied_phi is not None:
            row |= {f"phi_{axis}": phi for axis, phi in zip(_AXES, member.implied_phi, strict=True)}
            row["phi_macs"] = math.log(cost.macs / base_macs) / math.log(PAPER.product)
        rows.append(row)
    return pd.DataFrame(rows)


def _phis(settings: Settings) -> list[float]:
    """The members asked for, ascending, each once."""
    phis = sorted({phi + 0.0 for phi in settings.phi})  # + 0.0: -0 is 0
    if not phis:
        raise cli.UserError("--phi needs at least one number.")
    if settings.released and not all(f"B{phi:g}" in RELEASED for phi in phis):
        raise cli.UserError(
            f"--released has the members 0 to 8; got --phi {' '.join(f'{phi:g}' for phi in phis)}."
        )
    if len({f"{phi:g}" for phi in phis}) < len(phis):
        raise cli.UserError(
            "Two values of --phi agree in six digits, so their files would have one name; got "
            f"{', '.join(map(repr, phis))}."
        )
    return phis


def _baseline(settings: Settings) -> str:
    if settings.baseline is not None:
        return settings.baseline
    if settings.released:
        return "efficientnet-b0"
    raise cli.UserError(
        "--baseline is missing: an architecture's JSON file, or a zoo name such as "
        "efficientnet-b0. Only --released has a default."
    )


def _coefficients(settings: Settings, base: Architecture) -> Coefficients | None:
    """From the one source that was given; None for the released factors."""
    numbers = {f"--{name}": getattr(settings, name) for name in ("alpha", "beta", "gamma")}
    given = [flag for flag, value in numbers.items() if value is not None]
    sources = [
        *(["--constants"] if settings.constants is not None else []),
        *([" ".join(given)] if given else []),
        *(["--released"] if settings.released else []),
    ]
    if len(sources) != 1:
        raise cli.UserError(
            "The coefficients come from one of --constants FILE, --alpha --beta --gamma, or "
            f"--released; got {' and '.join(sources) or 'none of them'}."
        )
    if settings.released:
        return None
    if settings.constants is not None:
        return _read_constants(settings.constants, base)
    if len(given) < len(numbers):
        missing = " and ".join(flag for flag in numbers if flag not in given)
        raise cli.UserError(f"--alpha, --beta and --gamma belong together; {missing} missing.")
    return Coefficients(*numbers.values())


def _read_constants(file: Path, base: Architecture) -> Coefficients:
    try:
        constants = _Constants.model_validate_json(file.read_bytes(), strict=True)
    except OSError as error:
        raise cli.UserError(f"{file} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}"
            for problem in error.errors()
        )
        raise cli.UserError(
            f"{file} is not the constants.json of scaling_search.grid: {problems}."
        ) from error
    fitted = constants.baseline
    if fitted is not None and fitted.digest != base.digest:
        _warn(
            f"{file} was fitted to {fitted.name!r} (digest {fitted.digest}), not to {base.name!r} "
            f"(digest {base.digest}); its constants may suit this baseline less."
        )
    if constants.tied:
        _warn(f"{file}: the trials could not tell these constants from others; see its `tied`.")
    return Coefficients(constants.alpha, constants.beta, constants.gamma)


def _member(
    base: Architecture, coefficients: Coefficients, phi: float, settings: Settings
) -> Member:
    rounding = _rounding(default_rounding(base, phi), settings)
    name = member_name(base.name, phi)
    return Member(
        name=f"B{phi:g}",
        phi=phi,
        architecture=scale(base, coefficients, phi, rounding, name),
        factors=coefficients.factors(phi),
    )


def _released_member(base: Architecture, index: float, settings: Settings) -> Member:
    name = f"B{index:g}"
    factors = RELEASED[name]
    return Member(
        name=name,
        phi=index,
        architecture=release(name, base, _rounding(released_rounding(base), settings)),
        factors=(factors.depth, factors.width, factors.resolution_factor),
        implied_phi=factors.implied_phi,
    )


def _rounding(default: Rounding, settings: Settings) -> Rounding:
    step = settings.resolution_step
    return replace(
        default,
        depth=settings.depth_rounding or default.depth,
        resolution_divisor=default.resolution_divisor if step is None else step,
    )


def _for_terminal(table: pd.DataFrame) -> str:
    """The table in short, and of released networks a second one with the implied phi."""
    released = "phi_depth" in table
    rows: list[dict[str, Any]] = []
    implied: list[dict[str, Any]] = []
    for row in table.to_dict("records"):
        shown = {
            "name": row["name"],
            "px": row["resolution"],
            "blocks": row["blocks"],
            "params (M)": f"{row['params'] / 1e6:,.2f}",
            "MACs (M)": f"{row['macs'] / 1e6:,.1f}",
            "acts (M)": f"{row['activations'] / 1e6:,.2f}",
            "measured": f"x{row['ratio']:.3g}",
        }
        if released:
            phis = {f"by {axis}": f"{row[f'phi_{axis}']:.2f}" for axis in (*_AXES, "macs")}
            implied.append({"name": row["name"], **phis})
        else:
            shown["2^phi"] = f"x{row['target']:.3g}"
        shown |= {axis: f"{row[f'{axis}_factor']:.3g}" for axis in _AXES}
        rows.append({**shown, "dropout": f"{row['dropout']:.3g}"})
    if not released:
        return _tabulated(rows)
    return (
        f"{_tabulated(rows)}\n\nB1 ... B7 are not phi = 1 ... 7. The phi at which {PAPER} reach\n"
        f"these factors, and the measured MACs:\n\n{_tabulated(implied)}"
    )


def _tabulated(rows: Sequence[dict[str, Any]]) -> str:
    align = ("left", *["right"] * (len(rows[0]) - 1))
    return tabulate(rows, headers="keys", colalign=align, disable_numparse=True)


def _write(members: Sequence[Member], table: pd.DataFrame, out: Path) -> None:
    try:
        for member in members:
            atomic_write(out / f"{member.name}.json", member.architecture.to_json())
        atomic_write(out / "family.csv", table.to_csv(index=False))
        others = {file.stem for file in out.glob("B*.json")} - {member.name for member in members}
    except OSError as error:
        raise cli.UserError(f"{out} cannot be written: {error.strerror}.") from error
    files = ",".join([*(f"{member.name}.json" for member in members), "family.csv"])
    print(f"wrote   {out}/{{{files}}}")
    if others:
        _warn(
            f"{out} also has {', '.join(sorted(others))}, of an earlier run and not in the table."
        )
    larger = next((member for member in members if member.phi > 0), members[0])
    arch = shlex.quote(str(out / f"{larger.name}.json"))
    print(f"next    python -m nas.train --arch {arch} --data ... --out ...")


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
