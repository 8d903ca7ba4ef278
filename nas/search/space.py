"""The search space that a flag names."""

from nas.cli import UserError, load_function
from search_spaces.architecture import Architecture
from search_spaces.spaces import SPACES, Space, sample_networks


def load_space(name: str, *, resolution: int, num_classes: int, target_macs: float) -> Space:
    """A space of ours by name, or the user's as ``my_module:function``.

    Raises:
        UserError: Neither.
        ValueError: The space cannot be brought near the target.
    """
    if name not in SPACES and ":" not in name:
        raise UserError(
            f"`--space` must be one of {', '.join(SPACES)}, or my_module:function; got {name!r}."
        )
    factory = SPACES.get(name) or load_function(name, "--space")
    return factory(resolution=resolution, num_classes=num_classes, target_macs=target_macs)


_SAMPLE = 15


def some_networks(space: Space) -> list[Architecture]:
    """A fixed sample of a space, to stand for all of it."""
    return sample_networks(space, _SAMPLE, seed=0)
