"""The folder of a run: one process at a time, one command, the conditions it began with."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nas import export, train
from nas.cli import UserError
from nas.folder import RunFolder
from search_spaces.files import FolderError
from tests.models import SMALL, trained

ROOT = Path(__file__).parents[1]
CONDITIONS: dict[str, Any] = {
    "space": "mnasnet",
    "target_macs": 4e8,
    "data": "digits",
    "seed": 0,
    "images": [100, 10],
}


def test_an_edited_config_is_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path, "nas.run") as folder:
        folder.bind(CONDITIONS, {})
        config = tmp_path / "config.json"
        config.write_text(config.read_text().replace('"seed": 0', '"seed": 1'))
        message = r"config\.json differs from what nas\.run wrote .*: it was damaged or edited\."
        with pytest.raises(UserError, match=message):
            folder.bind({**CONDITIONS, "seed": 1}, {})


def test_conditions_are_written_once_and_compared(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        assert folder.bind(CONDITIONS, {"trials": 20, "run_dir": Path("x")}) is False
        assert folder.bind(dict(reversed(CONDITIONS.items())), {"trials": 30}) is True
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    assert content["conditions"] == CONDITIONS
    assert content["settings"] == {"trials": 30}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space": "efficientnet"}, "space was 'mnasnet', now 'efficientnet'"),
        ({"target_macs": 6e8}, "target_flops was 400M, now 600M"),
        ({"data": "cifar"}, "data was 'digits', now 'cifar'"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"images": [90, 10]}, r"images was \[100, 10\], now \[90, 10\]"),
        ({"hard": True}, "hard was None, now True"),
        ({"seed": 1, "space": "x"}, "space was 'mnasnet', now 'x'; seed was 0, now 1"),
    ],
)
def test_changed_conditions_are_refused(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with RunFolder(tmp_path) as folder:
        folder.bind(CONDITIONS, {})
        before = (tmp_path / "config.json").read_text()
        with pytest.raises(UserError, match=rf"{words}\. .* choose a new --run-dir\."):
            folder.bind({**CONDITIONS, **changes}, {})
        assert (tmp_path / "config.json").read_text() == before


def test_the_folder_of_another_command_is_refused_by_its_name(tmp_path: Path) -> None:
    with RunFolder(tmp_path, "nas.proxy") as folder:
        folder.bind(CONDITIONS, {})
    words = r"is the folder of a run of nas\.proxy\. Choose another --out\."
    other = RunFolder(tmp_path, "nas.train", "--out")
    for look in (other.__enter__, other.check, lambda: other.compare(CONDITIONS)):
        with pytest.raises(UserError, match=words):
            look()
    with RunFolder(tmp_path, "nas.proxy") as folder:  # whose lock is free
        assert folder.bind(CONDITIONS, {})


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_training_and_an_export_leave_the_folder_of_a_search_alone(
    dry: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = trained(tmp_path / "trained", SMALL)
    with RunFolder(tmp_path / "run", "nas.run") as folder:
        folder.bind(CONDITIONS, {})
    before = {path: path.read_bytes() for path in folder.path.iterdir()}
    out = [*dry, "--out", str(folder.path)]
    assert train.main(["--arch", "efficientnet-b0", "--data", "digits", *out]) == 2
    assert export.main(["--weights", str(weights), *out]) == 2
    error = capsys.readouterr().err
    assert error.count("is the folder of a run of nas.run. Choose another --out.") == 2
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before


def test_images_in_a_folder_of_another_name_are_the_same_data(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        folder.bind({**CONDITIONS, "data": "photos", "fingerprint": "ab12"}, {})
        assert folder.bind({**CONDITIONS, "data": "moved", "fingerprint": "ab12"}, {}) is True
        with pytest.raises(UserError, match=r"data was 'moved', now 'x'\. Its"):
            folder.bind({**CONDITIONS, "data": "x", "fingerprint": "cd34"}, {})


@pytest.mark.parametrize("content", ["", "{", "[]", '{"settings": {}}'])
def test_an_unreadable_config_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with (
        RunFolder(tmp_path) as folder,
        pytest.raises(UserError, match=r"config\.json is not readable .* another --run-dir"),
    ):
        folder.bind(CONDITIONS, {})


def test_a_second_driver_is_refused_by_the_pid_of_the_first(tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path),
        pytest.raises(FolderError, match=rf"in use by process {os.getpid()}\..* another --run-dir"),
        RunFolder(tmp_path),
    ):
        pass
    with RunFolder(tmp_path):
        pass


def test_the_folder_of_a_killed_process_is_free(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from nas.folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(FolderError, match=rf"in use by process {holder.pid}\."),
            RunFolder(tmp_path),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
    with RunFolder(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(FolderError, match=r"`--run-dir .*file/run` cannot be written"),
        RunFolder(tmp_path / "file" / "run"),
    ):
        pass
