"""The rules of security, by what the sources may not do and by what the commands leave behind."""

import ast
import io
import json
import os
import pickle
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from packaging.requirements import Requirement
from PIL import Image

from nas import doctor, export, run, train
from nas.untrusted import printable
from scaling_search import family
from tests.models import tiny
from tests.searching import network
from tests.trees import plant

ROOT = Path(__file__).parents[1]
PACKAGES = ("search_spaces", "nas", "scaling_search", "experiments")
HOSTILE = (
    "=cmd|' 'C calc'!A0",
    "<img src=x onerror=alert(1)>",
    "a\x1b[2J\nb\u202e",
    os.fsdecode(b"caf\xe9"),
    "x..",
    "c" * 255,
)
"""Names of classes, as folders may have them."""


def _calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Every call in the product: where, what, and the call."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    place = f"{file.relative_to(ROOT)}:{node.lineno}"
                    yield place, ast.unparse(node.func), node


def _keyword(call: ast.Call, name: str) -> Any:
    found = [ast.literal_eval(k.value) for k in call.keywords if k.arg == name]
    return found[0] if found else None


def _is_forbidden(name: str, call: ast.Call) -> bool:
    """Whether a call runs what a file says, or may; text that stands in the source is ours."""
    if name == "exec" and all(isinstance(argument, ast.Constant) for argument in call.args):
        return False
    loads = r"(pickle|dill|cloudpickle|joblib|marshal|shelve|yaml)\.(load|loads|open|Unpickler)"
    pickles = r"(pd|pandas)\.read_pickle|(np|numpy)\.load|eval|exec|compile|os\.(system|popen)"
    if re.fullmatch(f"{loads}|{pickles}|.*full_load|.*unsafe_load", name):
        return True
    if name == "torch.load":
        return _keyword(call, "weights_only") is not True
    return _keyword(call, "allow_pickle") is True or _keyword(call, "shell") is True


def test_rule_pickle_the_sources_load_none() -> None:
    found = [f"{place}: {name}" for place, name, call in _calls() if _is_forbidden(name, call)]
    assert found == []
    assert any(name == "torch.load" for _, name, _ in _calls())


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("torch.load(f)", True),
        ("torch.load(f, weights_only=False)", True),
        ("torch.load(f, weights_only=True)", False),
        ("yaml.load(f)", True),
        ("yaml.safe_load(f)", False),
        ("pickle.loads(b)", True),
        ("np.load(f)", True),
        ("eval(x)", True),
        ("exec(x)", True),
        ('exec("")', False),
        ("model.eval()", False),
        ("subprocess.run(x, shell=True)", True),
    ],
)
def test_what_the_look_at_the_sources_sees(code: str, forbidden: bool) -> None:
    (call,) = (n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Call))
    assert _is_forbidden(ast.unparse(call.func), call) is forbidden


