"""`python -m nas.run --evaluator supernet`: trials from shared weights, finalists trained."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from nas import proxy, run
from nas.costs.objective import AccuracyObjective
from nas.search.options import TrialOptions
from nas.supernet.job import SupernetJob
from nas.training import checkpoint
from nas.training.parts import build_network
from nas.training.score import accuracy
from nas.trials.runner import TrialRunner
from nas.trials.trial import Proposal
from nas.workers import Workers
from search_spaces.spaces import sample
from search_spaces.weights import load_weights, read_weights
from search_spaces.zoo import load_architecture
from tests.searching import wait_for
from tests.supernets import SPACE, tiny_space, training

ROOT = Path(__file__).parents[1]
SMALL = [
    *("--evaluator", "supernet", "--space", "tests.supernets:tiny_space", "--data", "digits"),
    *("--max-images", "100", "--supernet-epochs", "2", "--finalists", "1"),
    *("--finalist-seeds", "1", "--finalist-epochs", "1"),
    *("--precision", "fp32", "--memory-format", "channels-last"),  # in every folder alike
]


def _main(folder: Path, *flags: str) -> int:
    return run.main([*SMALL, "--run-dir", str(folder), *flags])


def _trials(folder: Path) -> pd.DataFrame:
    table = pd.read_csv(folder / "trials.csv", keep_default_na=False)
    return table.query("state == 'COMPLETE'").drop(columns="seconds").reset_index(drop=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert _main(folder, "--trials", "4") == 0
    return folder


def _job(folder: Path) -> SupernetJob:
    options = TrialOptions(data="digits", max_images=100)
    task = options.load_task(Workers(), run_dir=folder, resolution=None, num_classes=None)
    assert task.training is not None
    return SupernetJob(
        space=tiny_space(8, 10, 1e6), training=task.training, epochs=2, drawn=2, seed=0
    )


@pytest.mark.slow
def test_trials_take_their_weights_and_finalists_are_trained(finished: Path) -> None:
    job, trials = _job(finished), _trials(finished)
    evaluator = job.train(finished / "supernet", lambda line: None)
    blocks = [name for name in trials.columns if name.startswith("block")]
    for trial in trials.to_dict("records"):
        network = job.space.decode({str(name): trial[name] for name in blocks})
        assert network.digest == trial["digest"]
        assert trial["accuracy"] == evaluator(network, epochs=2, seed=0)
    assert set(trials.epochs) == {2}

    finalists = pd.read_csv(finished / "finalists.csv")
    baseline = load_architecture(finished / "baseline.json")
    trained = job.training(baseline, epochs=1, seed=1)  # type: ignore[arg-type]
    assert float(finalists.set_index("digest").accuracy[baseline.digest]) == trained


@pytest.mark.slow
def test_the_baseline_s_shared_weights_can_be_trained_further(finished: Path) -> None:
    job, baseline = _job(finished), load_architecture(finished / "baseline.json")
    network = build_network(baseline, seed=9)
    assert load_weights(network, read_weights(finished / "baseline.safetensors")) == "own"
    value = accuracy(network, job.training.validation, resolution=8, device=torch.device("cpu"))
    evaluator = job.train(finished / "supernet", lambda line: None)
    assert value == evaluator(baseline, epochs=2, seed=0)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_resumed_run_does_not_train_the_supernet_again(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, weights = _trials(finished), (finished / "supernet" / checkpoint.NAME).read_bytes()
    assert _main(finished, "--trials", "6") == 0
    output = capsys.readouterr().out
    assert "resume  the supernet after epoch 2 of 2" in output
    assert "resume  search: 4 of 6 trials are finished" in output
    assert (finished / "supernet" / checkpoint.NAME).read_bytes() == weights
    after = _trials(finished)
    pd.testing.assert_frame_equal(after.head(4), before, check_dtype=False)
    assert len(after) == 6


@pytest.mark.slow
def test_what_a_kill_left_of_a_supernet_s_checkpoint_is_removed(finished: Path) -> None:
    left = finished / "supernet/.checkpoint.pt.4194305.tmp"
    left.write_bytes(b"half")
    assert _main(finished) == 0
    assert not left.exists()


@pytest.mark.slow
def test_the_plan_and_the_next_command(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main(tmp_path, "--trials", "4", "--dry-run") == 0
    assert "(supernet 0:0" in capsys.readouterr().out
    assert _main(finished, "--trials", "4") == 0
    output = capsys.readouterr().out
    assert "shared  one supernet of " in output
    assert (
        "plan    4 trials of its weights by guided, 1 at a time (1 thread) in this process"
        in output
    )
    assert "supernet 0:0" not in output  # it is trained
    following = next(line for line in output.splitlines() if line.startswith("next "))
    assert "scaling_search.grid" in following
    assert "supernet" not in following.replace(str(finished), "")
    conditions = json.loads((finished / "config.json").read_text())["conditions"]
    assert conditions["evaluator"] == "supernet"
    assert conditions["supernet"] == {"epochs": 2, "drawn": 2, "rule": 1}
    assert conditions["data"] == "digits"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--supernet-epochs", "3"], "epochs was 2, now 3"),
        (["--supernet-drawn", "1"], "drawn was 2, now 1"),
        (["--max-images", "90"], "images was [90, 10], now [80, 10]"),
    ],
)
def test_changed_conditions_are_refused(
    flags: list[str], words: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main(finished, "--trials", "4", *flags) == 2
    assert words in capsys.readouterr().err


def test_a_plain_run_does_not_go_on_with_a_supernet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = ["--data", "digits", "--space", "tests.supernets:tiny_space", "--max-images", "100"]
    more = ["--trials", "1", "--epochs", "1", "--finalists", "0", "--run-dir", str(tmp_path)]
    assert run.main([*plain, *more]) == 0
    assert run.main([*plain, *more, "--evaluator", "supernet"]) == 2
    assert "evaluator was None, now 'supernet'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--space", "tests.supernets:residual_space"], "the shortcut of a ResNet bottleneck is a"),
        (["--halving"], "`--halving` stops trainings early, and the trials of `--evaluator supern"),
    ],
)
def test_what_cannot_be_is_refused_before_a_run_begins(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main(tmp_path / "run", *flags) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()


def test_other_commands_know_no_supernet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert proxy.main(["--evaluator", "supernet", "--run-dir", str(tmp_path / "run")]) == 2
    assert "`--evaluator` must have the form my_module:function" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_killed_in_the_supernet_s_training_ends_as_an_uninterrupted_one(
    tmp_path: Path,
) -> None:
    command = [*SMALL, "--supernet-epochs", "6", "--trials", "4", "--finalists", "0"]
    words = [sys.executable, "-m", "nas.run", *command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    killed = tmp_path / "killed"
    file = killed / "supernet" / checkpoint.NAME
    with subprocess.Popen(
        [*words, "--run-dir", str(killed)], env=environment, stdout=subprocess.DEVNULL
    ) as process:
        wait_for(file.exists, "the first checkpoint")
        process.kill()
    epoch = _epoch(killed / "supernet")
    done = subprocess.run(
        [*words, "--run-dir", str(killed)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"resume  the supernet after epoch {epoch} of 6" in done.stdout
    undisturbed = tmp_path / "undisturbed"
    assert run.main([*command, "--run-dir", str(undisturbed)]) == 0
    pd.testing.assert_frame_equal(_trials(killed), _trials(undisturbed))


def _epoch(folder: Path) -> int:
    state = checkpoint.load(folder).state
    assert state is not None
    return state["trainer"]["epoch"]


@pytest.mark.ray
@pytest.mark.slow
def test_workers_measure_what_this_process_does(tmp_path: Path) -> None:
    job = SupernetJob(space=SPACE, training=training(), epochs=1, drawn=1, seed=0)
    evaluator = job.train(tmp_path / "supernet", lambda line: None)
    rng = random.Random(0)
    proposals: list[Any] = [
        Proposal(architecture=SPACE.decode(sample(SPACE, rng)), epochs=1, seed=0) for _ in range(6)
    ]
    results = []
    for count in (1, 2):
        database = tmp_path / f"{count}.db"
        workers = Workers(count=count)
        runner = TrialRunner(database, evaluator, AccuracyObjective(), workers)
        study = runner.run_all("study", proposals)
        results.append(sorted((r.job.slot, r.outcome.accuracy) for r in study.results))
    assert results[0] == results[1]
    assert all(value is not None for _, value in results[0])
