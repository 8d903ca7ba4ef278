"""A source looked at whole before anything is spent on it: all that is wrong, all at once."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from nas.data.images import Reading
from nas.data.reading import bad_images, fingerprint, notices, read, refuse, some
from nas.data.sources import ACCEPTED, Images, Source


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a source is, and what is wrong with it."""

    source: Source
    parts: Mapping[str, Images]
    """Every split that was looked at."""
    readings: Mapping[str, list[Reading]]
    """Of every image, which was decoded."""

    @property
    def bad(self) -> tuple[str, ...]:
        """A line for each image that cannot be used."""
        return bad_images(self.parts, self.readings)

    @property
    def layout(self) -> list[str]:
        """What is wrong with parts and classes, a sentence each."""
        return layout_problems(self.source)

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know but need not act on."""
        return notices(self.readings)

    def summary(self) -> str:
        """One line, as `ImageData.summary`."""
        counts = {split: len(part.labels) for split, part in self.parts.items()}
        source = self.source
        return " · ".join(
            (
                source.name,
                f"{sum(counts.values()):,} images",
                f"{len(source.classes):,} classes",
                " / ".join(f"{split} {count:,}" for split, count in counts.items()),
                f"fingerprint {fingerprint(source.classes, self.parts, self.readings)}",
            )
        )

    def good(self) -> Source:
        """The source without the images that cannot be used."""
        kept = {
            split: part.take(
                np.flatnonzero([not reading.problem for reading in self.readings[split]])
            )
            for split, part in self.parts.items()
        }
        others = {split: part for split, part in kept.items() if split != "train"}
        return replace(
            self.source,
            train=kept["train"],
            others=lambda: {split: part for split, part in others.items() if len(part.labels)},
            closed=frozenset(),
        )


def scan(source: Source, *, others: bool) -> Scan:
    """Decode every image of train, and of validation and test if `others`, and keep none.

    Raises:
        DataError: A split cannot be listed.
    """
    parts = {"train": source.train, **(source.others() if others else {})}
    nothing = np.arange(0)
    _, readings = read({s: (part, nothing) for s, part in parts.items()}, 1, decode_all=True)
    return Scan(source=source, parts=parts, readings=readings)


def layout_problems(source: Source) -> list[str]:
    """What is wrong with parts and classes, a sentence each with its remedy."""
    problems = list(source.problems)
    if len(source.classes) < 2:
        problems.append(
            f"{source.name} has {len(source.classes)} class ({', '.join(source.classes)}); "
            f"at least 2 are needed to tell apart. {ACCEPTED}"
        )
    counts = np.bincount(source.train.labels, minlength=len(source.classes))
    rare = set(np.flatnonzero(counts < 2).tolist()) - source.closed
    few = [f"{source.classes[i]} ({counts[i]})" for i in sorted(rare)]
    if few:
        problems.append(
            f"Classes of {source.name} with fewer than 2 train images: {some(few, ', ')}. "
            "One is trained on and one held out: add images, or remove the classes."
        )
    return problems


def without_bad(source: Source, *, others: bool) -> tuple[Source, tuple[str, ...]]:
    """The source without the images that cannot be used, and a line for each of these.

    Raises:
        DataError: Something else is wrong with it, or no class could be told from what is left.
    """
    seen = scan(source, others=others)
    good = seen.good()
    refuse(layout_problems(good), ())
    return good, seen.bad
