from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planish.compiler.quality.scores import Budget, Point, Scores, normalise
from planish.ir.errors import InputError, UsageError


@pytest.mark.parametrize(
    ("text", "before", "limit"),
    [
        ("0.5", 82.0, 0.5),
        ("0", 82.0, 0.0),
        (" 0.5 % ", 82.0, 0.41),
        ("0.5%", -40.0, 0.2),
        ("1e-1", 1.0, 0.1),
        (2, 1.0, 2.0),
        ("1%", 0.0, 0.0),
    ],
)
def test_a_budget_is_in_units_of_the_metric_or_in_percent(
    text: str | float, before: float, limit: float
) -> None:
    assert Budget.parse(text).limit(before) == pytest.approx(limit)


@pytest.mark.parametrize("text", ["0.5", "0.5%", "12", "0"])
def test_a_budget_prints_as_it_was_written(text: str) -> None:
    assert str(Budget.parse(text)) == text


@pytest.mark.parametrize("text", ["", "%", "half", "-1", "nan", "inf", "0.5 points", "5%%"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no bound of a drop") as error:
        Budget.parse(text)
    assert "0.5%" in error.value.hint


@pytest.mark.parametrize("number", [81.5, 3, np.float32(2.5), np.int64(4), np.array(7.0)])
def test_one_number_becomes_a_point(number: Any) -> None:
    assert normalise(number) == Point(float(number))


@pytest.mark.parametrize(
    "values",
    [
        [1.0, 0.0, 1.0],
        (1, 0, 1),
        np.array([True, False, True]),
        np.array([1, 0, 1], dtype=np.int8),
        np.array([1, 0, 1], dtype=np.float16),
    ],
)
def test_one_number_per_sample_becomes_scores_of_their_mean(values: Any) -> None:
    scores = normalise(values)
    assert isinstance(scores, Scores)
    assert scores.samples.dtype == np.float64
    assert scores.value() == pytest.approx(2 / 3)


def test_scores_and_points_stay_as_they_are() -> None:
    scores = Scores(np.ones(3), higher_is_better=False)
    assert normalise(scores) is scores
    assert normalise(Point(1.0, False)) == Point(1.0, False)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ("82.5", "str '82.5'"),
        (None, "None"),
        ({"accuracy": 1.0}, "dict"),
        (object(), "object"),
        (True, "True, not a number"),
        (float("nan"), "1 of 1 values that are NaN"),
        (float("inf"), "infinite"),
        ([1.0, float("nan"), 3.0], "1 of 3 values that are NaN"),
        ([], "no samples"),
        (np.zeros((0, 4)), "no samples"),
        (np.ones((4, 2)), r"shape \(4, 2\)"),
        ([[1.0], [1.0, 2.0]], "no array"),
        (["right", "wrong"], "not made of numbers"),
        (1j, "not made of numbers"),
    ],
)
def test_anything_else_is_refused_with_what_to_return(result: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        normalise(result, where="metric.py:score")
    assert error.value.where == "metric.py:score"
    assert error.value.hint
    assert error.value.exit_code == 3


def test_scores_take_rows_and_keep_their_type() -> None:
    rows = np.arange(12).reshape(6, 2)
    scores = Scores(rows, aggregate=lambda s: float(np.mean(s[:, 0] == s[:, 1])))
    assert scores.samples.dtype == rows.dtype
    assert scores.value() == 0.0
    assert Scores([[1.0, 2.0]], aggregate=lambda s: 4.0).samples.shape == (1, 2)  # type: ignore[arg-type]


def test_slices_are_masks_or_indices() -> None:
    slices: Any = {
        "short": [True, False, True, False],
        "last": np.array([3]),
        "twice": [2, 0, 2],
        "none": [],
    }
    scores = Scores(np.arange(4.0), slices=slices)
    found = {name: index.tolist() for name, index in scores.slices.items()}
    assert found == {"short": [0, 2], "last": [3], "twice": [0, 2], "none": []}
    assert scores.value(scores.slices["short"]) == 1.0


@pytest.mark.parametrize(
    "wrong", [[True, False], [4], [-1], ["en"], [0.5, 1.5], 3, [[0, 1]], np.ones((4, 4), bool)]
)
def test_slices_that_select_nothing_of_the_samples_are_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match="slice 'part'"):
        Scores(np.arange(4.0), slices={"part": wrong})


def test_scores_without_samples_or_with_no_function_are_refused() -> None:
    for samples in (np.zeros(0), np.zeros((3, 0)), np.array(1.0)):
        with pytest.raises(InputError, match="no samples"):
            Scores(samples)
    with pytest.raises(InputError, match="not a function"):
        Scores(np.ones(3), aggregate="mean")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Scores hold 1 of 2 values"):
        Scores(np.array([1.0, np.inf]))


def test_an_aggregate_that_fails_says_how() -> None:
    def broken(samples: Any) -> float:
        raise KeyError("label")

    with pytest.raises(InputError, match="KeyError: 'label'"):
        Scores(np.ones(3), aggregate=broken).value()
    with pytest.raises(InputError, match="returned nan for 3 samples"):
        Scores(np.ones(3), aggregate=lambda s: float("nan")).value()
    with pytest.raises(InputError, match="the aggregate of Scores failed"):
        Scores(np.ones(3), aggregate=lambda s: "good").value()  # type: ignore[arg-type, return-value]
