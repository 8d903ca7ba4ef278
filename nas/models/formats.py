"""The file formats in which a network leaves: how each is written, and read back to be checked.

**A new format is added here, and only here:** a `FileFormat` in `FORMATS` and its name in `Format`.
"""

import copy
import importlib.util
import io
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

Format = Literal["onnx", "torch-export"]

INPUT = "images"
OUTPUT = "logits"

_MAX_ONNX_BYTES = 2**31 - 1
"""Protocol buffers, and so an ONNX file, hold less than 2 GiB."""
_BATCH = ({0: Dim("batch")},)
_NOISY_LOGGERS = (
    *("torch.onnx", "torch.export", "torch.fx.experimental.symbolic_shapes"),
    *("onnxscript", "onnx_ir"),
)

TOLERANCE = 1e-4
"""Difference of logits that is accepted, as a share of the largest logit of the batch."""
_ROUNDINGS = 4
"""How many times PyTorch's own error of rounding is accepted where that is more. Two programs of
float32 that round in other orders lie some two such errors apart."""


Run = Callable[[Tensor], Tensor]
"""Images ``(N, C, R, R)`` to logits ``(N, num_classes)``, both float32 on the CPU."""


class ExportError(ValueError):
    """A network that cannot be exported as asked, or whose file does not compute the same."""


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """One way to write a traced network."""

    file: str
    """Name of the file, without its folder."""
    packages: tuple[str, ...] = ()
    """Modules of the `onnx` extra that it needs."""
    save: Callable[[ExportedProgram, Path, int | None], dict[str, Any]]
    """Write the program to a path, for an opset where the format has one; facts for the record."""
    load: Callable[[Path], Run]
    """Read a written file back, to compare it with the network."""
    snippet: str
    """Python that runs the file, with places for its `path` and an input `shape`."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """How far a file's logits are from PyTorch's, on one batch of random images."""

    batch_size: int
    max_abs_difference: float
    max_relative_difference: float
    """Over the largest absolute logit of the batch."""
    same_classes: bool
    """Whether every image gets the same class. Two logits nearer to one another than the
    difference above may change places, so this alone fails no file."""


class WithPreprocessing(nn.Module):
    """Normalises images in [0, 1] by mean and standard deviation, then runs the network."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, C, R, R)`` in [0, 1] to logits ``(N, num_classes)``."""
        return self.network((images - self.mean) / self.std)


