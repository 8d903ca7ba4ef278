"""The zoo equals timm's networks; names and files become architectures."""

import json
from pathlib import Path

import pytest
import timm

from search_spaces.architecture import ArchitectureError
from search_spaces.cost import count
from search_spaces.zoo import ZOO, load_architecture
from tests.counting import count_module
from tests.golden_files import golden


@pytest.mark.parametrize("name", ZOO)
def test_zoo_costs_what_timm_builds(name: str) -> None:
    architecture = ZOO[name]()
    reference = timm.create_model(golden("zoo")[name]["timm"], pretrained=False)
    assert count(architecture) == count_module(reference, 3, architecture.resolution)


@pytest.mark.parametrize("name", ZOO)
def test_names_load_and_are_the_architecture_s_own(name: str) -> None:
    assert load_architecture(name) == ZOO[name]()
    assert load_architecture(name).name == name


def test_an_architecture_file_loads(tmp_path: Path) -> None:
    file = tmp_path / "b0.json"
    file.write_text(ZOO["efficientnet-b0"]().to_json())
    assert load_architecture(file) == ZOO["efficientnet-b0"]()
    assert load_architecture(str(file)) == ZOO["efficientnet-b0"]()


def test_a_model_file_that_holds_an_architecture_loads(tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    architecture = json.loads(ZOO["resnet-50"]().to_json())
    file.write_text(json.dumps({"architecture": architecture, "classes": ["a", "b"]}))
    assert load_architecture(file) == ZOO["resnet-50"]()


def test_an_unknown_name_lists_the_zoo() -> None:
    with pytest.raises(ArchitectureError, match=r"'efficientnet-b9' is neither.*efficientnet-b0"):
        load_architecture("efficientnet-b9")


def test_a_folder_is_no_architecture(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match="neither a file"):
        load_architecture(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"PK\x03\x04"])
def test_a_file_that_is_no_json_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.json"
    file.write_bytes(content)
    with pytest.raises(ArchitectureError, match=r"broken\.json is not the JSON"):
        load_architecture(file)


def test_a_file_with_a_broken_rule_is_named(tmp_path: Path) -> None:
    file = tmp_path / "zero.json"
    file.write_text(ZOO["resnet-50"]().to_json().replace('"resolution": 224', '"resolution": 0'))
    with pytest.raises(ArchitectureError, match=r"zero\.json: .*`resolution >= 1` must hold"):
        load_architecture(file)
