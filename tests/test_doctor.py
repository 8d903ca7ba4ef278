"""The doctor's word on each thing, its remedies, and its verdict as an exit status."""

import socket
from pathlib import Path

import pytest

from nas import doctor, machine
from tests.trees import plant


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def lines(check: str, out: str) -> list[str]:
    return [line for line in out.splitlines() if line[5:].startswith(check)]


def test_a_machine_that_is_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--data", "digits", "--run-dir", str(tmp_path / "not/yet")]) == 0
    out = capsys.readouterr().out
    for check in (
        "python",
        "packages",
        "torch",
        "cuda",
        "cores",
        "memory",
        "disk",
        "ray",
        "leftover",
        "data",
    ):
        assert lines(check, out), check
    assert "torch 2" in lines("packages", out)[0]
    assert "1,797 images · 10 classes · train 1,437 / validation 180 / test 180" in out
    assert out.splitlines()[-1].startswith("verdict fit: ")
    assert not (tmp_path / "not").exists()


def test_images_that_are_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = plant(tmp_path / "pets", {"train/a": 20, "train/b": 2, "train/c": 1, "test/b": 2})
    bad = sorted((root / "train/a").iterdir())[:12]
    for path in (*bad, root / "test/b/000.png"):
        path.write_bytes(b"no image")
    assert doctor.main(["--data", str(root), "--run-dir", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert lines("data", out)[0].startswith("FAIL data     pets · 25 images · 3 classes")
    assert all(f"{path}: no image" in out for path in bad)
    assert "fewer than 2 train images: c (1)" in out
    assert "Repair or remove 13 files, or run the commands with --skip-bad." in out
    assert out.splitlines()[-1].startswith("verdict NOT fit: data of ")


@pytest.mark.parametrize("source", ["nowhere", "x" * 5000])
def test_no_such_data(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--data", source, "--run-dir", str(tmp_path)]) == 1
    assert lines("data", capsys.readouterr().out) == ["FAIL data     cannot be used"]


def test_links_need_the_flag_here_too(tmp_path: Path) -> None:
    origin = plant(tmp_path / "origin", {"a": 4, "b": 4})
    (tmp_path / "links").mkdir()
    (tmp_path / "links/train").symlink_to(origin)
    (check,) = doctor.check_data(str(tmp_path / "links"))
    assert (check.status, "link out of" in check.remedies[0]) == ("FAIL", True)
    note, data = doctor.check_data(str(tmp_path / "links"), follow_links=True)
    assert (note.status, data.status) == ("note", "ok")
    assert note.found.startswith("no val/ or test/")


def test_images_that_do_not_fit_into_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_memory", lambda: 300_000)
    (check,) = doctor.check_data("digits")
    assert check.status == "FAIL"
    assert check.found.endswith("337 KiB in memory at 8 px")


def test_duplicates_are_a_note(tmp_path: Path) -> None:
    root = plant(tmp_path / "pets", {"train/a": 2, "train/b": 2, "test/a": 1})
    (root / "test/a/000.png").write_bytes((root / "train/a/000.png").read_bytes())
    note, data = doctor.check_data(str(root))
    assert (note.status, data.status) == ("note", "ok")
    assert "in train too" in note.found


def test_uneven_classes_are_a_note(tmp_path: Path) -> None:
    root = plant(tmp_path / "parts", {"train/sound": 8, "train/dent": 2, "train/rust": 3})
    plant(root, {"test/sound": 1, "test/dent": 1, "test/rust": 1})
    note, data = doctor.check_data(str(root))
    assert (note.status, data.status) == ("note", "ok")
    assert note.found.startswith("class 'sound' has 8 images to train on, 'dent' 2; with --bal")


def test_no_images_to_judge_a_training_by_are_a_note(tmp_path: Path) -> None:
    root = plant(tmp_path / "pets", {"train/a": 4, "train/b": 4})
    note, data = doctor.check_data(str(root))
    assert (note.status, data.status) == ("note", "ok")
    assert note.found.startswith("no val/ or test/: nas.train could not tell")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check = next(machine.check_disk(tmp_path / "file" / "run"))
    assert check.status == "FAIL"
    assert "cannot be written" in check.found


@pytest.mark.parametrize(
    ("available", "status"),
    [(None, "note"), (2e8, "FAIL"), (2e9, "note"), (64e9, "ok")],
)
def test_memory(available: float | None, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: available)
    (check,) = machine.check_memory()
    assert check.status == status


def test_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    (check,) = machine.check_cores()
    assert check.status == "note"
    assert "OMP_NUM_THREADS=4096" in check.remedies[0]


def test_packages_that_are_missing_or_old(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["numpy>=999", "no-such-package-of-ours>=1", "torch>=2.6"]
    monkeypatch.setattr(machine, "_requirements", lambda: needs)
    _, check = machine.check_packages()
    assert check.status == "FAIL"
    assert check.found == "missing or too old: numpy>=999, no-such-package-of-ours>=1"
    monkeypatch.setattr(
        machine, "_requirements", lambda: ["torch", "no-such-package-of-ours; extra == 'onnx'"]
    )
    _, note, found = machine.check_packages()
    assert (note.status, found.status) == ("note", "ok")


class TestRay:
    def test_token_by_default(self) -> None:
        (check,) = doctor.check_ray(None)
        assert check.status == "ok"
        assert "token authentication" in check.found

    def test_without_authentication(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        (check,) = doctor.check_ray(None)
        assert check.status == "note"
        assert "unset RAY_AUTH_MODE" in check.remedies[0]

    def test_an_address_in_the_environment_is_not_followed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
        _, check = doctor.check_ray(None)
        assert check.status == "note"
        assert "--ray-address 10.0.0.1:6379" in check.remedies[0]

    def test_nobody_answers(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        _, check = doctor.check_ray(address)
        assert check.status == "FAIL"
        assert "No Ray cluster answers" in check.found

    def test_a_token_is_needed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"127.0.0.1:{server.getsockname()[1]}"
            _, check = doctor.check_ray(address)
            assert check.status == "FAIL"
            assert "auth_token" in check.remedies[0]
            monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
            _, check = doctor.check_ray(address)
            assert check.status == "ok"
            assert "secret" not in str(check)


def test_a_check_that_breaks_is_a_failure_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> object:
        raise RuntimeError("driver\x1b[2J on fire")

    monkeypatch.setattr(doctor, "check_cuda", broken)
    assert doctor.main(["--run-dir", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert r"FAIL cuda     RuntimeError: driver\x1b[2J on fire" in out
    assert "verdict NOT fit: cuda of 9 checks" in out
