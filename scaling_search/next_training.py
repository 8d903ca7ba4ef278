"""The training that `scaling_search.family` proposes: of which member, why, and on which images."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError

from nas.folder import CONFIG
from scaling_search.hardware import BATCH, Needs
from scaling_search.members import Member
from scaling_search.stopwatch import MOST_SECONDS
from search_spaces.zoo import file_argument, split_argument

UNKNOWN = "IMAGES"
"""Stands for images that nothing names."""
_DEFAULT_BATCH = 128
"""Images of a step of `nas.train`."""


class _Flags(BaseModel):
    """The flags of a run that a training on its images has too."""

    data: str
    evaluator: str | None = None
    flip: bool = True
    balanced: bool = False
    skip_bad: bool = False
    follow_links: bool = False

    @property
    def words(self) -> list[str]:
        words = ["--data", self.data]
        words += [] if self.flip else ["--no-flip"]
        words += ["--balanced"] if self.balanced else []
        words += ["--skip-bad"] if self.skip_bad else []
        return words + (["--follow-links"] if self.follow_links else [])


class _Config(BaseModel):
    """What a run folder's config.json says of that."""

    settings: _Flags


def data_words(*files: str | Path | None) -> list[str]:
    """The flags of `nas.train` that name the images, as the run had them that wrote a file.

    Args:
        files: What flags name: a baseline.json, a constants.json, or anything else. The first that
            lies in the folder of a run on images counts.

    Returns:
        `--data IMAGES` where no file does.
    """
    for file in filter(None, files):
        config = Path(split_argument(str(file))[1]).parent / CONFIG
        try:
            flags = _Config.model_validate_json(config.read_bytes(), strict=True).settings
        except (OSError, ValidationError):
            continue
        # An evaluator of the user's own looks at no --data.
        if flags.evaluator in (None, "supernet") and flags.data.isprintable():
            return flags.words
    return ["--data", UNKNOWN]


def training_lines(
    members: Sequence[Member],
    needs: Sequence[Needs],
    out: Path,
    data: Sequence[str],
    further: Sequence[str] = (),
) -> Iterator[str]:
    """Why this member, and the command that trains it.

    Args:
        members: The family, ascending in cost.
        needs: Of each member; empty: nothing was measured.
        out: The family's folder.
        data: From `data_words`.
        further: Flags to be added.
    """
    member, why, batch = _choice(members, needs)
    yield f"note    {member.name} is {why}"
    if UNKNOWN in data:
        yield f"note    {UNKNOWN} stands for your images: a folder, digits, or CIFAR10@/path"
    words = ["python", "-m", "nas.train"]
    words += ["--arch", file_argument(member.architecture, out / f"{member.name}.json"), *data]
    words += ["--out", str(out / member.name), *further]
    words += [] if batch == _DEFAULT_BATCH else ["--batch-size", str(batch)]
    yield f"next    {shlex.join(words)}"


def _choice(members: Sequence[Member], needs: Sequence[Needs]) -> tuple[Member, str, int]:
    """A member, what it is, and the images of a training step."""
    if not needs:
        member = next((member for member in members if member.phi > 0), members[0])
        what = "the first above the baseline" if member.phi > 0 else "the smallest"
        return member, f"{what}; which is the largest that fits, --measure tells", _DEFAULT_BATCH
    batch = needs[0].train_batch
    # Where the memory is not known, nothing says that a member does not fit.
    fitting = [i for i, need in enumerate(needs) if need.fits_training is not False]
    if not fitting:
        why = f"the smallest; no member fits in training with {batch} images a step on this device"
        return members[0], why, needs[0].largest_train_batch or batch
    quick = [i for i in fitting if needs[i].latency_ms_64 is not None]
    if not quick:
        why = f"the smallest; {BATCH} images take it more than {MOST_SECONDS:g} s, training longer"
        return members[fitting[0]], why, batch
    why = (
        f"the largest that fits in training with {batch} images a step and infers {BATCH} within "
        f"{MOST_SECONDS:g} s; smaller ones train sooner"
    )
    return members[quick[-1]], why, batch
