from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from planish.compiler.quality.evaluation import Budget, Point, Scores, compare
from planish.ir.errors import InputError

RNG = np.random.default_rng(0)


def spearman(rows: NDArray[Any]) -> float:
    """Rank correlation of the two columns, ties sharing their mean rank."""

    def ranks(values: NDArray[Any]) -> NDArray[np.float64]:
        _, place, count = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(count) - (count - 1) / 2)[place]

    return float(np.corrcoef(ranks(rows[:, 0]), ranks(rows[:, 1]))[0, 1]) * 100


def accuracy(right: int, n: int) -> NDArray[np.float64]:
    return np.where(np.arange(n) < right, 100.0, 0.0)


def test_a_drop_that_is_surely_within_the_budget_passes() -> None:
    before = RNG.normal(80, 5, 2000)
    after = before - 0.1 + RNG.normal(0, 0.5, 2000)
    found = compare(Scores(before), Scores(after), Budget.parse("0.5"))
    assert found.verdict == "within-budget"
    assert found.drop == pytest.approx((before - after).mean())
    error = np.std(before - after) / np.sqrt(2000)
    assert found.bound == pytest.approx(found.drop + 1.645 * error, abs=0.2 * error)
    assert found.interval is not None
    assert found.interval.low == pytest.approx(found.drop - 1.96 * error, abs=0.25 * error)
    assert found.interval.high == pytest.approx(found.drop + 1.96 * error, abs=0.25 * error)
    assert (found.limit, found.n, found.samples_needed, found.warning) == (0.5, 2000, None, "")


def test_a_drop_outside_the_budget_fails_however_wide_the_interval() -> None:
    before = RNG.normal(size=30)
    after = before - 0.6 + RNG.normal(0, 2, 30)
    after += before.mean() - 0.6 - after.mean()
    found = compare(Scores(before), Scores(after), Budget(0.5))
    assert found.interval is not None
    assert found.interval.low < 0.5 < found.drop
    assert found.verdict == "over-budget"
    assert found.samples_needed is None


def test_between_the_two_it_says_how_many_samples_would_decide() -> None:
    noise = RNG.normal(size=200)
    before = np.zeros(200)
    after = -0.1 - (noise - noise.mean()) / noise.std()
    found = compare(Scores(before), Scores(after), Budget(0.2), resamples=4000)
    assert found.verdict == "undecided"
    assert found.drop == pytest.approx(0.1)
    assert found.samples_needed == pytest.approx(6.183 / 0.1**2, rel=0.06)
    assert f"about {found.samples_needed} would" in found.sentence


@pytest.mark.parametrize("repeat", range(3))
def test_that_many_samples_mostly_do_decide(repeat: int) -> None:
    rng = np.random.default_rng(repeat)
    few = rng.normal(0.1, 1, 200)
    found = compare(Scores(np.zeros(200)), Scores(-few), Budget(0.35))
    if found.verdict != "undecided":
        assert few.mean() > 0.35 or few.mean() + 1.645 / np.sqrt(200) < 0.37
        return
    assert found.samples_needed is not None
    many = rng.normal(max(few.mean(), 0), 1, 2 * found.samples_needed)
    more = compare(Scores(np.zeros(len(many))), Scores(-many), Budget(0.35))
    assert more.verdict == "within-budget"


def test_where_lower_is_better_a_rise_is_the_drop() -> None:
    before = RNG.uniform(3, 4, 500)
    found = compare(
        Scores(before, higher_is_better=False),
        Scores(before + 0.5, higher_is_better=False),
        Budget(0.2),
    )
    assert found.verdict == "over-budget"
    assert found.drop == pytest.approx(0.5)
    assert not found.higher_is_better
    better = compare(Scores(before), Scores(before - 0.5), Budget(0.2), higher_is_better=False)
    assert better.verdict == "within-budget"
    assert better.drop == pytest.approx(-0.5)


