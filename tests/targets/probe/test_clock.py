"""Visits and busy machines, with clocks and counters that are made up."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from planish.targets.probe.busy import Load, Usage, complaint, load_between, read_usage
from planish.targets.probe.busy import disagreement as apart
from planish.targets.probe.clock import Timing, time_together, visit
from planish.targets.probe.measure import Found, Overheads, measure
from planish.targets.probe.points import Grid, points


class Machine:
    """A clock that runs only while something is computed; every run takes ``seconds()``."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self.now, self.seconds, self.runs = 0.0, seconds, 0

    def run(self) -> None:
        self.runs += 1
        self.now += self.seconds()

    def clock(self) -> float:
        return self.now


def test_a_visit_is_the_median_of_its_runs_after_warming_up() -> None:
    cold = itertools.chain([0.5], itertools.repeat(0.003))
    machine = Machine(lambda: next(cold))
    assert visit(machine.run, machine.clock) == pytest.approx(0.003)


def test_a_slow_graph_is_run_twice_and_not_more() -> None:
    machine = Machine(lambda: 2.0)
    visit(machine.run, machine.clock)
    assert machine.runs == 3  # one to warm up


def test_what_disturbs_one_visit_is_seen_and_does_not_count() -> None:
    """The second of three visits takes twice as long."""
    machine = Machine(lambda: 0.001)
    machine.seconds = lambda: 0.002 if 0.014 < machine.now < 0.028 else 0.001
    (timing,) = time_together([machine.run], clock=machine.clock)
    assert timing.seconds == pytest.approx(0.001)
    assert max(timing.visits) == pytest.approx(0.002)


def test_sessions_are_visited_by_turns() -> None:
    order: list[str] = []
    machine = Machine(lambda: 0.01)

    def named(name: str) -> Callable[[], None]:
        def run() -> None:
            order.append(name)
            machine.run()

        return run

    time_together([named("a"), named("b")], visits=2, clock=machine.clock)
    assert [name for name, _ in itertools.groupby(order)] == ["a", "b", "a"]


def test_disagreement_is_the_median_over_the_points() -> None:
    quiet, noisy = Timing((1.0, 1.0, 1.0)), Timing((1.0, 1.5, 2.0))
    assert noisy.disagreement == pytest.approx(0.5)
    assert apart([quiet, noisy, noisy]) == pytest.approx(0.5)
    assert apart([quiet, quiet, noisy]) == 0
    assert apart([]) == 0
    assert noisy.merged(Timing((0.5,))).seconds == 0.5


def test_load_is_what_others_and_the_hypervisor_took() -> None:
    before, after = Usage(0.0, 100.0, 5.0, 10.0), Usage(10.0, 118.0, 6.0, 19.0)
    found = load_between(before, after)
    assert [found.others, found.stolen] == pytest.approx([0.9, 0.1])
    assert load_between(None, after) == load_between(after, before) == Load(0.0, 0.0)


@pytest.mark.parametrize(
    ("load", "disagreement", "words"),
    [
        (Load(0.05, 0.0), 0.02, ""),
        (Load(0.8, 0.0), 0.02, "other programs kept 0.8 cores busy"),
        (Load(0.0, 0.3), 0.02, "0.3 cores were taken by other virtual machines"),
        (Load(0.0, 0.0), 0.4, "repeats lie 40% apart"),
        (Load(0.8, 0.0), 0.4, "other programs kept 0.8 cores busy; repeats lie 40% apart"),
    ],
)
def test_what_is_said_of_a_busy_machine(load: Load, disagreement: float, words: str) -> None:
    assert complaint(load, disagreement) == words


def test_counters_are_read_where_the_system_has_them(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 20 30 4000 7 5 6 9 0 0\ncpu0 1 2 3\n")
    found = read_usage(stat, clock=lambda: 12.0)
    assert found is not None
    ticks = found.busy / (100 + 20 + 30 + 5 + 6)
    assert found.clock == 12.0
    assert found.stolen == pytest.approx(9 * ticks)
    assert read_usage(tmp_path / "none") is None
    stat.write_text("")
    assert read_usage(stat) is None


TINY = Grid(
    rows=(1,), depths=(8,), widths=(8,), attention=(8,), pixels=(16,), channels=(16,),
    elements=(256,), lines=(16,), lengths=(8,), weights=(1 << 16,),
)  # fmt: skip


def counters(others: float) -> Callable[[], Usage]:
    """Usage of a machine on which others keep that many cores busy."""
    ticks = itertools.count()

    def read() -> Usage:
        now = float(next(ticks))
        return Usage(now, now * (1.0 + others), 0.0, now)

    return read


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve points instead of fifty."""
    monkeypatch.setattr("planish.targets.probe.measure.points", lambda grid: points(grid)[:12])


@pytest.mark.usefixtures("few")
def test_points_of_a_busy_machine_are_measured_again_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = {"runs": 0}
    real = time_together

    def spy(runs: list[Callable[[], object]], **given: object) -> list[Timing]:
        counted["runs"] += len(runs)
        return real(runs, **given)  # type: ignore[arg-type]

    monkeypatch.setattr("planish.targets.probe.measure.time_together", spy)
    quiet = measure(TINY, 1, usage=counters(0.0))
    once, counted["runs"] = counted["runs"], 0
    busy = measure(TINY, 1, usage=counters(1.5))
    assert "1.5 cores busy" in busy.busy
    assert "cores busy" not in quiet.busy
    again = len(busy.microseconds)
    assert counted["runs"] == once + again or quiet.busy  # on a quiet machine each point once


@pytest.mark.usefixtures("few")
def test_what_there_is_no_time_for_is_left_out() -> None:
    ticks = itertools.count()
    found = measure(TINY, 1, budget=1.0, clock=lambda: float(next(ticks)), usage=lambda: None)
    full = measure(TINY, 1, usage=lambda: None)
    assert 0 < len(found.microseconds) < len(full.microseconds)


def test_a_found_measurement_says_why_it_is_not_trusted() -> None:
    found = Found(1, Overheads(0, 0, 0), {}, {}, Load(0.5, 0.0), 0.01)
    assert found.busy == "other programs kept 0.5 cores busy"
