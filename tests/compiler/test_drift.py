from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from planish.compiler.quality.drift import (
    Drift,
    DriftGate,
    DriftMeter,
    OutputDrift,
    default_gate,
    judge,
    measure,
)
from planish.ir.errors import InputError, UsageError

RNG = np.random.default_rng(0)


def only(before: Any, after: Any, mask: Any = None) -> OutputDrift:
    """The drift of one output over one feed."""
    return measure([[np.asarray(before)]], [[np.asarray(after)]], [mask]).outputs[0]


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.mark.parametrize("shape", [(64, 16), (4, 16, 16), (2, 2, 16, 16)])
def test_measures_are_those_of_their_definitions(shape: tuple[int, ...]) -> None:
    before = RNG.normal(size=shape).astype(np.float32)
    after = before + RNG.normal(0, 0.3, shape).astype(np.float32)
    found = only(before, after)
    a, b = before.reshape(-1, 16).astype(float), after.reshape(-1, 16).astype(float)
    rows = [cosine(x, y) for x, y in zip(a, b, strict=True)]
    assert found.rows == len(rows) == 64
    assert found.cosine == pytest.approx(np.mean(rows))
    assert found.cosine_min == pytest.approx(np.min(rows))
    assert found.cosine_p1 == pytest.approx(np.percentile(rows, 1))
    assert found.sqnr_db == pytest.approx(10 * np.log10(np.sum(a**2) / np.sum((a - b) ** 2)))
    assert found.max_abs_error == pytest.approx(np.abs(a - b).max())
    same = [x.argmax() == y.argmax() for x, y in zip(a, b, strict=True)]
    ranked = len(shape) <= 3  # the last axis of an image holds pixels, no classes
    assert found.top1 == (pytest.approx(100 * np.mean(same)) if ranked else None)
    assert 50 < 100 * np.mean(same) < 100
    assert (found.non_finite, found.reshaped) == (0, 0)


def test_feeds_of_any_shape_add_up_to_the_measure_of_all() -> None:
    feeds = [RNG.normal(size=(n, length, 8)) for n, length in [(2, 3), (1, 7), (5, 1)]]
    changed = [x + RNG.normal(0, 0.1, x.shape) for x in feeds]
    together = only(
        np.concatenate([x.reshape(-1, 8) for x in feeds]),
        np.concatenate([x.reshape(-1, 8) for x in changed]),
    )

    def one_by_one(arrays: list[NDArray[Any]]) -> Iterator[list[NDArray[Any]]]:
        yield from ([x] for x in arrays)

    apart = measure(one_by_one(feeds), one_by_one(changed), names=["output 0"]).outputs[0]
    assert apart.measures() == pytest.approx(together.measures())


def test_padding_never_counts() -> None:
    before = RNG.normal(size=(3, 5, 8))
    after = before + RNG.normal(0, 0.1, before.shape)
    mask = np.arange(5) < np.array([5, 2, 3])[:, None]
    clean = only(before, after, mask)
    assert clean.rows == 10
    spoiled = after.copy()
    spoiled[~mask] = np.nan
    assert only(before, spoiled, mask) == clean
    assert only(before, spoiled, mask.astype(np.int64)) == clean
    assert only(before, spoiled).non_finite == 5 * 8
    kept = only(before[mask], after[mask])
    assert clean == kept


def test_a_mask_that_is_not_of_an_outputs_rows_leaves_it_whole() -> None:
    mask = np.array([[True, False, False], [True, True, False]])
    pooled = RNG.normal(size=(2, 3))
    drift = measure([[pooled, pooled[0]]], [[pooled, pooled[0]]], [mask], ["pooled", "flat"])
    assert [output.rows for output in drift.outputs] == [2, 1]


def test_equal_outputs_have_no_drift() -> None:
    values = RNG.normal(size=(4, 6))
    found = only(values, values.copy())
    assert found.sqnr_db == math.inf
    assert (found.cosine, found.cosine_min, found.top1, found.max_abs_error) == (1, 1, 100, 0)


