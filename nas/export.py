"""`python -m nas.export`: a network and its weights as files that run without this framework.

Writes `model.onnx` (for onnxruntime and whatever else reads ONNX), `model.pt2` (for
`torch.export.load`) and `model.json`, which describes them. A file gets its final name only after
it was loaded again and gave PyTorch's logits.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas import cli
from nas.folder import MANIFEST, RunFolder, warn_of_changes
from nas.models.formats import (
    FORMATS,
    INPUT,
    OUTPUT,
    ExportError,
    Format,
    WithPreprocessing,
    check_packages,
    compare,
    trace,
)
from nas.models.saved import CARD, Model, load_model, read_json, sha256
from nas.ram import available_memory
from nas.training.memory import inference_bytes
from search_spaces.architecture import SCHEMA
from search_spaces.builder import AnyNetwork
from search_spaces.cost import count
from search_spaces.files import atomic_write, publish

BATCH_SIZES = (1, 3)
"""Batch sizes at which every file is compared with PyTorch."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to export, and how."""

    weights: Path
    """The weights, a safetensors file."""
    out: Path
    """Folder for model.onnx, model.pt2 and model.json."""
    arch: str | None = None
    """A zoo name, an architecture's JSON or a model.json; of your own builder
    my_module:build@model.json. Default: the model.json beside the weights."""
    formats: tuple[Format, ...] = ("onnx", "torch-export")
    """The formats to write."""
    opset: int | None = None
    """ONNX operator set. Default: what PyTorch recommends."""
    include_preprocessing: bool = False
    """Normalise inside the graph, which then takes RGB in [0, 1] instead of normalised images."""
    dry_run: bool = False
    """Load the model and check the settings; write nothing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    return cli.main(
        run,
        Settings,
        argv,
        prog="python -m nas.export",
        description="Export a network to ONNX and torch.export; each file is checked.",
    )


def run(settings: Settings) -> int:
    """Export as `settings` say, and print what was written.

    Raises:
        ExportError: The model cannot be exported as asked, or a file computes something else.
        ModelError: Architecture, weights and model.json do not belong together.
        ArchitectureError: The architecture cannot be read.
        WeightsError: The weights cannot be read.
    """
    formats = tuple(dict.fromkeys(settings.formats))
    if not formats:
        raise ExportError(f"--formats needs at least one of {', '.join(FORMATS)}.")
    check_packages(formats)
    warn_of_changes(settings.arch or settings.weights.parent / CARD)
    model = load_model(settings.weights, settings.arch)
    check_memory(model.architecture)
    graph = build_graph(model, settings.include_preprocessing)
    RunFolder(settings.out, "nas.train", "--out").check()
    _refuse_foreign_card(settings.out, model.card_path)
    print(_describe(model))
    if settings.dry_run:
        print(f"dry run: would write {', '.join(FORMATS[f].file for f in formats)}, {CARD}")
        print(f"         to {settings.out}")
        return 0
    try:
        files = write_files(graph, model, settings, formats)
    except OSError as error:
        raise ExportError(f"{settings.out} cannot be written: {error}.") from error
    for name in formats:
        print(_report(settings.out, files[name]))
    _notice_leftovers(settings.out, formats)
    print(f"wrote   {settings.out / CARD}")
    known = f", on images prepared as `preprocessing` in {CARD} says" * bool(
        model.card.preprocessing
    )
    print(f"run it{known}\n{snippet(settings.out / FORMATS[formats[0]].file, model.architecture)}")
    return 0


def check_memory(architecture: AnyNetwork) -> None:
    """Raise before a check of the files takes more memory than there is.

    Raises:
        ExportError: It would, as with a `resolution` that somebody mistyped.
    """
    free, most, size = available_memory(), max(BATCH_SIZES), architecture.resolution
    if free is None:
        return
    needed = 4 * most * architecture.in_channels * size**2  # of the images alone
    if needed <= free:
        with suppress(cli.UserError):  # a builder's module may not run without data
            needed = inference_bytes(architecture, batch_size=most)
    if needed > free:
        raise ExportError(
            f"{most} images of {size:,} px, with which files are checked, take "
            f"{cli.format_bytes(needed)} of memory, and {cli.format_bytes(free)} are free. "
            f"Correct the `resolution` of {architecture.name}, or export where there is more."
        )


def build_graph(model: Model, include_preprocessing: bool) -> nn.Module:
    """The module to export: the network, behind its normalisation where that is asked for.

    Raises:
        ExportError: The normalisation is wanted and unknown.
    """
    if not include_preprocessing:
        return model.network
    preprocessing = model.card.preprocessing
    if preprocessing is None:
        raise ExportError(
            "--include-preprocessing needs `preprocessing` with `mean` and `std`, but "
            f"{model.card_path or 'nothing'} gives them for these weights. "
            "Leave it out, or export from the folder that training wrote."
        )
    return WithPreprocessing(model.network, preprocessing.mean, preprocessing.std).eval()


def write_files(
    graph: nn.Module, model: Model, settings: Settings, formats: Sequence[Format]
) -> dict[Format, dict[str, Any]]:
    """Write, check and name every file, then the model.json; what it says of the files, by format.

    Raises:
        ExportError: A file does not compute what PyTorch does; no file has got its name.
        OSError: The folder cannot be written.
    """
    architecture, out = model.architecture, settings.out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as folder:
        shape = (architecture.in_channels, architecture.resolution, architecture.resolution)
        program = trace(graph, shape)
        generator = torch.Generator().manual_seed(0)
        draw = torch.rand if settings.include_preprocessing else torch.randn
        batches = [draw(size, *shape, generator=generator) for size in BATCH_SIZES]
        files: dict[Format, dict[str, Any]] = {}
        for name in formats:
            path = Path(folder) / FORMATS[name].file
            facts = FORMATS[name].save(program, path, settings.opset)
            rerun = FORMATS[name].load(path)
            checks = [compare(path.name, rerun, graph, images) for images in batches]
            files[name] = {
                "file": path.name,
                "bytes": path.stat().st_size,
                "sha256": sha256(path),
                **facts,
                "checks": [asdict(check) for check in checks],
            }
        for name in formats:
            publish(Path(folder) / FORMATS[name].file, out / FORMATS[name].file)
    card = describe(model, files, settings.include_preprocessing)
    _write_card(out, json.dumps(card, indent=2) + "\n")
    return files


def _write_card(out: Path, content: str) -> None:
    if not (out / MANIFEST).exists():
        atomic_write(out / CARD, content)
        return
    with RunFolder(out, "nas.train", "--out") as folder:  # which vouches for its model.json
        folder.write(CARD, content)


def describe(
    model: Model, files: dict[Format, dict[str, Any]], include_preprocessing: bool
) -> dict[str, Any]:
    """The model.json: what came with the weights, and how to use the files."""
    architecture = model.architecture
    size = architecture.resolution
    packages = ["torch", *(p for name in files for p in FORMATS[name].packages)]
    return {
        "schema": SCHEMA,
        "classes": None,
        "preprocessing": None,
        **model.fields,
        "architecture": json.loads(architecture.to_json()),
        "weights_sha256": model.weights_sha256,
        "cost": asdict(count(architecture)),
        "export": {
            "input": {
                "name": INPUT,
                "shape": ["batch", architecture.in_channels, size, size],
                "dtype": "float32",
                "values": "pixels / 255"
                if include_preprocessing
                else "(pixels / 255 - mean) / std",
            },
            "output": {"name": OUTPUT, "shape": ["batch", architecture.num_classes]},
            "includes_preprocessing": include_preprocessing,
            "files": files,
            "versions": {package: version(package) for package in packages},
        },
    }


def snippet(path: Path, architecture: AnyNetwork) -> str:
    """Three lines of Python that run an exported file."""
    template = next(f.snippet for f in FORMATS.values() if f.file == path.name)
    size = architecture.resolution
    return template.format(path=str(path), shape=(1, architecture.in_channels, size, size))


def _describe(model: Model) -> str:
    architecture, cost = model.architecture, count(model.architecture)
    named = "named" if model.card.classes else f"unnamed: no {CARD} describes the weights"
    return (
        f"model   {architecture.name} · {cli.format_number(cost.params)} params · "
        f"{cli.format_number(cost.macs)} MACs · {architecture.resolution} px · "
        f"{cli.plural(architecture.num_classes, 'class', 'classes')} ({named})"
    )


def _report(out: Path, file: dict[str, Any]) -> str:
    opset = f" · opset {file['opset']}" if "opset" in file else ""
    worst = max(check["max_relative_difference"] for check in file["checks"])
    near = f"within {worst:.0e} of PyTorch" if worst else "equal to PyTorch"
    return (
        f"wrote   {out / file['file']} · {cli.format_bytes(file['bytes'])}{opset} · {near} at "
        f"batch sizes {', '.join(map(str, BATCH_SIZES))}"
    )


def _notice_leftovers(out: Path, formats: Sequence[Format]) -> None:
    for name, file_format in FORMATS.items():
        if name not in formats and (out / file_format.file).exists():
            print(f"note    {out / file_format.file} is of an earlier export and was left alone")


def _refuse_foreign_card(out: Path, own: Path | None) -> None:
    """Keep the model.json that describes another model's weights from being overwritten."""
    card = out / CARD
    if not card.exists() or (own and card.samefile(own)):
        return
    if "export" not in read_json(card) or any(out.glob("*.safetensors")):
        raise ExportError(
            f"{card} describes another model and would be overwritten. Choose another --out."
        )


if __name__ == "__main__":
    sys.exit(main())
