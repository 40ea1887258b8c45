"""What the benchmarks measure with: alternation, intervals, the cost of a process."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bootstrap import drop_interval
from benchmarks.cost import measured
from benchmarks.data import Feeds, save_feeds
from benchmarks.timing import Timings, alternate

FEEDS: list[Feeds] = [{"x": np.zeros(1)}, {"x": np.ones(1)}]


def recorder(name: str, calls: list[str]) -> Callable[[Feeds], object]:
    return lambda feed: calls.append(f"{name}{int(feed['x'][0])}")


def test_runs_alternate_and_the_order_turns_around() -> None:
    calls: list[str] = []
    runs = {name: recorder(name, calls) for name in "ab"}
    taken = alternate(runs, FEEDS, rounds=3, warm_up=1)
    assert calls[:4] == ["a0", "a1", "b0", "b1"]
    turns = [(name, list(made)) for name, made in itertools.groupby(calls[4:], lambda c: c[0])]
    assert [name for name, _ in turns] == ["a", "b", "a", "b"]  # a, b; b, a; a, b
    assert all(made == [f"{name}0", f"{name}1"] * (len(made) // 2) for name, made in turns)
    assert {name: len(seconds) for name, seconds in taken.seconds.items()} == {"a": 3, "b": 3}


def test_only_the_time_inside_run_counts() -> None:
    class Slow(list[Feeds]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            for feed in super().__iter__():
                time.sleep(0.05)
                yield feed

    taken = alternate({"a": lambda feed: None}, Slow(FEEDS), rounds=2, warm_up=0)
    assert taken.seconds["a"].max() < 0.05


def test_a_speedup_is_the_ratio_of_medians_within_its_interval() -> None:
    seconds = {"before": np.array([4.0, 4.4, 8.0]), "after": np.array([2.0, 2.0, 5.0])}
    ratio = Timings(seconds).speedup("before", "after")
    assert ratio.value == pytest.approx(2.2)
    assert 1.6 <= ratio.low <= ratio.value <= ratio.high <= 2.2  # 8/5 and 4.4/2 are the extremes


def test_the_interval_of_a_mean_is_that_of_the_normal_theory() -> None:
    differences = np.random.default_rng(5).normal(0.4, 2.0, 900)
    low, high = drop_interval(lambda i: float(differences[i].mean()), 900, resamples=4000)
    half = 1.96 * differences.std() / 30
    assert low == pytest.approx(differences.mean() - half, abs=0.03)
    assert high == pytest.approx(differences.mean() + half, abs=0.03)


def test_memory_and_status_are_those_of_the_command_alone(tmp_path: Path) -> None:
    ballast = np.ones(60_000_000)  # 480 MB in this process, which must not count
    code = "import sys; held = bytearray(150_000_000); held[::4096] = b'x' * len(held[::4096])"
    found = measured([sys.executable, "-I", "-c", f"{code}; sys.exit(3)"], tmp_path)
    assert found["exit_code"] == 3
    assert 150e6 < found["peak_bytes"] < 300e6 < ballast.nbytes
    assert found["cpu_seconds"] > 0
    assert found["seconds"] > 0


def test_feeds_are_saved_one_a_file_in_order(tmp_path: Path) -> None:
    (tmp_path / "9999.npz").write_bytes(b"stale")
    save_feeds(FEEDS, tmp_path)
    paths = sorted(tmp_path.iterdir())
    assert [float(np.load(path)["x"][0]) for path in paths] == [0.0, 1.0]