def test_rule_formats_no_archive_is_unpacked_and_no_yaml_is_read() -> None:
    unpacking = re.compile(r".*\b(extractall|unpack_archive|ZipFile|TarFile|tarfile\.open)")
    assert [f"{place}: {name}" for place, name, _ in _calls() if unpacking.fullmatch(name)] == []
    imported = {
        name.split(".")[0]
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert not imported & {"yaml", "tarfile", "zipfile", "shelve", "marshal", "dill", "cloudpickle"}


def test_rule_ray_its_version_its_address_and_its_dashboard() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (ray,) = (r for r in map(Requirement, project["dependencies"]) if r.name == "ray")
    assert str(ray.specifier) == ">=2.60"
    starts = [(place, call) for place, name, call in _calls() if name == "ray.init"]
    assert len(starts) == 1
    given = {k.arg: ast.unparse(k.value) for k in starts[0][1].keywords}
    # "local" starts a session of our own, whatever RAY_ADDRESS and earlier sessions say.
    assert given["address"] == "'local' if is_own else workers.ray_address"
    assert given["include_dashboard"] == "False if is_own else None"


class _Evil:
    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (self._mark.touch, ())


@pytest.mark.parametrize("kind", ["pickle", "torch", "zip"])
def test_rule_weights_a_pickle_under_another_name_runs_nothing(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark, weights = tmp_path / "ran", tmp_path / "model.safetensors"
    (tmp_path / "tiny.json").write_text(tiny().to_json())
    buffer = io.BytesIO()
    if kind == "pickle":
        pickle.dump(_Evil(mark), buffer)
    else:
        torch.save(_Evil(mark), buffer, _use_new_zipfile_serialization=kind == "zip")
    weights.write_bytes(buffer.getvalue())
    arch = ["--arch", str(tmp_path / "tiny.json"), "--out", str(tmp_path / "out")]
    assert export.main(["--weights", str(weights), *arch, "--formats", "torch-export"]) == 2
    assert train.main(["--data", "digits", "--init-weights", str(weights), *arch]) == 2
    errors = capsys.readouterr().err
    assert errors.count("Weights are read from safetensors only, because a pickle can run") == 2
    assert not mark.exists()


def _texts(folder: Path) -> dict[str, str]:
    """The files for people and programs below a folder."""
    kinds = (".csv", ".md", ".json", ".txt")
    return {
        str(file.relative_to(folder)): file.read_text(encoding="utf-8")
        for file in folder.rglob("*")
        if file.suffix in kinds
    }


def _is_shown(text: str) -> bool:
    return all(c.isprintable() for c in text.replace("\n", ""))


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    """Images whose classes and files have hostile names; one file is no image."""
    splits = [f"{split}/{name}" for split in ("train", "test") for name in HOSTILE]
    root = plant(tmp_path / "images", dict.fromkeys(splits, 4), size=(8, 8))
    for i, name in enumerate(HOSTILE[:5]):
        Image.new("RGB", (8, 8), (i, 7, 9)).save(root / "train" / HOSTILE[2] / f"{name}.png")
    (root / "train" / HOSTILE[1] / f"{HOSTILE[2]}.png").write_bytes(b"no image")
    return root


def test_rule_names_from_search_to_export(
    strange: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hostile names of classes and files through the whole of it: shown escaped, in every file and
    line; never a path, a formula or a tag."""
    before = set(tmp_path.rglob("*"))
    data = ["--data", str(strange), "--skip-bad", "--epochs", "1"]
    search = ["--strategy", "random", "--trials", "2", "--finalists", "0"]
    assert run.main([*data, *search, "--run-dir", str(tmp_path / "run")]) == 0
    (tmp_path / "tiny.json").write_text(tiny().to_json())
    arch, out = ["--arch", str(tmp_path / "tiny.json")], tmp_path / "out"
    assert train.main([*arch, *data, "--threads", "1", "--out", str(out)]) == 0
    weights = ["--weights", str(out / "model.safetensors"), "--out", str(out / "export")]
    assert export.main([*weights, "--formats", "torch-export"]) == 0
    assert doctor.main(["--data", str(strange)]) == 1

    shown = capsys.readouterr()
    texts = {**_texts(tmp_path / "run"), **_texts(out)}
    assert {"report.md", "trials.csv", "skipped.txt", "model.json", "history.csv"} <= texts.keys()
    for text in (shown.out, shown.err, *texts.values()):
        assert _is_shown(text)
    for name in ("skipped.txt", "model.json", "export/model.json"):
        assert "<img" in texts[name], "a text and JSON show it as it is"
    tables = {name for name, text in texts.items() if name.endswith(".csv") and "<img" in text}
    assert tables == {"classes.csv"}, "a spreadsheet shows it as it is, but computes formulas"
    classes = pd.read_csv(out / "classes.csv", dtype=str, keep_default_na=False)
    for name in (*classes["class"], *classes["taken_for"]):
        assert not name.startswith(("=", "+", "-", "@"))
    lines = [line for line in texts["report.md"].splitlines() if "<img" in line]
    assert lines
    assert all(line.startswith("    note ") for line in lines), "Markdown takes these as they are"
    for card in ("model.json", "export/model.json"):
        classes = json.loads(texts[card])["classes"]
        assert sorted(classes) == sorted(map(printable, HOSTILE))
    made = set(tmp_path.rglob("*")) - before
    assert not [path for path in made if any(name in path.parts for name in HOSTILE)]


def test_rule_names_of_networks_are_no_paths_and_no_formulas(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, file = json.loads(network(8).to_json()), tmp_path / "base.json"
    scale = ["--alpha", "1.2", "--beta", "1.1", "--gamma", "1.15", "--phi", "0", "--no-measure"]
    command = ["--baseline", str(file), *scale, "--out"]
    for i, name in enumerate(("../../x", *HOSTILE[:2])):
        out = tmp_path / f"family{i}"
        file.write_text(json.dumps({**base, "name": name}))
        assert family.main([*command, str(out)]) == 0
        assert {path.name for path in out.iterdir()} == {"B0.json", "family.csv"}
        for column in pd.read_csv(out / "family.csv", dtype=str).to_numpy().T:
            assert not [cell for cell in column if str(cell).startswith(("=", "@", "+"))]
    file.write_text(json.dumps({**base, "name": HOSTILE[2]}))
    assert family.main([*command, str(tmp_path / "none")]) == 2
    shown = capsys.readouterr()
    assert _is_shown(shown.out + shown.err)
    assert "`name` must be at most 200 printable characters" in shown.err


def test_rule_html_is_written_by_nobody() -> None:
    """Reports are Markdown, CSV and PNG: there is nothing that a browser would run."""
    words = re.compile(r"\.html\b|to_html|<html|<script|render_template", re.IGNORECASE)
    found = [
        file
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        if words.search(file.read_text(encoding="utf-8"))
    ]
    assert found == []
