"""Resolutions that a user's builder cannot take, such as no multiple of its patch: the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from search_spaces.builder import AnyNetwork, BuilderError, BuiltNetwork
from search_spaces.cost import count


@contextmanager
def suggesting_steps(base: AnyNetwork, step: int) -> Iterator[None]:
    """Errors of the builder name the `--resolution-step` that would do, where one would.

    Args:
        base: The network that is scaled.
        step: Pixels that scaled resolutions are a multiple of.

    Raises:
        BuilderError: As raised within.
    """
    try:
        yield
    except BuilderError as error:
        if not isinstance(base, BuiltNetwork) or (found := working_step(base, step)) is None:
            raise
        raise BuilderError(
            f"{error} {base.reference} takes {base.resolution} and {base.resolution + found} px, "
            f"but not {base.resolution + step}: with --resolution-step {found} scaled networks "
            f"have multiples of {found} px."
        ) from error


def working_step(base: BuiltNetwork, step: int) -> int | None:
    """The smallest step in which the base's resolution can grow, if `step` is none such.

    None where the base takes `step` more pixels, so that these are not what is wrong, or where it
    takes no other resolution.
    """
    if _takes(base, step):
        return None
    divisors = (n for n in range(1, base.resolution + 1) if base.resolution % n == 0)
    return next((n for n in divisors if step % n and _takes(base, n)), None)


def _takes(base: BuiltNetwork, further: int) -> bool:
    """Whether the base can be built for so many pixels more."""
    try:
        count(replace(base, resolution=base.resolution + further))
    except BuilderError:
        return False
    return True
