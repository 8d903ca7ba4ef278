"""The flags of scaling_search.family, and what they ask for: members, constants, a baseline."""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from nas import cli
from nas.costs.metrics import MACS, PARAMS, Metric
from scaling_search.compound import Coefficients
from scaling_search.constants import read_constants
from scaling_search.hardware import Device
from scaling_search.members import Steps
from scaling_search.released import RELEASED
from search_spaces.builder import AnyNetwork

_PHIS = tuple(float(phi) for phi in range(8))


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What members may cost."""

    metric: Metric
    values: list[float]
    """In the metric's unit, ascending."""
    at_most: bool
    """Whether they are limits."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Give the coefficients by --constants, by --alpha --beta --gamma, or by --released."""

    SECTIONS: ClassVar[cli.Sections] = {
        "member": (
            "phi",
            "target_flops",
            "target_params",
            "target_latency",
            "target_memory",
            "at_most",
        ),
        "scaling": ("depth_rounding", "resolution_step"),
        "measurement": ("measure", "device", "threads", "train_batch"),
    }

    baseline: str | None = None
    """An architecture's JSON file, a zoo name, or your own builder as my_module:build@64; without
    it --released takes efficientnet-b0."""
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
    phi: tuple[float, ...] | None = None
    """Members B<phi> to write, by default 0 to 7; negative: smaller networks. With --released:
    B-indices, 0 to 8. Dropout grows by .05 per phi, up to .5."""
    target_flops: tuple[cli.Number, ...] | None = None
    """Instead of --phi: multiply-adds of each member (conv + linear, the papers' FLOPs), such as
    200M 400M. phi is solved for, by the network's own cost, not the formula's, and the files are
    named B200M.json, B400M.json."""
    target_params: tuple[cli.Number, ...] | None = None
    """Or parameters: B5M-params.json."""
    target_latency: tuple[float, ...] | None = None
    """Or milliseconds of an inference of one image, measured on --device: B20ms.json."""
    target_memory: tuple[cli.Number, ...] | None = None
    """Or the peak bytes of a training step of --train-batch images, such as 8G (8e9); this is a
    limit, so the largest network up to it: B8G-memory.json."""
    at_most: bool = False
    """Make every target a limit; otherwise the nearest network by ratio is taken."""
    depth_rounding: Literal["ceil", "round"] | None = None
    """Repeats are rounded up (ceil, as published) or half up. Default: ceil; round if phi < 0."""
    resolution_step: int | None = None
    """Pixels that resolutions are a multiple of. Default: 8 at 224 px, less for smaller images. A
    builder whose module takes multiples of 16 px alone, as with patches of 16, needs 16."""
    compare_released: bool = False
    """Print which phi of these coefficients EfficientNet's B1 to B7 would have."""
    measure: bool = True
    """Count the memory that each member needs in training and inference, measure its latency at
    batch 1 and 64, and mark those that do not fit. --no-measure is quick."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where members are measured and are to be trained; auto: the GPU if there is one."""
    threads: int | None = None
    """CPU threads of a measurement; by default as many as PyTorch takes."""
    train_batch: int = 128
    """Images of a training step, for its memory."""
    dry_run: bool = False
    """Print the tables, write nothing."""

    @property
    def steps(self) -> Steps:
        return Steps(depth=self.depth_rounding, resolution=self.resolution_step)

    def find_device(self) -> Device:
        """The device that members are for.

        Raises:
            ValueError: There is no such device.
        """
        return Device.at_hand(self.device, threads=self.threads)

    def check(self) -> None:
        """Raises UserError where flags contradict one another, before anything is loaded."""
        given = self._given_targets()
        if self.at_most and not given:
            raise cli.UserError("--at-most is about targets; give one, as --target-flops 400M.")
        others = [*given, *(["--phi"] if self.phi is not None else [])]
        others += ["--released"] if self.released else []
        if given and len(others) > 1:
            raise cli.UserError(
                f"Members are asked for in one way; got {' and '.join(others)}. Published networks "
                "have an index and no phi to solve for."
            )
        if self.train_batch < 2:
            raise cli.UserError(f"`--train-batch >= 2` must hold; got {self.train_batch}.")

    def baseline_argument(self) -> str:
        """What names the baseline.

        Raises:
            UserError: Nothing does.
        """
        if self.baseline is not None:
            return self.baseline
        if self.released:
            return "efficientnet-b0"
        raise cli.UserError(
            "--baseline is missing: an architecture's JSON file, or a zoo name such as "
            "efficientnet-b0. Only --released has a default."
        )

    def phis(self) -> list[float]:
        """The phi asked for, ascending, each once.

        Raises:
            UserError: They do not make a family.
        """
        asked = _PHIS if self.phi is None else self.phi
        phis = sorted({phi + 0.0 for phi in asked})  # + 0.0: -0 is 0
        if not phis:
            raise cli.UserError("--phi needs at least one number.")
        if self.released and not all(f"B{phi:g}" in RELEASED for phi in phis):
            got = " ".join(f"{phi:g}" for phi in phis)
            raise cli.UserError(f"--released has the members 0 to 8; got --phi {got}.")
        if len({f"{phi:g}" for phi in phis}) < len(phis):
            raise cli.UserError(
                "Two values of --phi agree in six digits, so their files would have one name; got "
                f"{', '.join(map(repr, phis))}."
            )
        return phis

    def targets(self) -> Targets | None:
        """What members may cost; None: they are asked for by phi.

        Raises:
            ValueError: The targets do not make a family, or cannot be measured here.
        """
        given = self._given_targets()
        if not given:
            return None
        ((flag, asked),) = given.items()
        values = sorted(set(asked))
        if not values:
            raise cli.UserError(f"{flag} needs at least one number.")
        if not all(0 < value < math.inf for value in values):
            got = " ".join(f"{value:g}" for value in values)
            raise cli.UserError(f"{flag} needs numbers above 0; got {got}.")
        if len({cli.format_number(value) for value in values}) < len(values):
            raise cli.UserError(
                f"Two values of {flag} agree in four digits, so their files would have one name; "
                f"got {', '.join(map(repr, values))}."
            )
        at_most = self.at_most or flag == "--target-memory"
        return Targets(metric=self._metric(flag), values=values, at_most=at_most)

    def coefficients(self, base: AnyNetwork) -> Coefficients | None:
        """From the one source that is given; None for the released factors.

        Raises:
            ValueError: None or several are given, or they are no coefficients.
        """
        numbers = {f"--{name}": getattr(self, name) for name in ("alpha", "beta", "gamma")}
        given = [flag for flag, value in numbers.items() if value is not None]
        sources = [
            *(["--constants"] if self.constants is not None else []),
            *([" ".join(given)] if given else []),
            *(["--released"] if self.released else []),
        ]
        if len(sources) != 1:
            raise cli.UserError(
                "The coefficients come from one of --constants FILE, --alpha --beta --gamma, or "
                f"--released; got {' and '.join(sources) or 'none of them'}."
            )
        if self.released:
            return None
        if self.constants is not None:
            return constants_for(base, self.constants)
        if len(given) < len(numbers):
            missing = " and ".join(flag for flag in numbers if flag not in given)
            raise cli.UserError(f"--alpha, --beta and --gamma belong together; {missing} missing.")
        return Coefficients(*numbers.values())

    def _given_targets(self) -> dict[str, tuple[float, ...]]:
        values = {
            "--target-flops": self.target_flops,
            "--target-params": self.target_params,
            "--target-latency": self.target_latency,
            "--target-memory": self.target_memory,
        }
        return {flag: value for flag, value in values.items() if value is not None}

    def _metric(self, flag: str) -> Metric:
        if flag == "--target-latency":
            from nas.costs.latency import Latency

            device, file = self.find_device(), self.out / "latency.json"
            return Latency(file=file, device=device.kind, threads=device.threads, writes=False)
        if flag == "--target-memory":
            from nas.costs.memory import Memory

            return Memory(batch_size=self.train_batch)
        return {"--target-flops": MACS, "--target-params": PARAMS}[flag]


def constants_for(base: AnyNetwork, file: Path) -> Coefficients:
    """The constants of a file; warns if they are another network's, or not resolved.

    Raises:
        ValueError: The file cannot be read, or is none of constants.
    """
    constants = read_constants(file)
    fitted = constants.baseline
    if fitted is not None and fitted.digest != base.digest:
        warn(
            f"{file} was fitted to {fitted.name!r} (digest {fitted.digest}), not to {base.name!r} "
            f"(digest {base.digest}); its constants may suit this baseline less."
        )
    if constants.source == "default":
        warn(
            f"{file}: noise explains all that its trials differ by, so these constants are a "
            "default and no fit; see its `remedies`."
        )
    elif not constants.resolved:
        warn(f"{file}: the trials could not tell these constants from others; see its `tied`.")
    return constants.coefficients


def warn(message: str) -> None:
    """A warning of the command's, to stderr."""
    print(f"warning: {message}", file=sys.stderr)
