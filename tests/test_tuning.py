"""The engine of a run, probed once and recorded; and how many trials run at a time."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nas import run
from nas import workers as module
from nas.cli import UserError
from nas.cores import num_cores
from nas.folder import MANIFEST, RunFolder, begun_engine, read_manifest
from nas.run import Settings
from nas.search.plan import Plan, prepare
from nas.search.tuning import tuned
from nas.training import probe
from nas.training.engine import Choice, Engine, Timings
from nas.workers import Workers, workers_for
from tests.models import tiny
from tests.trees import plant

ODD = Engine(precision="bf16", memory_format="contiguous")
"""What nobody gets by default."""
DEFAULT = Engine(precision="fp32", memory_format="channels-last")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    plant(tmp_path / "images", {f"train/{i}": 8 for i in range(3)})
    return tmp_path


def _flags(folder: Path, *more: str) -> list[str]:
    flags = ["--data", str(folder / "images"), "--space", "tests.supernets:tiny_space"]
    flags += ["--strategy", "random", "--trials", "1", "--epochs", "1", "--finalists", "0"]
    flags += ["--resolution", "8", "--gpus-per-trial", "0"]
    return [*flags, "--run-dir", str(folder / "run"), *more]


def _plan(folder: Path, **more: Any) -> Plan:
    return prepare(
        Settings(
            data=str(folder / "images"),
            space="tests.supernets:tiny_space",
            resolution=8,
            gpus_per_trial=0,
            run_dir=folder / "run",
            **more,
        )
    )


def _finds(best: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the probe find `best` twice as fast as all others."""

    def measure(_network: Any, _train: Any, _recipe: Any, engines: Any, **_: Any) -> Any:
        return [Timings(engine=e, seconds=(0.05 if e == best else 0.1,)) for e in engines]

    monkeypatch.setattr(probe, "measure", measure)
    monkeypatch.setattr(probe, "native_precisions", lambda _: ["fp32", "bf16"])


def _engine_line(text: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith("engine ")]
    return line


def test_a_run_probes_once_and_goes_on_as_recorded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _finds(ODD, monkeypatch)
    assert run.main(_flags(folder)) == 0
    first = _engine_line(capsys.readouterr().out)
    assert first.startswith("engine  contiguous, bf16 (probe: 20 images/s; channels-last, fp32 10;")
    record = json.loads((folder / "run" / MANIFEST).read_text())["engine"]
    assert record["engine"] == {"precision": "bf16", "memory_format": "contiguous"}
    assert [speed["images_per_second"] for speed in record["speeds"]] == [10, 10, 10, 20]

    _finds(DEFAULT, monkeypatch)
    assert run.main(_flags(folder, "--trials", "2")) == 0
    assert _engine_line(capsys.readouterr().out) == f"{first}, as in its trials before"
    assert json.loads((folder / "run" / MANIFEST).read_text())["engine"] == record
    assert first in (folder / "run" / "report.md").read_text()
    task = _plan(folder).task
    assert task.evaluator is task.training
    assert task.training is not None
    assert task.training.engine == ODD
    shared = _plan(folder, evaluator="supernet").shared
    assert shared is not None
    assert shared.recipe.precision == "bf16"


def test_a_run_goes_on_with_the_flags_that_began_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe, "measure", lambda *_, **__: pytest.fail("probed"))
    given = ["--precision", "fp32", "--memory-format", "contiguous"]
    assert run.main(_flags(folder, *given)) == 0
    assert _engine_line(capsys.readouterr().out) == "engine  contiguous, fp32 (as asked for)"
    assert run.main(_flags(folder)) == 0
    assert _engine_line(capsys.readouterr().out).startswith("engine  contiguous, fp32 (as asked")
    for flag, other, used in (
        ("--precision", "bf16", "fp32"),
        ("--memory-format", "channels-last", "contiguous"),
    ):
        assert run.main(_flags(folder, flag, other)) == 2
        assert (
            f"were trained with `{flag} {used}`, and others would not compare; got {other}. Leave "
            "the flag out, or choose a new --run-dir." in capsys.readouterr().err
        )