def trace(network: nn.Module, image_shape: tuple[int, int, int]) -> ExportedProgram:
    """The graph of a network in eval mode, for any batch size and images of `image_shape`.

    Raises:
        ExportError: torch.export cannot follow the module, which may be a user's own.
    """
    assert not network.training, "dropout and batch norm would be exported in training mode"
    with torch.no_grad():
        # Batch 2: torch.export treats sizes 0 and 1 as constants.
        example = (torch.zeros(2, *image_shape),)
        try:
            # Of what it cannot follow, torch prints whole graphs before it raises.
            with _quiet(), redirect_stderr(io.StringIO()):
                program = torch.export.export(network, example, dynamic_shapes=_BATCH)
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            raise ExportError(
                f"torch.export cannot follow the module ({type(error).__name__}: {first}). It "
                "needs a `forward` without decisions on tensors' values or on the number of images."
            ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine, which the files would carry
    return program


def check_packages(formats: tuple[Format, ...]) -> None:
    """Raise before any work when a format's packages are not installed.

    Raises:
        ExportError: Names the missing packages and the command that installs them.
    """
    for name in formats:
        missing = [p for p in FORMATS[name].packages if importlib.util.find_spec(p) is None]
        if missing:
            raise ExportError(
                f"The {name} format needs {', '.join(missing)}, which is not installed. "
                "pip install 'efficientnet-search[onnx]', or choose --formats torch-export."
            )


def compare(name: str, rerun: Run, graph: nn.Module, images: Tensor) -> Check:
    """Logits of a written file against those of the module.

    Raises:
        ExportError: They differ by more than `TOLERANCE` and than float32 explains, or the
            module's are not finite.
    """
    with torch.no_grad():
        expected, actual = graph(images), rerun(images)
    if not expected.isfinite().all():
        raise ExportError(
            "The network's logits for random images are not finite, so its weights are useless. "
            "Export those of a training that did not diverge."
        )
    difference = math.inf
    if actual.shape == expected.shape:
        difference = float((actual - expected).abs().max())
    scale = float(expected.abs().max()) or 1.0
    relative = difference / scale
    if not relative <= TOLERANCE:
        accepted = max(TOLERANCE, _ROUNDINGS * _rounding(graph, images, expected) / scale)
        if not relative <= accepted:
            raise ExportError(
                f"{name} differs from PyTorch by {relative:.1e} of the largest logit at batch size "
                f"{len(images)} (at most {accepted:.1g} is accepted) and was not kept. "
                "Try another --opset or --formats."
            )
    return Check(
        batch_size=len(images),
        max_abs_difference=difference,
        max_relative_difference=relative,
        same_classes=bool((actual.argmax(1) == expected.argmax(1)).all()),
    )


def _rounding(graph: nn.Module, images: Tensor, logits: Tensor) -> float:
    """How far logits in float32 are from those that the module has in float64.

    0 where the module, a user's own, does not compute in float64.
    """
    exact = copy.deepcopy(graph).double()
    try:
        # Image by image: twice the memory that the batch took may not be there.
        with torch.no_grad():
            found = [exact(image.double()[None]) for image in images]
    except RuntimeError:
        return 0.0
    return float((torch.cat(found) - logits).abs().max())


def _save_onnx(program: ExportedProgram, path: Path, opset: int | None) -> dict[str, Any]:
    num_bytes = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    if num_bytes > _MAX_ONNX_BYTES:
        raise ExportError(
            f"The weights take {num_bytes:,} bytes, but one ONNX file holds less than 2 GiB. "
            "Choose --formats torch-export."
        )
    assert program.example_inputs is not None
    (example,), _ = program.example_inputs
    with _quiet():
        exported = torch.onnx.export(
            program,
            (example,),
            dynamo=True,
            dynamic_shapes=_BATCH,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=opset,
            verbose=False,
        )
    assert exported is not None
    reached = exported.model.opset_imports[""]
    # Where a conversion fails, the exporter keeps the opset it has, with no more than a warning.
    if opset is not None and reached != opset:
        raise ExportError(
            f"--opset {opset} cannot be reached: PyTorch {torch.__version__} gave opset {reached}. "
            f"Choose --opset {reached} or leave it out."
        )
    for node in exported.model.graph.all_nodes():
        node.metadata_props.clear()  # notes for debugging, half as large as a small network
    exported.save(path, external_data=False)
    return {"opset": reached}


def _load_onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


def _save_torch_export(program: ExportedProgram, path: Path, opset: int | None) -> dict[str, Any]:
    example = program.example_inputs
    buffer = io.BytesIO()  # torch's own file writer reports a full disk as a RuntimeError
    try:
        program.example_inputs = None  # the file would carry two images of zeros
        torch.export.save(program, buffer)
    finally:
        program.example_inputs = example
    path.write_bytes(buffer.getbuffer())
    return {}


def _load_torch_export(path: Path) -> Run:
    module = torch.export.load(path).module()
    return lambda images: module(images)


FORMATS: dict[Format, FileFormat] = {
    "onnx": FileFormat(
        file="model.onnx",
        packages=("onnx", "onnxruntime", "onnxscript"),
        save=_save_onnx,
        load=_load_onnx,
        snippet=(
            "import numpy, onnxruntime\n"
            "model = onnxruntime.InferenceSession({path!r})\n"
            f'logits = model.run(None, {{{{"{INPUT}": numpy.zeros({{shape}}, "float32")}}}})[0]'
        ),
    ),
    "torch-export": FileFormat(
        file="model.pt2",
        save=_save_torch_export,
        load=_load_torch_export,
        snippet=(
            "import torch\n"
            "model = torch.export.load({path!r}).module()\n"
            "logits = model(torch.zeros({shape}))"
        ),
    ),
}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' loggers; their failures raise, or show in the opset."""
    levels = {name: logging.getLogger(name).level for name in _NOISY_LOGGERS}
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
