"""Whatever is in a file that others wrote, reading it ends in a value or in an error of our own.

Valid files are changed at random, value by value and byte by byte. The short runs are the same
every time; the long ones (`-m slow`) are so where `CI` is set, as in `.ci/run`.
"""

import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from nas.cli import UserError
from nas.data.dataset import DataError, load_for_search, load_for_training, native_size
from nas.data.images import read_files
from nas.folder import RunFolder
from nas.models.saved import CARD, ModelError, load_model
from nas.models.trained import WEIGHTS, Metrics, finished_training, report, write_model
from scaling_search.compound import ScalingError
from scaling_search.constants import read_constants
from search_spaces.architecture import Architecture, ArchitectureError
from search_spaces.network import module_of
from search_spaces.weights import WeightsError
from search_spaces.zoo import ZOO, load_architecture
from tests.fuzzing import NAMES, bytes_of, files_like, fuzz
from tests.grid_evaluators import TINY
from tests.test_images import png_header

runs = pytest.mark.parametrize(
    "examples", [50, pytest.param(3000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)


@runs
def test_architecture_json(examples: int) -> None:
    def read(content: bytes) -> None:
        for text in (content, content.decode("utf-8", "replace")):
            try:
                architecture = Architecture.from_json(text)
            except ArchitectureError:
                continue
            assert Architecture.from_json(architecture.to_json()) == architecture
            assert len(architecture.digest) == 12

    for name in ("efficientnet-b0", "resnet-50"):
        fuzz(examples, files_like(ZOO[name]().to_json()), read)


@runs
def test_architecture_files(examples: int, tmp_path: Path) -> None:
    file = tmp_path / "network.json"

    def read(content: bytes) -> None:
        file.write_bytes(content)
        with contextlib.suppress(ArchitectureError):
            load_architecture(file)

    builder = {"schema": 1, "builder": "a:b", "name": "n", "resolution": 8, "depth": 1.0}
    fuzz(examples, files_like(TINY.to_json()), read)
    fuzz(examples, files_like(json.dumps({"architecture": json.loads(TINY.to_json())})), read)
    fuzz(examples, files_like(json.dumps({**builder, "width": 2.0})), read)


@runs
def test_architecture_names(examples: int) -> None:
    def read(name: str) -> None:
        with contextlib.suppress(ArchitectureError):
            load_architecture(name)

    # Of a builder only names of modules that are not there: others would be imported.
    builders = st.from_regex(r"no_module_of_ours\w{0,3}:[a-z]{1,3}(@.{0,5})?", fullmatch=True)
    plain = NAMES.filter(lambda name: ":" not in name and len(name) < 200)
    fuzz(examples, plain | builders, read)


def test_a_name_too_long_for_a_file() -> None:
    with pytest.raises(ArchitectureError, match="neither a file nor"):
        load_architecture("x" * 300)


@runs
def test_constants(examples: int, tmp_path: Path) -> None:
    file = tmp_path / "constants.json"
    valid = {
        "schema": 2,
        **{"alpha": 1.2, "beta": 1.1, "gamma": 1.15, "product": 1.92, "source": "fit"},
        "resolved": True,
        "baseline": {"name": "b0", "digest": "0123456789ab"},
        "evidence": {"candidates": 12},
    }

    def read(content: bytes) -> None:
        file.write_bytes(content)
        try:
            constants = read_constants(file)
        except (UserError, ScalingError):
            return
        assert all(value > 0 for value in constants.coefficients.values)

    fuzz(examples, files_like(json.dumps(valid)), read)


@runs
def test_run_folder(examples: int, tmp_path: Path) -> None:
    """What a folder was started under, and what its manifest says of it."""
    conditions = {"space": "mnasnet", "w": -0.07, "images": [270, 30], "latency": {"threads": 1}}
    with RunFolder(tmp_path, "nas.run") as folder:
        folder.bind(conditions, {"trials": 20, "seed": 0})
    whole = {name: (tmp_path / name).read_bytes() for name in ("config.json", "manifest.json")}

    def read(files: dict[str, bytes]) -> None:
        for name in whole:
            (tmp_path / name).unlink(missing_ok=True)
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        with contextlib.suppress(UserError), RunFolder(tmp_path, "nas.run") as folder:
            assert folder.bind(conditions, {}), "a folder that was started is never a fresh one"

    for name, others in (("config.json", {}), ("config.json", whole), ("manifest.json", whole)):
        contents = files_like(whole[name].decode())
        unchanged = {other: st.just(content) for other, content in others.items()}
        # Fewer, for each locks the folder and waits for the disk.
        fuzz(max(50, examples // 5), st.fixed_dictionaries({**unchanged, name: contents}), read)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder as a training leaves it."""
    classes = [f"class {i}" for i in range(TINY.num_classes)]
    conditions = {"recipe": {"epochs": 1}, "seed": 0}
    numbers = ("accuracy", "majority_share")
    metrics: Metrics = {f"{split}_{of}": 0.5 for split in ("validation", "test") for of in numbers}
    with RunFolder(tmp_path) as folder:
        write_model(
            folder, module_of(TINY), classes=classes, conditions=conditions, metrics=metrics
        )
    return tmp_path


@runs
def test_model_json(examples: int, trained: Path) -> None:
    card = trained / CARD

    def read(content: bytes) -> None:
        card.write_bytes(content)
        with contextlib.suppress(ModelError, ArchitectureError, WeightsError):
            load_model(trained / WEIGHTS, None)

    fuzz(examples, files_like(card.read_text()), read)


@runs
def test_model_json_of_a_training(examples: int, trained: Path) -> None:
    card = trained / CARD

    def read(content: bytes) -> None:
        card.write_bytes(content)
        with contextlib.suppress(ModelError, UserError):
            found = finished_training(trained)
            if found is not None:
                assert isinstance(found.conditions, dict)
                report(trained, found.metrics)

    fuzz(examples, files_like(card.read_text()), read)


def pictures() -> list[bytes]:
    """A small image in each of the formats and kinds that are read."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 255, (12, 10, 3), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65535, (6, 6), dtype=np.uint16))
    contents = [png_header(64, 64), png_header(30_000, 30_000), b"", b"text"]
    exif = Image.Exif()
    exif[0x0112] = 6
    for image, kind, options in (
        *((colour, kind, {}) for kind in ("BMP", "GIF", "JPEG", "PPM", "SGI", "TGA", "TIFF")),
        *((colour, kind, {"exif": exif}) for kind in ("JPEG", "PNG", "WEBP")),
        (colour, "GIF", {"save_all": True, "append_images": [colour.rotate(90)]}),
        (colour, "TIFF", {"compression": "tiff_lzw"}),
        (colour.convert("P"), "PNG", {"transparency": 0}),
        (colour.convert("CMYK"), "JPEG", {}),
        (colour.convert("LA"), "PNG", {}),
        (deep, "PNG", {}),
        (deep, "TIFF", {}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        contents.append(buffer.getvalue())
    return contents


PICTURES = pictures()
IMAGES = st.sampled_from(range(len(PICTURES))).flatmap(
    lambda i: st.just(PICTURES[i]) | bytes_of(PICTURES[i])
)


@runs
def test_images(examples: int, tmp_path: Path) -> None:
    file = tmp_path / "image"

    def read(content: bytes) -> None:
        file.write_bytes(content)
        out = np.zeros((3, 5, 5), dtype=np.uint8)
        (reading,) = read_files([file], {0: out})
        assert reading.problem.isprintable()
        assert len(reading.problem) < 300
        assert len(reading.digest) == (32 if content else 0)  # an empty file is not opened

    fuzz(4 * examples, IMAGES, read)


FILE_NAMES = st.text(min_size=1, max_size=8) | st.sampled_from(
    ["a", "b", "train", "val", "valid", "test", ".hidden", "Thumbs.db", "=x", "\udcff", "y" * 255]
)
TARGETS = st.sampled_from(["..", ".", "../..", "/etc/passwd", "/", "a", "../a", "nowhere"])
TREES = st.recursive(
    IMAGES | TARGETS,
    lambda inner: st.dictionaries(FILE_NAMES, inner, max_size=5),
    max_leaves=14,
)
CLASSES = st.fixed_dictionaries({"a": TREES, "b": TREES}) | st.dictionaries(FILE_NAMES, TREES)
ROOTS = (
    st.dictionaries(FILE_NAMES, TREES, max_size=5)
    | CLASSES
    | st.fixed_dictionaries({"train": CLASSES}, optional={"val": CLASSES, "test": CLASSES})
)


def grow(folder: Path, tree: dict[str, Any]) -> None:
    """Folders from dicts, files from bytes, links from strings; names that no file can have are
    left out."""
    folder.mkdir(exist_ok=True)
    for name, content in tree.items():
        path = folder / name
        try:
            if "/" in name or path.is_symlink() or path.exists():
                continue
            if isinstance(content, dict):
                grow(path, content)
            elif isinstance(content, str):
                path.symlink_to(content)
            else:
                path.write_bytes(content)
        except (OSError, ValueError):
            continue


def refusal(load: Callable[[], object]) -> str:
    try:
        load()
    except DataError as error:
        return str(error)
    return ""


@runs
def test_folders_of_images(examples: int) -> None:
    def read(case: tuple[dict[str, Any], bool, int]) -> None:
        tree, skip_bad, limit = case
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        try:
            grow(folder, tree)
            for load in (
                lambda: load_for_search(str(folder), size=4, limit=limit, skip_bad=skip_bad),
                lambda: load_for_training(str(folder), size=None, skip_bad=skip_bad),
                lambda: native_size(str(folder)),
            ):
                if error := refusal(load):
                    assert all(line.isprintable() for line in error.split("\n"))
        finally:
            shutil.rmtree(folder)

    fuzz(examples, st.tuples(ROOTS, st.booleans(), st.integers(1, 9)), read)
