"""`python -m scaling_search.family`: the files, the table, and what it says."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from nas.costs.memory import Memory
from scaling_search.compound import Coefficients, scale
from scaling_search.family import main
from scaling_search.released import release
from search_spaces.architecture import Architecture
from search_spaces.cost import count
from search_spaces.zoo import efficientnet_b0, load_architecture
from tests.families import B0, PAPER, run_family
from tests.golden_files import golden

SMALL = replace(
    efficientnet_b0(),
    name="small",
    resolution=32,
    num_classes=10,
    stages=efficientnet_b0().stages[:3],
    head_width=0,
)
BUILDER = """
import math
from torch import nn


def build(*, depth, width, resolution):
    channels = round(16 * width)
    layers = [nn.Conv2d(3, channels, 3, padding=1)]
    for _ in range(math.ceil(3 * depth)):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
"""
COLUMNS = ["name", "phi", "resolution", "params", "macs", "activations"]


def _files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def _constants(folder: Path, **changes: object) -> Path:
    fields = {"alpha": 1.2, "beta": 1.1, "gamma": 1.15, "product": 1.92027, "evidence": [1, 2]}
    file = folder / "constants.json"
    file.write_text(json.dumps(fields | changes))
    return file


def test_released_writes_b0_to_b7_as_published(tmp_path: Path) -> None:
    assert run_family([*B0, "--released", "--out", str(tmp_path)]) == 0
    assert _files(tmp_path) == [*(f"B{index}.json" for index in range(8)), "family.csv"]
    table = pd.read_csv(tmp_path / "family.csv", index_col="name")
    for name in (f"B{index}" for index in range(8)):
        network = release(name)
        assert load_architecture(tmp_path / f"{name}.json") == network
        for column in ("params", "macs", "resolution"):
            assert table.loc[name, column] == golden("efficientnet")[name][column]
        assert table.loc[name, "digest"] == network.digest


def test_released_needs_no_baseline(tmp_path: Path) -> None:
    assert run_family(["--released", "--phi", "0", "1", "--out", str(tmp_path)]) == 0
    assert load_architecture(tmp_path / "B0.json") == efficientnet_b0()
    assert load_architecture(tmp_path / "B1.json") == release("B1")


def test_released_shows_the_implied_phi(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_family([*B0, "--released", "--phi", "3", "8", "--out", str(tmp_path)]) == 0
    assert "B1 ... B7 are not phi = 1 ... 7" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "family.csv", index_col="name")
    assert list(table.index) == ["B3", "B8"]
    implied = table.loc["B3", ["phi_depth", "phi_width", "phi_resolution", "phi_macs"]]
    assert [f"{phi:.2f}" for phi in implied] == ["1.85", "1.91", "2.09", "2.38"]
    assert table["target"].isna().tolist() == [True, True]


def test_coefficients_write_the_formula_s_family(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_family([*B0, *PAPER, "--out", str(tmp_path / "family")]) == 0
    table = pd.read_csv(tmp_path / "family" / "family.csv")
    assert list(table.columns[:6]) == COLUMNS
    assert list(table["phi"]) == list(range(8))
    assert list(table["target"]) == [2**phi for phi in range(8)]
    assert list(table["resolution"]) == [224, 256, 296, 344, 392, 448, 520, 592]
    for phi, name in enumerate(table["name"]):
        network = load_architecture(tmp_path / "family" / f"{name}.json")
        expected = scale(efficientnet_b0(), Coefficients(1.2, 1.1, 1.15), phi)
        assert network == replace(expected, name=f"efficientnet-b{phi}")
        cost, row = count(network), table.iloc[phi]
        assert [cost.params, cost.macs] == row[["params", "macs"]].tolist()
        assert float(row["ratio"]) == cost.macs / count(efficientnet_b0()).macs
    folder = f"{tmp_path}/family"
    command = f"python -m nas.train --arch {folder}/B1.json --data IMAGES --out {folder}/B1"
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "note    B1 is the first above the baseline; which is the largest that fits, --measure "
        "tells",
        "note    IMAGES stands for your images: a folder, digits, or CIFAR10@/path",
        f"next    {command}",
    ]


def test_phi_may_be_negative_and_fractional(tmp_path: Path) -> None:
    phis = ["--phi", "1", "-1", "0.5", "-0", "1"]
    assert run_family([*B0, *PAPER, *phis, "--out", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "family.csv")
    assert list(table["name"]) == ["B-1", "B0", "B0.5", "B1"]
    assert table["macs"].is_monotonic_increasing
    assert _files(tmp_path) == ["B-1.json", "B0.5.json", "B0.json", "B1.json", "family.csv"]


def test_targets_are_solved_for_phi(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = ["--target-flops", "860M", "100M", "1.81e9"]
    assert run_family([*B0, *PAPER, *targets, "--out", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "family.csv")
    assert list(table["name"]) == ["B100M", "B860M", "B1.81G"]
    assert list(table["phi"]) == [-2.3, 1.03, 1.9]
    assert list(table["target_cost"]) == [100e6, 860e6, 1.81e9]
    assert list(table["cost"]) == list(table["macs"]) == [97_643_232, 860_041_984, 1_809_892_064]
    network = load_architecture(tmp_path / "B100M.json")
    expected = scale(efficientnet_b0(), Coefficients(1.2, 1.1, 1.15), -2.3)
    assert network == replace(expected, name="efficientnet-b100M")
    printed = capsys.readouterr()
    assert "97.64M (-2.4%)" in printed.out
    assert "half up where phi < 0" in printed.out
    assert printed.err == ""


def test_a_target_can_be_a_limit_and_a_far_one_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*B0, *PAPER, "--target-flops", "450M", "500M", "--out", str(tmp_path)]
    assert run_family(argv) == 0
    assert "B450M (-14%), B500M (+14%): over 5% from the target" in capsys.readouterr().err
    assert run_family([*argv, "--at-most"]) == 0
    assert pd.read_csv(tmp_path / "family.csv")["macs"].tolist() == [385_814_752] * 2
    assert "B450M, B500M: some of these are one network" in capsys.readouterr().err
    assert run_family([*argv, "--depth-rounding", "round"]) == 0
    assert capsys.readouterr().err == ""


def test_parameters_memory_and_latency_can_be_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.costs.latency.MAX_SECONDS", 0.01)
    file = tmp_path / "base.json"
    file.write_text(SMALL.to_json())
    argv = ["--baseline", str(file), *PAPER, "--out", str(tmp_path)]
    assert run_family([*argv, "--target-params", "1M"]) == 0
    table = pd.read_csv(tmp_path / "family.csv")
    assert table["name"].tolist() == ["B1M-params"]
    assert table["cost"].tolist() == table["params"].tolist()

    assert run_family([*argv, "--target-memory", "80M", "--train-batch", "16"]) == 0
    table = pd.read_csv(tmp_path / "family.csv")
    limited = load_architecture(tmp_path / "B80M-memory.json")
    memory = Memory(batch_size=16)(limited)
    assert table["cost"].tolist() == [memory]
    assert 60e6 < memory <= 80e6

    latency = ["--target-latency", "5", "--threads", "1", "--device", "cpu"]
    assert run_family([*argv, *latency]) == 0
    table = pd.read_csv(tmp_path / "family.csv")
    assert table[["name", "target_cost"]].to_numpy().tolist() == [["B5ms", 5]]
    assert not (tmp_path / "latency.json").exists()


def test_smaller_members_are_shown_beside_tinynet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_family([*B0, *PAPER, "--target-flops", "24M", "1G", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "the formula does badly" in printed
    (row,) = (line.split() for line in printed.splitlines() if "TinyNet-" in line)
    assert row[0] == "B24M"
    assert row[5:] == ["TinyNet-E", "x0.063", "0.60", "0.51", "0.47"]
    assert run_family([*B0, *PAPER, "--phi", "1", "--out", str(tmp_path)]) == 0
    assert "TinyNet" not in capsys.readouterr().out


def test_the_published_members_have_a_phi_of_any_constants(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--alpha", "2", "--beta", "1", "--gamma", "1.15", "--phi", "1", "--compare-released"]
    assert run_family([*B0, *flags, "--out", str(tmp_path)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("B7 ")]
    (row,) = rows
    assert row == ["B7", "1.63", "-", "7.05", f"{math.log(97.834) / math.log(2 * 1.15**2):.2f}"]


def test_a_user_s_builder_makes_a_family(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "family_builder.py").write_text(BUILDER)
    monkeypatch.syspath_prepend(str(tmp_path))
    out = tmp_path / "family"
    argv = ["--baseline", "family_builder:build@16", *PAPER, "--out", str(out)]
    assert run_family([*argv, "--phi", "-1", "0", "2", "--compare-released"]) == 0
    table = pd.read_csv(out / "family.csv")
    assert list(table["resolution"]) == [14, 16, 21]
    assert table["blocks"].isna().tolist() == [True] * 3
    assert table["macs"].is_monotonic_increasing
    printed = capsys.readouterr().out
    assert "blocks, widths and dropout are the builder's own affair" in printed
    assert f"--arch family_builder:build@{out}/B2.json" in printed
    network = load_architecture(f"family_builder:build@{out}/B2.json")
    assert network.digest == list(table["digest"])[2]
    assert count(network).macs == list(table["macs"])[2]
    assert run_family([*argv, "--target-flops", "1M"]) == 0
    assert list(pd.read_csv(out / "family.csv")["macs"]) == [pytest.approx(1e6, rel=0.1)]
    assert (
        run_family(["--baseline", "family_builder:build@16", "--released", "--out", str(out)]) == 0
    )


def test_what_members_need_is_counted_and_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.costs.latency.MAX_SECONDS", 0.01)
    file = tmp_path / "base.json"
    file.write_text(SMALL.to_json())
    argv = ["--baseline", str(file), *PAPER, "--phi", "-1", "0", "--out", str(tmp_path)]
    assert main([*argv, "--device", "cpu", "--threads", "1", "--train-batch", "8"]) == 0
    table = pd.read_csv(tmp_path / "family.csv")
    assert list(table["name"]) == ["B-1", "B0"]
    for name, row in zip(table["name"], table.to_dict("records"), strict=True):
        member = load_architecture(tmp_path / f"{name}.json")
        assert row["training_bytes"] == Memory(batch_size=8)(member)
        assert row["latency_ms_1"] > 0
    printed = capsys.readouterr()
    assert "train b8" in printed.out
    assert printed.err == "measured B-1\nmeasured B0\n"


def test_rounding_can_be_chosen(tmp_path: Path) -> None:
    flags = ["--phi", "1", "--depth-rounding", "round", "--resolution-step", "32"]
    assert run_family([*B0, *PAPER, *flags, "--out", str(tmp_path)]) == 0
    network = load_architecture(tmp_path / "B1.json")
    assert isinstance(network, Architecture)
    assert [stage.repeats for stage in network.stages] == [1, 2, 2, 4, 4, 5, 1]
    assert network.resolution == 256
    assert run_family([*B0, "--released", *flags, "--out", str(tmp_path)]) == 0
    assert load_architecture(tmp_path / "B1.json").resolution == 256


def test_constants_of_this_baseline_are_taken_silently(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = replace(efficientnet_b0(), name="mine", resolution=64, num_classes=10)
    file = tmp_path / "baseline.json"
    file.write_text(baseline.to_json())
    constants = _constants(tmp_path, baseline={"name": "mine", "digest": baseline.digest})
    out = tmp_path / "family"
    argv = ["--baseline", str(file), "--constants", str(constants), "--out", str(out)]
    assert run_family(argv) == 0
    assert capsys.readouterr().err == ""
    expected = scale(baseline, Coefficients(1.2, 1.1, 1.15), 2, name="mine-b2")
    assert Architecture.from_json((out / "B2.json").read_text()) == expected


def test_constants_of_another_baseline_or_with_ties_warn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    constants = _constants(tmp_path, baseline={"name": "mine", "digest": "0" * 12}, resolved=False)
    argv = [*B0, "--constants", str(constants), "--out", str(tmp_path), "--dry-run"]
    assert run_family(argv) == 0
    warnings = capsys.readouterr().err
    assert "was fitted to 'mine' (digest 000000000000), not to 'efficientnet-b0'" in warnings
    assert "could not tell these constants from others" in warnings
    default = _constants(tmp_path, schema=2, source="default", resolved=False)
    assert run_family([*B0, "--constants", str(default), "--out", str(tmp_path), "--dry-run"]) == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert "these constants are a default and no fit; see its `remedies`." in warning


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "family"
    assert run_family([*B0, "--released", "--out", str(out), "--dry-run"]) == 0
    assert not out.exists()
    assert "385.8" in capsys.readouterr().out


def test_members_of_an_earlier_run_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_family([*B0, *PAPER, "--phi", "1", "2", "--out", str(tmp_path)]) == 0
    assert "warning" not in capsys.readouterr().err
    assert run_family([*B0, *PAPER, "--phi", "1", "--out", str(tmp_path)]) == 0
    assert f"{tmp_path} also has B2, of an earlier run" in capsys.readouterr().err


def test_no_torch_is_loaded() -> None:
    modules = "scaling_search.family, scaling_search.candidates"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout == "False\n"
