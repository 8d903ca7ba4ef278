"""Architectures: rules, the JSON form, the digest and the walk."""

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
from hypothesis import given

from search_spaces.architecture import SCHEMA, Architecture, ArchitectureError, Stage, Stem, units
from search_spaces.ops import Bottleneck, MBConv, PlainConv, SeparableConv
from search_spaces.zoo import ZOO
from tests.golden_files import golden
from tests.strategies import architectures, names

B0 = ZOO["efficientnet-b0"]()


@given(architectures())
def test_json_round_trip(architecture: Architecture) -> None:
    read = Architecture.from_json(architecture.to_json())
    assert read == architecture
    assert read.digest == architecture.digest
    assert read.to_json() == Architecture.from_json(read.to_json()).to_json()


@pytest.mark.parametrize("name", ZOO)
def test_digests_never_change(name: str) -> None:
    assert ZOO[name]().digest == golden("zoo")[name]["digest"]


@given(architectures(), names)
def test_the_digest_ignores_the_name(architecture: Architecture, name: str) -> None:
    assert replace(architecture, name=name).digest == architecture.digest


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31mred", "x" * 201])
def test_names_that_a_terminal_would_obey_or_drown_in_are_refused(name: str) -> None:
    with pytest.raises(ArchitectureError, match="`name` must be at most 200 printable characters"):
        replace(B0, name=name)


def test_a_network_that_takes_for_ever_to_count_is_refused() -> None:
    stage = replace(B0.stages[0], repeats=10**9)
    with pytest.raises(ArchitectureError, match=r"At most 10,000 blocks .* has 1,000,000,015"):
        replace(B0, stages=(stage, *B0.stages[1:]))


def test_the_digest_takes_6_and_6_0_as_one_number() -> None:
    def with_expansion(expansion: float) -> Architecture:
        block = MBConv(expansion=expansion)
        return replace(B0, stages=(Stage(block=block, width=8, repeats=1, stride=1),))

    assert with_expansion(6).digest == with_expansion(6.0).digest
    assert with_expansion(6).digest != with_expansion(6.5).digest


OTHER_VALUES: dict[str, Any] = {
    "resolution": 225,
    "num_classes": 10,
    "stem": Stem(width=32, pool=True),
    "stages": B0.stages[:-1],
    "head_width": 0,
    "in_channels": 1,
    "activation": "relu",
    "dropout": 0.3,
    "drop_path": 0.0,
    "norm_eps": 1e-5,
    "norm_momentum": 0.1,
}


def test_every_field_but_the_name_is_in_the_digest() -> None:
    assert set(OTHER_VALUES) == {field.name for field in fields(Architecture)} - {"name"}
    digests = {replace(B0, **{name: value}).digest for name, value in OTHER_VALUES.items()}
    assert len(digests | {B0.digest}) == len(OTHER_VALUES) + 1


def test_architectures_are_frozen_and_hashable() -> None:
    with pytest.raises(FrozenInstanceError):
        B0.resolution = 240  # pyright: ignore[reportAttributeAccessIssue]
    assert len({B0, ZOO["efficientnet-b0"](), replace(B0, resolution=240)}) == 2


def _b0_json(**changes: Any) -> str:
    return json.dumps({**json.loads(B0.to_json()), **changes})


