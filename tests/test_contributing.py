"""CONTRIBUTING.md, executed: its examples on a copy of the packages, and its tree of modules.

And the README's example of a sampler.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from search_spaces.architecture import Architecture
from search_spaces.cost import count

ROOT = Path(__file__).parent.parent
PACKAGES = ("search_spaces", "nas", "scaling_search", "experiments")
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
README = (ROOT / "README.md").read_text()

CHECK_OP = """
from search_spaces.architecture import Architecture
from search_spaces.cost import count
from search_spaces.spaces import SPACES
from tests.counting import count_built

space = SPACES["fused"](resolution=32, num_classes=10, target_macs=5e6)
choices = {name: options[-1] for name, options in space.choices.items()}
network = space.decode(choices)
assert space.decode(space.encode(network)) == network
assert {stage.block.op for stage in network.stages} == {"fused-mbconv"}
assert Architecture.from_json(network.to_json()) == network
assert count(network) == count_built(network)
"""

SEARCH_BY_COST = """
from pathlib import Path
from nas.run import Settings, run

run(
    Settings(
        run_dir=Path("runs/traffic"),
        evaluator="my_measure:accuracy",
        resolution=32,
        strategy="random",
        cost="traffic",
        target_cost=2e5,
        trials=12,
        finalists=0,
    )
)
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages with every python block of the guide appended to its file."""
    root = tmp_path_factory.mktemp("extended")
    for package in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / package, root / package)
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", GUIDE, re.DOTALL)
    assert len(blocks) == 8
    for file, block in blocks:
        with (root / file).open("a") as stream:
            stream.write(f"\n\n{block}")
    return root


def run(root: Path, *arguments: str) -> str:
    finished = subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.mark.slow
def test_a_new_op_is_costed_and_built(extended: Path) -> None:
    run(extended, "-c", CHECK_OP)


def test_a_new_space_is_searched_by_a_new_strategy_with_a_new_evaluator(extended: Path) -> None:
    flags = "--space fused --strategy climbing --evaluator my_measure:accuracy --resolution 32"
    run(extended, "-m", "nas.run", *flags.split(), "--trials", "20", "--finalists", "0")
    config = json.loads((extended / "runs" / "search" / "config.json").read_text())
    assert config["conditions"]["space"] == "fused"
    baseline = json.loads((extended / "runs" / "search" / "baseline.json").read_text())
    assert {stage["block"]["kernel"] for stage in baseline["stages"]} <= {3, 5, 7}


@pytest.mark.slow
def test_a_new_strategy_keeps_the_contract(extended: Path) -> None:
    contract = "climbing and (same_seed or a_killed_study or trained_twice)"
    run(extended, "-m", "pytest", "-q", "tests/test_strategies.py", "-k", contract)


def test_a_new_cost_is_searched_by(extended: Path) -> None:
    printed = run(extended, "-c", SEARCH_BY_COST)
    assert "T = 200K elements (parameters read, activations written)" in printed
    folder = extended / "runs" / "traffic"
    baseline = Architecture.from_json((folder / "baseline.json").read_text())
    trials = pd.read_csv(folder / "trials.csv").set_index("digest")
    cost = count(baseline)
    assert trials.loc[baseline.digest, "cost"] == cost.params + cost.activations


def test_a_new_rule_of_scaling_is_validated(extended: Path) -> None:
    flags = "--baseline mobilenet-v2 --alpha 1.2 --beta 1.1 --gamma 1.15 --dry-run"
    flags += " --evaluator my_measure:accuracy"
    printed = run(extended, "-m", "scaling_search.validate", *flags.split())
    assert re.search(r"^shallow +\S+ +1\.\d+G ", printed, re.MULTILINE)


def test_the_readme_uses_a_sampler_alone() -> None:
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (example,) = (example for example in examples if "ModelGuidedSampler" in example)
    assert "MBConv1" in run(ROOT, "-W", "error", "-c", example)


@pytest.mark.slow
def test_a_new_file_format_is_written_and_compared(extended: Path) -> None:
    code = """
import torch
from search_spaces.adapt import adapt_resolution
from search_spaces.network import Network
from search_spaces.weights import save_weights
from search_spaces.zoo import mobilenet_v2
from pathlib import Path

torch.manual_seed(0)
network = adapt_resolution(mobilenet_v2(), 32)
Path("small.json").write_text(network.to_json())
save_weights(Network(network), Path("small.safetensors"))
"""
    run(extended, "-c", code)
    flags = "--arch small.json --weights small.safetensors --out exported --formats ort"
    assert "model.ort" in run(extended, "-m", "nas.export", *flags.split())
    card = json.loads((extended / "exported" / "model.json").read_text())
    assert len(card["export"]["files"]["ort"]["checks"]) == 2


def test_the_tree_names_every_module() -> None:
    tree = GUIDE.split("## Layout")[1].split("```")[1]
    folders: dict[int, str] = {}
    named = set()
    for indent, name, kind in re.findall(r"^( *)(\w+)(/|\.py)(?: |$)", tree, re.MULTILINE):
        parent = folders.get(len(indent) - 2, "")
        if kind == "/":
            folders[len(indent)] = f"{parent}{name}/"
        else:
            named.add(f"{parent}{name}.py")
    files = (file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
    present = {file.relative_to(ROOT).as_posix() for file in files}
    assert named == {file for file in present if not file.endswith("__init__.py")}
