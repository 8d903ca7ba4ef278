"""A user's own PyTorch builder as a network that can be counted, scaled and trained.

A builder is a callable of two factors and a number of pixels::

    # my_module.py
    def build(*, depth: float, width: float, resolution: int) -> nn.Module:
        return MyNetwork(blocks=math.ceil(4 * depth), channels=round(32 * width))

``my_module:build@64`` is its base: depth = width = 1, images of 64 px. Scaling multiplies the two
factors and sets the resolution; how a factor becomes whole blocks and channels is the builder's
own affair. Its module maps images ``(N, 3, resolution, resolution)`` to logits ``(N, classes)``, in
training too, and its constructors initialise it.

**Which code runs.** A file never decides that. Its JSON names the builder, but reading it imports
nothing, and where a flag names the file, the builder must be spelled out beside it,
``my_module:build@B1.json`` (`search_spaces.zoo.load_architecture`): what comes from elsewhere and
names other code is refused. Only the record that a run keeps for itself is read without.
"""

import json
import math
import re
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from search_spaces.architecture import SCHEMA, Architecture, ArchitectureError

if TYPE_CHECKING:
    from search_spaces.building import Facts
    from search_spaces.cost import Cost

REFERENCE = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"
"""Form of a builder's name."""


class BuilderError(ArchitectureError):
    """A builder that cannot be had, or that breaks the rules for one."""


@dataclass(frozen=True, kw_only=True)
class BuiltNetwork:
    """What a builder makes of a depth, a width and a resolution.

    Where a network is counted, scaled or trained it stands in the place of an `Architecture`. The
    properties below build the module (without memory for its weights, where the builder allows
    that) the first time, and raise `BuilderError` if it breaks a rule.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    """A label for people; not part of `digest`."""
    reference: str
    """``my_module:build``."""
    resolution: int
    """Side of the square input, in pixels."""
    depth: float = 1.0
    """Factor of depth that the builder gets."""
    width: float = 1.0
    """Factor of width."""

    in_channels: ClassVar[int] = 3
    widths: ClassVar[tuple[int, ...]] = ()
    """Known to the builder alone, as are the two below."""
    num_blocks: ClassVar[None] = None
    dropout: ClassVar[None] = None

    def __post_init__(self) -> None:
        if not re.fullmatch(REFERENCE, self.reference):
            raise BuilderError(
                f"A builder has the form my_module:function, but got {self.reference!r}."
            )
        for axis, factor in (("depth", self.depth), ("width", self.width)):
            if not 0 < factor < math.inf:
                raise BuilderError(f"`0 < {axis}` must hold and be finite, but got {factor}.")
        if self.resolution < 1:
            raise BuilderError(f"`resolution >= 1` must hold, but got {self.resolution}.")

    @property
    def call(self) -> str:
        """The call that builds it, for messages."""
        factors = f"depth={self.depth:.6g}, width={self.width:.6g}"
        return f"{self.reference}({factors}, resolution={self.resolution})"

    @property
    def digest(self) -> str:
        """Twelve hex digits; equal where the same builder's modules are equal in what PyTorch
        prints of them (``repr``), in their tensors' names and shapes, and in resolution.

        So factors that round to the same module are one network. What ``repr`` does not show,
        such as a number that only `forward` knows, tells no two networks apart: show it by
        `extra_repr`.
        """
        return self._facts.digest

    @property
    def num_classes(self) -> int:
        return self._facts.num_classes

    @property
    def cost(self) -> "Cost":
        """As `search_spaces.cost.count` gives it."""
        return self._facts.cost

    @property
    def _facts(self) -> "Facts":
        from search_spaces.building import facts_of  # needs torch, which a description does not

        return facts_of(self.reference, self.depth, self.width, self.resolution)

    def to_json(self) -> str:
        """The JSON form; `network_from_json` gives back an equal value."""
        fields = asdict(self)
        return json.dumps({"schema": SCHEMA, "builder": fields.pop("reference"), **fields}) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read `to_json`'s form; nothing is imported.

        Raises:
            BuilderError: The text is of another form or schema, or breaks a rule.
        """
        fields = _object(text)
        schema = fields.pop("schema", None)
        if schema != SCHEMA:
            raise BuilderError(
                f"This file has schema {schema!r}; this version reads schema {SCHEMA}. "
                "Read it with the version that wrote it."
            )
        fields["reference"] = fields.pop("builder", None)
        try:
            return TypeAdapter(cls).validate_json(json.dumps(fields), strict=True)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, problem['loc'])) or 'network'}: {problem['msg']}"
                for problem in error.errors()
            )
            raise BuilderError(f"The builder's network is not valid: {problems}.") from error


AnyNetwork = Architecture | BuiltNetwork
"""A network that can be counted, scaled and trained."""


def network_from_json(text: str | bytes) -> AnyNetwork:
    """The JSON form of either kind of network; nothing is imported.

    Raises:
        ArchitectureError: The text is of neither form, or breaks a rule.
    """
    if "builder" in _object(text):
        return BuiltNetwork.from_json(text)
    return Architecture.from_json(text)


def base_of_builder(reference: str, resolution: int) -> BuiltNetwork:
    """A builder's network at factors of 1, for images of `resolution` px; imports the builder.

    Raises:
        BuilderError: It cannot be imported, breaks a rule, or leaves a factor unused.
    """
    from search_spaces.building import check_training

    base = BuiltNetwork(name=reference, reference=reference, resolution=resolution)
    digest = base.digest  # first of all, so that what is wrong is said of the base
    check_training(base)
    for axis in ("depth", "width"):
        if replace(base, **{axis: 2.0}).digest == digest:
            raise BuilderError(
                f"{reference} builds the same module for {axis}=2 as for {axis}=1, so there is no "
                f"scaling its {axis}. Let the number of "
                f"{'blocks' if axis == 'depth' else 'channels'} follow `{axis}`."
            )
    return base


def _object(text: str | bytes) -> dict[str, object]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArchitectureError(f"This is not the JSON of an architecture: {error}.") from error
    return fields if isinstance(fields, dict) else {}
