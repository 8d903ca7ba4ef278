"""Hypothesis strategies shared by the tests."""

from hypothesis import strategies as st

from search_spaces.architecture import Architecture, Stage, Stem
from search_spaces.ops import Bottleneck, MBConv, Op, PlainConv, SeparableConv

_kernels = st.sampled_from([1, 3, 5, 7])
_shares = st.sampled_from([0.01, 0.25, 1 / 3, 0.5, 1.0])
_choices = {
    "kernel": _kernels,
    "se_ratio": st.just(0.0) | _shares,
    "skip": st.sampled_from(["identity", "pool", "none"]),
}
_rates = st.floats(0, 0.99)


def ops() -> st.SearchStrategy[Op]:
    """Every op with every kind of kernel, squeeze-excite and skip."""
    expansions = st.sampled_from([1, 1.0, 1.5, 3, 6.0])
    return (
        st.builds(MBConv, expansion=expansions, **_choices)
        | st.builds(PlainConv, **_choices)
        | st.builds(SeparableConv, **_choices)
        | st.builds(Bottleneck, kernel=_kernels, ratio=_shares)
    )


names = st.text(st.characters(exclude_categories=("C", "Z")), max_size=10)
"""Printable, as an architecture's name must be."""


def architectures() -> st.SearchStrategy[Architecture]:
    """Small networks of any ops, odd resolutions and single channels included."""
    stages = st.builds(
        Stage,
        block=ops(),
        width=st.integers(1, 20),
        repeats=st.integers(1, 2),
        stride=st.integers(1, 3),
    )
    stems = st.builds(
        Stem,
        width=st.integers(1, 12),
        kernel=_kernels,
        stride=st.integers(1, 2),
        pool=st.booleans(),
    )
    return st.builds(
        Architecture,
        name=names,
        resolution=st.integers(1, 33),
        num_classes=st.integers(1, 12),
        stem=stems,
        stages=st.lists(stages, min_size=1, max_size=4).map(tuple),
        head_width=st.integers(0, 20),
        in_channels=st.sampled_from([1, 3]),
        activation=st.sampled_from(["silu", "relu", "relu6", "hardswish"]),
        dropout=_rates,
        drop_path=_rates,
        norm_eps=st.floats(1e-6, 1e-1),
        norm_momentum=st.floats(1e-3, 1),
    )