def _b0_json_with_block(**changes: Any) -> str:
    form = json.loads(B0.to_json())
    form["stages"][2]["block"] |= changes
    return json.dumps(form)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not the JSON of an architecture"),
        ("{", "not the JSON of an architecture"),
        (b"\xff", "not the JSON of an architecture"),
        ("[" * 100_000, "not the JSON of an architecture"),
        ("[]", "an object with a `schema` field|`schema`"),
        ("{}", "an object with a `schema` field"),
        (_b0_json(schema=SCHEMA + 1), f"schema {SCHEMA + 1}; this version reads schema {SCHEMA}"),
        (_b0_json(colour="red"), "colour: "),
        (_b0_json(resolution="224"), "resolution: .*integer"),
        (_b0_json(resolution=224.5), "resolution: .*integer"),
        (_b0_json(resolution=0), "`resolution >= 1` must hold, but got 0"),
        (_b0_json(num_classes=None), "num_classes: "),
        (_b0_json(activation="gelu"), "activation: .*'silu'"),
        (_b0_json(stages=[]), "`stages >= 1` must hold"),
        (_b0_json(head_width=-1), "`head_width >= 0` must hold"),
        (_b0_json(dropout=1.0), "`0 <= dropout < 1` must hold"),
        (_b0_json(norm_eps=0), "`norm_eps > 0`"),
        (_b0_json(stem={"width": 32, "kernel": 2}), "stem: .*`kernel` must be odd.*kernel=2"),
        (_b0_json(stem={"width": 0}), "stem: .*`width >= 1` must hold"),
        (_b0_json_with_block(op="attention"), "stages.2.block: .*'mbconv'"),
        (_b0_json_with_block(kernel=4), "stages.2.block.mbconv: .*`kernel` must be odd"),
        (_b0_json_with_block(se_ratio=2), "`0 <= se_ratio <= 1` must hold"),
        (_b0_json_with_block(skip="maybe"), "stages.2.block.mbconv.skip: "),
        (_b0_json_with_block(groups=2), "stages.2.block.mbconv.groups: "),
        (_b0_json_with_block(expansion=0.5), "`1 <= expansion <= 1000` must hold"),
        (_b0_json_with_block(expansion=float("nan")), "`1 <= expansion <= 1000`|finite"),
    ],
)
def test_a_broken_json_says_what_is_wrong(text: str | bytes, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        Architecture.from_json(text)


def test_every_offending_field_is_named() -> None:
    with pytest.raises(ArchitectureError, match=r"resolution: .*; num_classes: "):
        Architecture.from_json(_b0_json(resolution="x", num_classes="y"))


@pytest.mark.parametrize("op", [MBConv, PlainConv, SeparableConv, Bottleneck])
@pytest.mark.parametrize("kernel", [0, -1, 2])
def test_every_op_refuses_an_even_kernel(op: Any, kernel: int) -> None:
    with pytest.raises(ValueError, match="`kernel` must be odd"):
        op(kernel=kernel)


def test_b0_sizes_are_those_of_table_1() -> None:
    sizes = {unit.name: unit.in_size for unit in units(B0)}
    first = ["stem", *(f"stages.{i}.0" for i in range(7)), "head"]
    expected = golden("efficientnet_b0_stages")["resolutions"]
    assert [sizes[name] for name in first] == expected
    assert sizes["classifier"] == 7


def test_b0_drops_paths_by_block() -> None:
    rates = {unit.name: unit.drop_path for unit in units(B0)}
    shortcuts = {unit.name for unit in units(B0) if unit.plan.shortcut is not None}
    # Block i of 16, those without a shortcut counted; only a branch beside a shortcut is dropped.
    assert rates["stages.1.1"] == pytest.approx(0.2 * 2 / 16)
    assert rates["stages.5.3"] == pytest.approx(0.2 * 14 / 16)
    assert {name for name, rate in rates.items() if rate} == shortcuts
    assert len(shortcuts) == 9


def test_the_last_residual_block_of_b0_with_a_residual_last_stage_drops_at_0_1875() -> None:
    last = replace(B0.stages[-1], width=B0.stages[-2].width)
    rates = [unit.drop_path for unit in units(replace(B0, stages=(*B0.stages[:-1], last)))]
    assert max(rates) == pytest.approx(0.1875)


def test_table_shows_the_papers_rows() -> None:
    lines = B0.table().splitlines()
    assert len(lines) == 2 + 9
    assert lines[5].split()[:1] == ["4"]
    for text in ("MBConv6, k5x5, SE 0.25", "56x56", "40", "46,640", "37,939,584"):
        assert text in lines[5]
    assert "Conv1x1 & Pooling & FC" in lines[-1]


@given(architectures())
def test_any_architecture_has_a_table(architecture: Architecture) -> None:
    assert len(architecture.table().splitlines()) == 2 + len(architecture.stages) + 2


def test_widths() -> None:
    assert B0.widths == (32, 16, 24, 40, 80, 112, 192, 320, 1280)
    assert replace(B0, head_width=0).widths == B0.widths[:-1]


@pytest.mark.parametrize("module", ["architecture", "cost", "zoo", "rounding", "spaces"])
def test_importing_descriptions_loads_no_torch(module: str) -> None:
    code = (
        f"import sys, search_spaces.{module}\n"
        "print([m for m in ('torch', 'torchvision', 'ray') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