def test_a_folder_from_before_the_record_goes_on_as_it_always_did(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--precision", "fp32", "--memory-format", "channels-last"]
    assert run.main(_flags(folder, *given)) == 0
    manifest = folder / "run" / MANIFEST
    content = json.loads(manifest.read_text())
    del content["engine"]
    manifest.write_text(json.dumps(content))
    capsys.readouterr()
    monkeypatch.setattr(probe, "measure", lambda *_, **__: pytest.fail("probed"))
    assert run.main(_flags(folder, "--trials", "2")) == 0
    assert _engine_line(capsys.readouterr().out) == "engine  channels-last, fp32 (not probed)"
    assert run.main(_flags(folder, *given)) == 0  # which is what it did
    assert run.main(_flags(folder, "--precision", "bf16")) == 2
    assert "trained with `--precision fp32`" in capsys.readouterr().err


def test_what_the_device_cannot_do_is_refused_before_images_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(_flags(folder, "--precision", "fp16", "--data", "nowhere")) == 2
    assert "`--precision fp16` needs a GPU, and these trials" in capsys.readouterr().err
    # Begun on a GPU:
    with RunFolder(folder / "run", "nas.run") as begun:
        begun.bind({}, {}, Choice(engine=Engine(precision="fp16"), source="probe"))
    with pytest.raises(UserError, match="trained in fp16, which this device does not have"):
        _plan(folder)


def test_the_record_is_written_when_a_run_begins_and_not_again(tmp_path: Path) -> None:
    """A start that is killed before there are conditions has begun nothing."""
    choice = Choice(engine=ODD, source="flags")
    with RunFolder(tmp_path, "nas.run") as folder:
        folder.start()
        assert begun_engine(tmp_path) is None
        folder.bind({"seed": 0}, {}, choice)
        folder.bind({"seed": 0}, {}, Choice(engine=DEFAULT, source="probe"))
        folder.write("a.txt", "a")
    assert begun_engine(tmp_path) == choice
    assert set(read_manifest(tmp_path / MANIFEST).files) == {"config.json", "a.txt"}


@pytest.mark.parametrize("engine", ['{"engine": {"precision": "fp8"}}', '"fp32"'])
def test_a_damaged_record_is_refused(engine: str, tmp_path: Path) -> None:
    with RunFolder(tmp_path, "nas.run") as folder:
        folder.bind({}, {}, Choice())
    manifest = tmp_path / MANIFEST
    content = {**json.loads(manifest.read_text()), "engine": json.loads(engine)}
    manifest.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"manifest\.json is not readable"):
        begun_engine(tmp_path)


def test_a_cluster_s_machines_are_not_probed_for(folder: Path) -> None:
    plan = _plan(folder, precision="fp32", memory_format="channels-last")
    task, _ = tuned(
        plan.task,
        Workers(ray_address="auto"),
        [tiny()],
        run_dir=folder / "none",
        precision="auto",
        memory_format=None,
    )
    assert task.engine == Choice()


def test_auto_workers_fill_the_cores_as_far_as_memory_goes() -> None:
    auto = Workers(count=8, why="8 cores")
    assert [auto.held_by(free, 10**9).count for free in (10**12, 10**10, 5 * 10**9, 10**6)] == [
        *(8, 4, 2, 1)  # of 2 GB each, in 80 % of what is free
    ]
    assert auto.held_by(10**12, 0).count == 8
    assert auto.held_by(10**10, 10**9).describe() == (
        "4 at a time (1 thread each) on Ray Tune "
        "(auto: 8 cores; 2.0 GB each of 8.0, 80% of the free)"
    )


def test_auto_workers_have_one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where memory leaves some of the cores unused."""
    monkeypatch.setattr(module, "num_cores", lambda: 8)
    assert Workers(count=3, why="8 cores").threads == 1
    assert Workers(count=3).threads == 2
    assert Workers(count=2, why="2 GPUs", gpus_per_trial=1.0).threads == 4


def test_auto_workers_take_every_core_or_fill_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert workers_for("auto", 0.0, None, None).count == num_cores()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    counts = [workers_for("auto", share, None, None).count for share in (1, 0.5, 2, 0.4)]
    assert counts == [3, 6, 1, 6]
    with pytest.raises(UserError, match=r"`--workers auto` counts this machine's .* Name a number"):
        workers_for("auto", 0.0, "auto", None)


def test_more_trials_at_a_time_than_gpus_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    rule = r"`--workers 3` with 1 GPU for each .* the 2 GPUs .* only 2 would .* --workers 2, or "
    with pytest.raises(UserError, match=rf"{rule}share a GPU with `--gpus-per-trial 0\.5`"):
        workers_for(3, None, None, None)
    with pytest.raises(UserError, match=r"`--workers 13` .* only 6 .* `--gpus-per-trial 0\.142`"):
        workers_for(13, 1 / 3, None, None)
    for count, share in ((2, 1.0), (3, 0.5), (14, 0.142), (98, 1 / 49)):
        assert workers_for(count, share, None, None).count == count


def test_auto_workers_are_in_the_plan(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--precision", "fp32", "--memory-format", "channels-last", "--dry-run"]
    monkeypatch.setattr(module, "num_cores", lambda: 5)
    monkeypatch.setattr("nas.search.tuning.available_memory", lambda: 4 * 10**9)
    assert run.main(_flags(folder, "--workers", "auto", *given)) == 0
    expected = (
        ", 3 at a time (1 thread each) on Ray Tune "
        "(auto: 5 cores; 1.0 GB each of 3.2, 80% of the free)\n"
    )
    assert expected in capsys.readouterr().out
    assert not (folder / "run").exists()


def test_images_that_other_flags_would_draw_are_another_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Equal numbers of images need not be equal images."""
    given = ["--precision", "fp32", "--memory-format", "channels-last", "--val-images", "6"]
    assert run.main(_flags(folder, *given, "--max-images", "14")) == 0
    assert run.main(_flags(folder, *given, "--max-images", "15")) == 2
    assert "max_images was 14, now 15" in capsys.readouterr().err