def test_an_aggregate_of_rows_is_resampled_as_a_whole() -> None:
    n = 300
    truth = RNG.normal(size=n)
    first = truth + RNG.normal(0, 0.5, n)
    second = first + RNG.normal(0, 0.05, n)
    before = Scores(np.stack([first, truth], axis=1), aggregate=spearman)
    after = Scores(np.stack([second, truth], axis=1), aggregate=spearman)
    found = compare(before, after, Budget(3.0), resamples=300)
    assert found.before == pytest.approx(spearman(before.samples))
    assert found.after == pytest.approx(spearman(after.samples))
    assert found.verdict == "within-budget"
    rng = np.random.default_rng(99)
    drawn = []
    for _ in range(300):
        index = rng.integers(0, n, n)
        drawn.append(spearman(before.samples[index]) - spearman(after.samples[index]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.interval is not None
    assert found.interval.low == pytest.approx(low, abs=0.3 * (high - low))
    assert found.interval.high == pytest.approx(high, abs=0.3 * (high - low))
    # A mean of per-sample values would be another thing: here the rows' mean says nothing.
    assert abs(found.drop) < 2


def test_a_relative_budget_is_in_percent_of_the_original() -> None:
    before = np.full(50, 40.0) + RNG.normal(size=50)
    found = compare(Scores(before), Scores(before - 0.3), Budget.parse("1%"))
    assert found.limit == pytest.approx(before.mean() / 100)
    assert found.verdict == "within-budget"
    assert compare(Scores(before), Scores(before - 0.5), Budget.parse("1%")).verdict == (
        "over-budget"
    )


def test_without_a_budget_nothing_is_verified_but_everything_is_shown() -> None:
    found = compare(Scores(np.ones(40)), Scores(np.zeros(40)), None)
    assert found.verdict == "unverified"
    assert found.drop == 1.0
    assert found.limit is None
    assert "no bound was asked for" in found.sentence


def test_slices_are_shown_each_with_its_own_interval() -> None:
    before = np.full(200, 80.0) + RNG.normal(size=200)
    after = before.copy()
    after[:20] -= 5 + RNG.normal(size=20)
    slices: Any = {"fr": np.arange(200) < 20, "en": np.arange(20, 200), "one": [3], "none": []}
    found = compare(Scores(before, slices=slices), Scores(after, slices=slices), Budget(1.0))
    assert found.verdict == "within-budget"
    french, english, one, none = found.slices
    assert [row.name for row in found.slices] == list(slices)
    assert (french.n, english.n, one.n, none.n) == (20, 180, 1, 0)
    assert french.drop == pytest.approx((before[:20] - after[:20]).mean())
    assert french.interval is not None
    assert 4 < french.interval.low < french.interval.high < 6
    assert english.drop == 0.0
    assert one.drop == pytest.approx(before[3] - after[3])
    assert one.interval is None
    assert (none.before, none.drop, none.interval) == (None, None, None)


def test_a_slice_that_falls_where_the_whole_does_not_is_called_out() -> None:
    before = RNG.normal(80, 5, 2000)
    after = before + 0.5 + RNG.normal(0, 1, 2000)
    german = np.arange(2000) < 200
    after[german] -= 3.5
    slices: Any = {"de": german, "en": ~german}
    found = compare(Scores(before, slices=slices), Scores(after, slices=slices), Budget(1.0))
    assert found.verdict == "within-budget"
    assert found.drop < 0
    (sentence,) = found.apart
    row = found.slices[0]
    assert row.interval is not None
    assert f"slice de loses {row.drop:.2g} (95 % from {row.interval.low:.2g}" in sentence
    assert sentence.endswith(f"where the whole gains {-found.drop:.2g}")


def test_a_slice_that_loses_as_the_whole_does_is_not() -> None:
    before = RNG.normal(80, 5, 2000)
    after = before - 3 + RNG.normal(0, 1, 2000)
    slices: Any = {"first": np.arange(2000) < 300, "rest": np.arange(2000) >= 300}
    found = compare(Scores(before, slices=slices), Scores(after, slices=slices), None)
    assert all(row.surely is not None and row.surely > 2 for row in found.slices)
    assert found.apart == ()


def test_of_many_slices_chance_alone_calls_out_few() -> None:
    called = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        before, owner = rng.normal(size=800), rng.integers(0, 20, 800)
        slices: Any = {str(i): owner == i for i in range(20)}
        after = before + rng.normal(size=800)
        one, two = Scores(before, slices=slices), Scores(after, slices=slices)
        called += bool(compare(one, two, None, resamples=400).apart)
    assert called <= 4  # 5 % of 20, and what a bootstrap of 40 samples is off by


def test_losses_as_small_as_rounding_are_not_called_out() -> None:
    before = RNG.normal(80, 5, 200)
    slices: Any = {"all": np.arange(200)}
    found = compare(Scores(before, slices=slices), Scores(before - 1e-5, slices=slices), None)
    assert found.slices[0].surely == pytest.approx(1e-5)
    assert found.apart == ()


def test_a_slice_on_which_the_metric_has_no_value_is_shown_without_one() -> None:
    rows = np.stack([np.arange(40.0), np.arange(40.0)], axis=1)
    rows[:4, 0] = 1.0
    scores = Scores(rows, aggregate=spearman, slices={"same": np.arange(40) < 4})
    with np.errstate(all="ignore"):
        found = compare(scores, scores, Budget(1.0), resamples=100)
    assert found.slices[0].n == 4
    assert found.slices[0].before is None
    assert found.verdict == "within-budget"


def test_one_number_is_compared_with_a_warning() -> None:
    for drop, verdict in [(0.3, "within-budget"), (0.31, "over-budget")]:
        found = compare(Point(82.03), Point(82.03 - drop), Budget(0.3))
        assert found.verdict == verdict
        assert (found.n, found.interval, found.bound) == (1, None, None)
        assert "without an interval" in found.warning
    array_of_one = compare(Scores(np.array([3.0])), Scores(np.array([3.0])), Budget(0.3))
    assert array_of_one.verdict == "within-budget"
    assert "without an interval" in array_of_one.warning
    assert compare(Point(3.0), Point(4.0), None).verdict == "unverified"
    assert compare(Point(3.0, False), Point(4.0, False), Budget(0.5)).verdict == "over-budget"


def test_rounding_of_a_subtraction_decides_nothing() -> None:
    before, after = np.full(30, 82.03), np.full(30, 81.73)
    assert before.mean() - after.mean() > 0.3
    assert compare(Scores(before), Scores(after), Budget(0.3)).verdict == "within-budget"


def test_few_samples_and_unseen_losses_are_said() -> None:
    few = Scores(RNG.normal(size=8))
    assert "8 samples are few" in compare(few, few, Budget(0.5)).warning
    right = Scores(accuracy(90, 100))
    found = compare(right, right, Budget(0.5))
    assert found.verdict == "within-budget"
    assert "no sample got worse" in found.warning
    assert "3 (95 % confidence)" in found.warning
    assert compare(right, right, Budget(5.0)).warning == ""
    worse = Scores(accuracy(89, 100))
    assert compare(right, worse, Budget(0.5)).warning == ""


def test_a_metric_without_a_value_on_many_draws_has_no_interval_and_no_verdict() -> None:
    def needs_both(rows: NDArray[Any]) -> float:
        if len(np.unique(rows)) < 2:
            raise ValueError("only one class")
        return float(np.mean(rows))

    values = np.array([1.0, 0.0])
    found = compare(
        Scores(values, aggregate=needs_both), Scores(values, aggregate=needs_both), Budget(0.5)
    )
    assert found.verdict == "undecided"
    assert (found.bound, found.interval) == (None, None)
    assert "there is no interval" in found.warning


def test_results_that_do_not_belong_together_are_refused() -> None:
    one, two = Scores(np.ones(5)), Scores(np.ones(6))
    with pytest.raises(InputError, match="samples of shape"):
        compare(one, two, None)
    with pytest.raises(InputError, match="one number for one model"):
        compare(one, Point(1.0), None)
    with pytest.raises(InputError, match="higher is better for one model"):
        compare(one, Scores(np.ones(5), higher_is_better=False), None)
    first = Scores(np.ones(5), slices={"a": np.array([0, 1])})
    for slices in ({}, {"b": np.array([0, 1])}, {"a": np.array([0, 2])}):
        with pytest.raises(InputError, match="slices of the two models"):
            compare(first, Scores(np.ones(5), slices=slices), None)


def test_the_same_seed_gives_the_same_figures() -> None:
    before, after = Scores(RNG.normal(size=60)), Scores(RNG.normal(size=60))
    one = compare(before, after, Budget(0.1), seed=3).to_json()
    assert one == compare(before, after, Budget(0.1), seed=3).to_json()
    assert one != compare(before, after, Budget(0.1), seed=4).to_json()


def test_a_comparison_is_json() -> None:
    slices: Any = {"half": np.arange(30) < 15, "none": []}
    before = Scores(RNG.normal(size=30), slices=slices)
    after = Scores(before.samples - 0.1, slices=slices)
    found = compare(before, after, Budget(0.2))
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["verdict"] == "within-budget"
    assert data["samples"] == 30
    assert data["drop"] == pytest.approx(0.1)
    assert data["interval"] == pytest.approx([0.1, 0.1])
    assert [row["samples"] for row in data["slices"]] == [15, 0]
    assert data["sentence"] == found.sentence