def test_rows_of_zeros() -> None:
    zero, one = np.zeros((1, 3)), np.ones((1, 3))
    assert only(zero, zero).cosine == 1.0
    assert only(zero, one).cosine == 0.0
    assert only(zero, one).sqnr_db == -math.inf
    assert only(one, zero).cosine == 0.0
    assert only(one, zero).sqnr_db == pytest.approx(0.0)
    assert only(one * 1e-42, one * 3e-42).cosine == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_become_nan_or_infinite_are_counted_and_fail(bad: float) -> None:
    before = RNG.normal(size=(100, 50))
    after = before.copy()
    after[3, 4] = after[7, 1] = bad
    found = only(before, after)
    assert found.non_finite == 2
    measures = [found.sqnr_db, found.cosine, found.cosine_min, found.max_abs_error]
    assert np.all(np.isfinite(np.array(measures, dtype=float)))
    for gate in ("cosine=0.5", "sqnr=0", "top1=50"):
        verdict = judge(measure([[before]], [[after]]), DriftGate.parse(gate))
        assert not verdict.holds
        assert "2 values that became NaN or infinite" in verdict.sentence


def test_values_that_were_not_finite_before_are_left_out() -> None:
    before = np.array([[-5.0, -np.inf, -2.0], [np.nan, 1.0, 2.0], [np.nan] * 3])
    after = np.array([[-5.0, -3e38, -2.1], [7.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
    found = only(before, after)
    assert found.rows == 2
    assert found.non_finite == 0
    assert found.max_abs_error == pytest.approx(0.1)
    assert found.top1 == 100.0
    assert found.sqnr_db == pytest.approx(10 * np.log10((25 + 4 + 1 + 4) / 0.01))
    assert only(before, before).non_finite == 0
    swapped = np.array([[-1.0, 9.0, -2.0], [7.0, 3.0, 2.0], [1.0, 2.0, 3.0]])
    assert only(before, swapped).top1 == 0.0


def test_class_numbers_and_text_are_equal_or_not() -> None:
    before, after = np.array([3, 1, 4, 1]), np.array([3, 1, 5, 1])
    found = only(before, after)
    assert (found.top1, found.rows, found.sqnr_db, found.cosine) == (75.0, 1, None, None)
    assert only(np.array(["cat", "dog"]), np.array(["cat", "fox"])).top1 == 50.0
    assert only(np.array([[True], [False]]), np.array([[True], [False]])).top1 == 100.0
    image = RNG.integers(0, 255, (8, 8)).astype(np.uint8)
    assert only(image, image ^ 1).max_abs_error == 1.0


def test_single_values_have_no_direction_and_no_largest_entry() -> None:
    for values in (np.array([[1.0], [2.0]]), np.array(3.0)):
        found = only(values, values * 1.1)
        assert (found.cosine, found.top1) == (None, None)
        assert found.sqnr_db == pytest.approx(20.0)
    flat = only(np.array([1.0, 2.0]), np.array([1.1, 2.2]))
    assert flat.rows == 1
    assert flat.top1 is None


def test_changed_shapes_are_counted_and_fail() -> None:
    drift = measure([[np.ones((2, 3))], [np.ones((1, 3))]], [[np.ones((2, 3))], [np.ones((4, 3))]])
    assert drift.outputs[0].reshaped == 1
    assert drift.outputs[0].rows == 2
    verdict = judge(drift, DriftGate("cosine", 0.5))
    assert not verdict.holds
    assert "another shape on 1 feeds" in verdict.sentence


def test_what_was_never_compared_does_not_pass() -> None:
    empty = np.ones((0, 3))
    for gate in (DriftGate("cosine", -1.0), DriftGate("sqnr", -200.0), DriftGate("top1", 0.0)):
        assert not judge(measure([[empty]], [[empty]]), gate).holds
        assert not judge(measure([], []), gate).holds
        masked = measure([[np.ones((2, 3))]], [[np.ones((2, 3))]], [np.zeros(2)])
        assert not judge(masked, gate).holds


def test_outputs_and_feeds_must_pair_up() -> None:
    one = [np.ones((2, 3))]
    with pytest.raises(InputError, match="do not belong together"):
        measure([one], [one * 2])
    with pytest.raises(ValueError, match="zip"):
        measure([one, one], [one])


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("cosine=0.98", DriftGate("cosine", 0.98)),
        ("sqnr=20", DriftGate("sqnr", 20.0)),
        (" top1 = 99 ", DriftGate("top1", 99.0)),
    ],
)
def test_a_gate_is_read_and_printed(text: str, gate: DriftGate) -> None:
    assert DriftGate.parse(text) == gate
    assert DriftGate.parse(str(gate)) == gate


@pytest.mark.parametrize("text", ["cosin=0.98", "cos=0.9", "0.98", "", "=0.98"])
def test_an_unknown_measure_names_the_known_ones(text: str) -> None:
    with pytest.raises(UsageError, match="no measure of drift") as error:
        DriftGate.parse(text)
    assert "cosine" in error.value.hint


@pytest.mark.parametrize(
    "text", ["cosine", "cosine=", "cosine=high", "cosine=1.5", "top1=101", "sqnr=nan", "sqnr=inf"]
)
def test_a_bound_that_no_measure_can_have_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no bound of drift") as error:
        DriftGate.parse(text)
    assert "such as" in error.value.hint


def test_default_gates() -> None:
    assert str(default_gate("embedding")) == "cosine=0.98"
    assert str(default_gate("classes")) == "top1=99"
    assert str(default_gate("tensor")) == "sqnr=20"


def test_a_gate_holds_at_its_bound_and_not_below() -> None:
    before = np.eye(4)[[0, 1, 2, 3]]
    drift = measure([[before]], [[before[[0, 1, 2, 0]]]])
    assert judge(drift, DriftGate("top1", 75.0)).holds
    verdict = judge(drift, DriftGate("top1", 75.1))
    assert not verdict.holds
    assert verdict.value == 75.0
    assert "75 % over 4 rows, below the 75.1 % asked for" in verdict.sentence


def test_the_worst_output_decides() -> None:
    good = RNG.normal(size=(50, 8))
    bad = good + RNG.normal(0, 1.0, good.shape)
    drift = measure([[good, good]], [[good, bad]], names=["fine", "broken"])
    verdict = judge(drift, default_gate("embedding"))
    assert not verdict.holds
    assert verdict.output == "broken"
    assert verdict.value == drift.outputs[1].cosine
    assert judge(measure([[good, good]], [[good, good]]), default_gate("embedding")).holds


def test_outputs_that_a_gate_says_nothing_about_are_held_to_their_own() -> None:
    embedding, score, label = RNG.normal(size=(50, 8)), RNG.normal(size=(50, 1)), np.arange(50)
    gate, names = default_gate("embedding"), ["embedding", "score", "label"]
    before = [embedding, score, label]
    assert judge(measure([before], [before], names=names), gate).holds
    flipped = measure([before], [[embedding, score, label[::-1]]], names=names)
    verdict = judge(flipped, gate)
    assert (verdict.holds, verdict.output, str(verdict.gate)) == (False, "label", "top1=99")
    noisy = measure([before], [[embedding, score * 2, label]], names=names)
    verdict = judge(noisy, gate)
    assert (verdict.holds, verdict.output, str(verdict.gate)) == (False, "score", "sqnr=20")


def test_drift_is_json() -> None:
    meter = DriftMeter(["y", "label"])
    meter.add([np.eye(3), np.arange(3)], [np.eye(3), np.arange(3)])
    drift = meter.result()
    data = json.loads(json.dumps(drift.to_json(), allow_nan=False))
    assert data["y"]["sqnr_db"] == "inf"
    assert data["y"]["cosine"] == 1.0
    assert data["label"] == {"rows": 1, "top1": 100.0}
    verdict = judge(drift, DriftGate("sqnr", 20.0))
    assert json.loads(json.dumps(verdict.to_json(), allow_nan=False))["holds"] is True


def test_outputs_that_did_not_move_are_called_equal_and_never_decide() -> None:
    same = RNG.normal(size=(40, 8))
    near = same + RNG.normal(0, 1e-3, same.shape)
    drift = measure([[same, same]], [[same, near]], names=["still", "moved"])
    assert [output.equal for output in drift.outputs] == [True, False]
    assert judge(drift, DriftGate("top1", 50.0)).output == "moved"
    verdict = judge(measure([[same]], [[same]], names=["still"]), DriftGate("sqnr", 150.0))
    assert verdict.sentence == "'still' equals the original's in all 40 rows"
    assert verdict.holds


def test_neither_new_nans_nor_shapes_nor_flipped_flags_are_equal() -> None:
    values = np.array([[1.0, 2.0]])
    holed = np.array([[1.0, np.nan]])
    assert not measure([[values]], [[holed]]).outputs[0].equal
    assert not measure([[values]], [[values[:, :1]]]).outputs[0].equal
    flags = np.array([True, False])
    assert measure([[flags]], [[flags]]).outputs[0].equal
    assert not measure([[flags]], [[~flags]]).outputs[0].equal


@pytest.mark.parametrize(
    ("value", "said"),
    [(33.17713, "33.18 dB over"), (19.99999, "19.99999 dB over"), (20.0, "20 dB over")],
)
def test_a_sentence_has_as_many_digits_as_decide(value: float, said: str) -> None:
    output = OutputDrift("y", rows=5, sqnr_db=value)
    verdict = judge(Drift((output,)), DriftGate("sqnr", 20.0))
    assert said in verdict.sentence
    assert verdict.holds == (value >= 20.0)
