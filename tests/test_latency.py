"""Measured latency: how it is summed up and remembered; how long it takes is nobody's promise."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.cli import UserError
from nas.costs.latency import (
    FEWEST_RUNS,
    MAX_SECONDS,
    MIN_RUNS,
    ROUND,
    WARM_UP_RUNS,
    Latency,
    measure_latency,
    stable_median,
    warm_up,
)
from search_spaces.architecture import Architecture
from search_spaces.network import Network
from tests.searching import network


class Clock:
    """Given run times, one after the other; the last for ever."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds, self.runs = seconds, 0

    def __call__(self) -> float:
        self.runs += 1
        return self.seconds[min(self.runs, len(self.seconds)) - 1]


def test_a_steady_network_is_measured_briefly() -> None:
    clock = Clock([0.001])
    assert stable_median(clock) == 0.001
    assert clock.runs == MIN_RUNS


def test_outliers_do_not_count() -> None:
    clock = Clock([0.001, 0.9 * MAX_SECONDS, *[0.001] * 6, 0.01, 0.001])
    assert stable_median(clock) == 0.001


def test_a_slow_start_takes_more_runs() -> None:
    clock = Clock([*[0.002] * 15, 0.001])
    assert stable_median(clock) == 0.001
    assert clock.runs > MIN_RUNS
    assert clock.runs % ROUND == 0


def test_a_slow_network_is_not_measured_for_ever() -> None:
    clock = Clock([MAX_SECONDS, 3 * MAX_SECONDS, 2 * MAX_SECONDS])
    assert stable_median(clock) == 2 * MAX_SECONDS
    assert clock.runs == FEWEST_RUNS


def test_a_slow_network_is_warmed_up_once() -> None:
    slow, quick = Clock([2 * MAX_SECONDS]), Clock([0.5, 0.001])
    assert (warm_up(slow), slow.runs) == (2 * MAX_SECONDS, 1)
    assert (warm_up(quick), quick.runs) == (0.5, WARM_UP_RUNS)


@pytest.mark.parametrize(("patience", "ends"), [(0.0, False), (600.0, True)])
def test_patience(patience: float, ends: bool) -> None:
    device = torch.device("cpu")
    value = measure_latency(network(8), device=device, batch_size=1, patience=patience)
    assert math.isfinite(value) == ends


@given(st.lists(st.floats(1e-5, 2), min_size=1))
def test_the_result_is_the_median_of_what_was_run(seconds: list[float]) -> None:
    clock = Clock(seconds)
    result = stable_median(clock)
    run = [seconds[min(i, len(seconds) - 1)] for i in range(clock.runs)]
    assert result == statistics.median(run)
    assert sum(run[:-1]) < MAX_SECONDS or clock.runs <= FEWEST_RUNS


def test_a_network_is_measured_once(tmp_path: Path) -> None:
    file = tmp_path / "latency.json"
    first = Latency(file=file)
    value = first(network(8))
    assert value > 0
    assert first(network(8)) == value
    content = json.loads(file.read_text())
    assert content["ms"] == {network(8).digest: value}
    assert content["conditions"]["torch"] == torch.__version__
    assert content["conditions"] == first.conditions
    assert (first.conditions["threads"], first.conditions["batch_size"]) == (1, 1)

    content["ms"][network(8).digest] = 123.0  # remembered, not measured again
    file.write_text(json.dumps(content))
    assert Latency(file=file)(network(8)) == 123.0
    assert Latency(file=file)(network(16)) != 123.0


def test_the_memory_may_stay_unwritten(tmp_path: Path) -> None:
    assert Latency(file=tmp_path / "latency.json", writes=False)(network(8)) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [-1.0, 0, "fast", None])
def test_a_latency_that_cannot_be_is_not_read(value: Any, tmp_path: Path) -> None:
    file = tmp_path / "latency.json"
    Latency(file=file)(network(8))
    content = json.loads(file.read_text())
    content["ms"][network(8).digest] = value
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"latency\.json is not readable"):
        Latency(file=file)


def test_other_conditions_do_not_compare(tmp_path: Path) -> None:
    Latency(file=tmp_path / "latency.json")(network(8))
    with pytest.raises(UserError, match=r"batch_size was 1, now 2\. Its latencies would"):
        Latency(file=tmp_path / "latency.json", batch_size=2)
    with pytest.raises(UserError, match="threads was 1, now 2"):
        Latency(file=tmp_path / "latency.json", threads=2)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"conditions": 1, "ms": {}}'])
def test_a_broken_memory_is_told(content: str, tmp_path: Path) -> None:
    (tmp_path / "latency.json").write_text(content)
    with pytest.raises(UserError, match=r"latency\.json is not readable .* choose another"):
        Latency(file=tmp_path / "latency.json")


def test_torch_is_left_as_it_was(tmp_path: Path) -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    Latency(file=tmp_path / "latency.json", threads=threads + 1)(network(8))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole batches in eval mode, without gradients, with the threads that were asked for."""
    seen: list[tuple[object, ...]] = []
    forward = Network.forward

    def watching(self: Network, x: torch.Tensor) -> torch.Tensor:
        facts = (tuple(x.shape), x.dtype, self.training, torch.get_num_threads())
        seen.append((*facts, torch.is_grad_enabled()))
        return forward(self, x)

    monkeypatch.setattr(Network, "forward", watching)
    Latency(file=tmp_path / "latency.json", batch_size=3, threads=2)(network(8))
    assert set(seen) == {((3, 3, 8, 8), torch.float32, False, 2, False)}
    assert len(seen) > FEWEST_RUNS


def test_it_reads_well(tmp_path: Path) -> None:
    latency = Latency(file=tmp_path / "latency.json")
    assert (latency.name, latency.unit) == ("latency", "ms")
    assert latency.format(12.345) == "12.3 ms"
    assert latency.conditions["device"]
    assert latency.describe() == (
        f"ms on {latency.conditions['device']} (1 thread, batch 1, float32, median)"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sees no GPU\. .* or use --gpus-per-trial 0"):
        Latency(file=tmp_path / "latency.json", device="cuda")


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path) -> None:
    latency = Latency(file=tmp_path / "latency.json", device="cuda")
    assert latency.conditions["device"] == torch.cuda.get_device_name()
    assert "thread" not in latency.describe()
    wide: Architecture = network(512)
    assert latency(wide) == Latency(file=tmp_path / "latency.json", device="cuda")(wide) > 0
