"""Paired timing by a clock that the test winds: order, rounds, and when it stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from planish.compiler import timing
from planish.compiler.timing import (
    BLOCK,
    ENOUGH_ROUNDS,
    LEAD,
    LONG,
    MAX_ROUNDS,
    MIN_ROUNDS,
    PATIENCE,
    WARM_UP,
    Paired,
    time_alternating,
    turn,
    warmed,
)

Duration = Callable[[int], float]
FEED = {"x": np.zeros(1)}


class Clock:
    """Seconds since the start; sessions wind it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def perf_counter(self) -> float:
        return self.now


class Timed:
    """A session whose n-th run takes ``duration(n)`` seconds."""

    def __init__(self, name: str, clock: Clock, duration: Duration) -> None:
        self.name, self.clock, self.duration, self.count = name, clock, duration, 0

    def run(self, feed: object) -> None:
        self.clock.now += self.duration(self.count)
        self.clock.calls.append(self.name)
        self.count += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=made.perf_counter))
    return made  # type: ignore[return-value]


def sessions(clock: Clock, **durations: Duration) -> list[Any]:
    return [Timed(name, clock, duration) for name, duration in durations.items()]


def steady(seconds: float) -> Duration:
    return lambda _: seconds


def noisy(seconds: float, spread: float, seed: int = 0) -> Duration:
    draws = seconds * np.random.default_rng(seed).lognormal(0.0, spread, 5000)
    return lambda n: float(draws[n % len(draws)])


def test_medians_and_ratio_are_those_of_the_sessions(clock: Clock) -> None:
    made = sessions(clock, before=steady(0.02), after=steady(0.01))
    paired = time_alternating(made, [FEED, FEED, FEED], budget=1.0)
    assert paired.medians == pytest.approx([0.06, 0.03])
    ratio = paired.ratio(0, 1)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2.0, 2.0, 2.0))
    assert paired.ratio(1, 0).value == pytest.approx(0.5)


def test_the_order_turns_round_every_other_time(clock: Clock) -> None:
    made = sessions(clock, a=steady(2 * LONG), b=steady(2 * LONG), c=steady(2 * LONG))
    time_alternating(made, [FEED], budget=1.0)
    warm, timed = clock.calls[: 3 * WARM_UP], clock.calls[3 * WARM_UP :]
    assert warm == ["a"] * WARM_UP + ["b"] * WARM_UP + ["c"] * WARM_UP
    rounds = ["".join(timed[i : i + 3]) for i in range(0, len(timed), 3)]
    assert rounds == ["abc" if i % 2 == 0 else "cba" for i in range(len(rounds))]
    assert len(rounds) == MIN_ROUNDS


def test_each_row_is_its_sessions_whichever_way_round(clock: Clock) -> None:
    made = sessions(clock, a=lambda n: 1.0 + n, b=lambda n: 100.0 + n)
    paired = time_alternating(made, [FEED], budget=1.0)
    first = WARM_UP + np.arange(paired.seconds.shape[1])
    np.testing.assert_allclose(paired.seconds, [1.0 + first, 100.0 + first])


def test_the_first_milliseconds_of_a_turn_do_not_count(clock: Clock) -> None:
    """Each run takes 1 ms, but 2 ms for as long as the model has had its turn for less than 4."""
    begun = clock.now

    def slow_at_first(_: int) -> float:
        return 0.002 if clock.now - begun < 0.004 else 0.001

    (session,) = sessions(clock, a=slow_at_first)
    assert turn(session.run, [FEED], LEAD) == pytest.approx(0.001)
    assert clock.now - begun == pytest.approx(LEAD + BLOCK, abs=0.0021)


def test_a_turn_is_one_pass_where_all_are_long(clock: Clock) -> None:
    made = sessions(clock, long=steady(2 * LONG), short=steady(LONG / 2))
    runs = [session.run for session in made]
    assert [warmed(runs, [FEED]), warmed(runs[:1], [FEED])] == [LEAD, 0.0]
    clock.calls.clear()
    assert turn(runs[0], [FEED], 0.0) == pytest.approx(2 * LONG)
    assert turn(runs[1], [FEED], LEAD) == pytest.approx(LONG / 2)
    assert clock.calls == ["long", "short", "short"]


def test_of_the_passes_of_a_turn_the_median_counts(clock: Clock) -> None:
    (session,) = sessions(clock, a=lambda n: [LEAD, 0.001, 0.006, 0.002][min(n, 3)])
    assert turn(session.run, [FEED], LEAD) == pytest.approx(0.002)
    assert clock.calls == ["a"] * 5  # 1, 6, 2 and 2 ms after the lead


def test_a_steady_pair_ends_after_half_the_budget(clock: Clock) -> None:
    made = sessions(clock, a=steady(0.5), b=steady(0.5))
    paired = time_alternating(made, [FEED], budget=20.0)
    spent = paired.seconds.sum()
    assert 10.0 <= spent <= 11.0


def test_quick_models_end_after_a_number_of_rounds(clock: Clock) -> None:
    made = sessions(clock, a=steady(1e-4), b=steady(1e-4))
    assert time_alternating(made, [FEED], budget=6.0).seconds.shape == (2, ENOUGH_ROUNDS)
    made = sessions(clock, a=noisy(1e-2, 0.5, 1), b=noisy(1e-2, 0.5, 2))
    assert time_alternating(made, [FEED], budget=60.0).seconds.shape == (2, MAX_ROUNDS)


def test_slow_models_get_their_rounds_whatever_the_budget(clock: Clock) -> None:
    made = sessions(clock, a=steady(10.0), b=steady(10.0))
    assert time_alternating(made, [FEED], budget=1.0).seconds.shape == (2, MIN_ROUNDS)


def test_a_noisy_pair_gets_patience_but_not_for_ever(clock: Clock) -> None:
    made = sessions(clock, a=noisy(0.5, 0.5, 1), b=noisy(0.5, 0.5, 2))
    paired = time_alternating(made, [FEED], budget=8.0)
    assert MIN_ROUNDS < paired.seconds.shape[1] < MAX_ROUNDS
    assert PATIENCE * 8.0 < clock.now < PATIENCE * 8.0 + 8.0


def test_a_clear_difference_needs_no_patience(clock: Clock) -> None:
    made = sessions(clock, a=noisy(0.05, 0.3, 1), b=noisy(0.01, 0.3, 2))
    paired = time_alternating(made, [FEED], budget=4.0)
    assert clock.now < 4.0
    assert paired.ratio(0, 1).low > 2.0


@pytest.mark.parametrize("shift", [1.0, 1.3])
def test_the_interval_covers_the_truth(shift: float) -> None:
    """About 95 of 100 intervals hold the true ratio of medians; far fewer would be a defect."""
    hits = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        before = random.lognormal(0.0, 0.1, 41)
        after = random.lognormal(0.0, 0.1, 41) / shift
        ratio = Paired(np.array([before, after])).ratio(0, 1, seed=seed)
        hits += ratio.low <= shift <= ratio.high
    assert hits >= 52
