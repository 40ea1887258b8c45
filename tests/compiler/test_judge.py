"""Quality verdicts: by the user's metric where there is a budget, else by drift."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.compiler.data.feeds import load_feeds
from planish.compiler.data.feedset import FeedSet
from planish.compiler.data.synthetic import synthetic
from planish.compiler.quality.drift import DriftGate
from planish.compiler.quality.judge import KEPT_BYTES, Answers, Judge
from planish.compiler.quality.outputs import output_kinds
from planish.compiler.quality.scores import Budget, Scores
from planish.ir.errors import InputError
from planish.ir.signature import Signature
from planish.targets.runtime import Session, open_session

WIDTH = 8
WEIGHT = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32)


def model(kit: ModuleType, noise: float = 0.0, weight: np.ndarray = WEIGHT) -> onnx.ModelProto:
    """y = x W; noise: relative to W's deviation."""
    moved = weight + noise * kit.normal(WIDTH, WIDTH, seed=7)
    return kit.graph(  # type: ignore[no-any-return]
        "y = MatMul(x, w)",
        {"w": moved.astype(np.float32)},
        'float["batch", 8] x',
        'float["batch", 8] y',
    )


def session(proto: onnx.ModelProto) -> Session:
    return open_session(proto.SerializeToString(), threads=1)


def feeds(kit: ModuleType, proto: onnx.ModelProto, count: int = 4) -> FeedSet:
    given = [{"x": kit.normal(16, WIDTH, seed=i)} for i in range(count)]
    return load_feeds(given, Signature.of(ir.from_proto(proto)))


def judge(kit: ModuleType, **options: Any) -> Judge:
    proto = model(kit)
    holdout = options.pop("holdout", None) or feeds(kit, proto)
    kinds = output_kinds(ir.from_proto(proto).graph.outputs)
    return Judge(session(proto), holdout, kinds, **options)


# -- drift -------------------------------------------------------------------------------


@pytest.mark.parametrize(("noise", "verdict"), [(0.01, "within-budget"), (0.3, "over-budget")])
def test_without_a_metric_the_drift_decides(kit: ModuleType, noise: float, verdict: str) -> None:
    quality = judge(kit).judge(session(model(kit, noise)))
    assert quality.verdict == verdict
    assert quality.gate == "sqnr >= 20 dB"
    x = np.concatenate([kit.normal(16, WIDTH, seed=i) for i in range(4)]).astype(np.float64)
    error = noise * kit.normal(WIDTH, WIDTH, seed=7).astype(np.float64)
    signal, wrong = x @ WEIGHT.astype(np.float64), x @ error
    expected = 10 * np.log10((signal**2).sum() / (wrong**2).sum())
    assert quality.drift["y"]["sqnr_db"] == pytest.approx(expected, abs=0.01)
    assert quality.samples == 64
    assert quality.rows == ()


def test_the_asked_gate_replaces_the_default(kit: ModuleType) -> None:
    moved = session(model(kit, 0.3))
    loose = judge(kit, gate=DriftGate("sqnr", 5.0)).judge(moved)
    strict = judge(kit, gate=DriftGate("cosine", 0.9999)).judge(moved)
    assert (loose.verdict, loose.gate) == ("within-budget", "sqnr >= 5 dB")
    assert (strict.verdict, strict.gate) == ("over-budget", "cosine >= 0.9999")
    assert "cosine" in strict.sentence


@pytest.mark.parametrize(
    ("count", "least", "few"), [(4, 99.0, True), (7, 99.0, False), (1, 90.0, False)]
)
def test_few_rows_are_not_enough_for_a_share(
    kit: ModuleType, count: int, least: float, few: bool
) -> None:
    """64 rows cannot show 99 %, 112 can, and 16 rows 90 %."""
    held = feeds(kit, model(kit), count)
    made = judge(kit, holdout=held, gate=DriftGate("top1", least))
    warning = made.judge(session(model(kit, 0.01))).warning
    assert (warning != "") is few
    assert f"{16 * count} rows are few for top1 >= 99 %" in warning or not few
    assert made.judge(session(model(kit))).warning == ""  # equal outputs are


def test_padding_does_not_count(kit: ModuleType) -> None:
    """Rows whose mask is zero are wrong by far; no verdict may look at them."""
    text = "keep = Cast<to=1>(mask) column = Unsqueeze(keep, last) c = {} p = Mul(x, column) "
    ports = 'int64["batch", "seq"] mask, float["batch", "seq", 8] x'

    def masked(extra: str) -> onnx.ModelProto:
        body = f"{text.format('Sub(one, column)')} bad = Mul(c, wrong) q = Add(p, bad) {extra}"
        weights = {"last": np.array([2]), "one": np.float32(1), "wrong": np.float32(100)}
        return kit.graph(  # type: ignore[no-any-return]
            body, weights, ports, 'float["batch", "seq", 8] y'
        )

    original, padded = masked("y = Sub(q, bad)"), masked("y = Identity(q)")
    mask = (np.arange(6) < np.array([[6], [3], [1]])).astype(np.int64)
    given = [{"x": kit.normal(3, 6, WIDTH), "mask": mask}]
    holdout = load_feeds(given, Signature.of(ir.from_proto(original)))
    kinds = output_kinds(ir.from_proto(original).graph.outputs)
    blind = Judge(session(original), holdout, kinds).judge(session(padded))
    seeing = Judge(session(original), holdout, kinds, "mask").judge(session(padded))
    assert blind.verdict == "over-budget"
    assert seeing.verdict == "within-budget"
    assert seeing.drift["y"]["max_abs_error"] < 1e-5


# -- generated feeds ---------------------------------------------------------------------


def generated(kit: ModuleType) -> FeedSet:
    return synthetic(Signature.of(ir.from_proto(model(kit))), 3, 0)


def test_generated_feeds_verify_nothing(kit: ModuleType) -> None:
    quality = judge(kit, holdout=generated(kit)).judge(session(model(kit, 0.3)))
    assert quality.verdict == "unverified"
    assert quality.sentence.startswith("no data was given")


def test_a_gate_that_fails_even_on_generated_feeds_fails(kit: ModuleType) -> None:
    found = judge(kit, holdout=generated(kit), gate=DriftGate("sqnr", 20.0))
    assert found.judge(session(model(kit, 0.01))).verdict == "unverified"
    assert found.judge(session(model(kit, 0.3))).verdict == "over-budget"


def test_outputs_that_became_nan_fail_whatever_the_data(kit: ModuleType) -> None:
    weight = WEIGHT.copy()
    weight[0, 0] = np.inf
    quality = judge(kit, holdout=generated(kit)).judge(session(model(kit, weight=weight)))
    assert quality.verdict == "over-budget"
    assert "NaN or infinite" in quality.sentence


# -- the user's metric -------------------------------------------------------------------

Evaluate = Callable[[Callable[[dict[str, np.ndarray]], list[np.ndarray]]], Any]


def scores(kit: ModuleType, of: Callable[[np.ndarray], Any]) -> Evaluate:
    x = kit.normal(200, WIDTH, seed=42)
    return lambda run: of(np.asarray(run({"x": x})[0]))


def right(y: np.ndarray) -> np.ndarray:
    """Per sample: whether the largest number is the original's."""
    best = np.random.default_rng(42).normal(size=(200, WIDTH)).astype(np.float32) @ WEIGHT
    hits: np.ndarray = y.argmax(axis=1) == best.argmax(axis=1)
    return hits


@pytest.mark.parametrize(
    ("of", "n", "interval"),
    [
        (lambda y: float(right(y).mean()), 1, False),
        (lambda y: np.float32(right(y).mean()), 1, False),
        (right, 200, True),
        (lambda y: right(y).astype(float).tolist(), 200, True),
        (lambda y: Scores(right(y).astype(float)), 200, True),
    ],
)
def test_every_form_that_a_metric_takes(
    kit: ModuleType, of: Callable[[np.ndarray], Any], n: int, interval: bool
) -> None:
    found = judge(kit, evaluate=scores(kit, of), budget=Budget.parse("0.5"))
    quality = found.judge(session(model(kit, 0.1)))
    expected = right(kit.normal(200, WIDTH, seed=42) @ (WEIGHT + 0.1 * kit.normal(8, 8, seed=7)))
    (row,) = quality.rows
    assert quality.verdict == "within-budget"
    assert row.before == 1.0
    assert row.after == pytest.approx(expected.mean(), abs=1e-6)
    assert row.drop == pytest.approx(1 - expected.mean(), abs=1e-6)
    assert row.samples == n
    assert (row.low is not None) is interval
    assert (quality.warning != "") is not interval


@pytest.mark.parametrize(
    ("budget", "verdict"),
    [("0.9", "within-budget"), ("0.001", "over-budget"), ("90%", "within-budget")],
)
def test_the_budget_decides_where_there_is_one(kit: ModuleType, budget: str, verdict: str) -> None:
    found = judge(kit, evaluate=scores(kit, right), budget=Budget.parse(budget))
    quality = found.judge(session(model(kit, 0.5)))
    assert quality.verdict == verdict
    assert quality.gate == f"drop <= {budget}"
    assert quality.drift["y"]["sqnr_db"] < 20  # the default gate would have failed


def test_too_few_samples_are_undecided_and_say_how_many_would_do(kit: ModuleType) -> None:
    drop = float(
        1 - right(kit.normal(200, 8, seed=42) @ (WEIGHT + 0.5 * kit.normal(8, 8, seed=7))).mean()
    )
    found = judge(kit, evaluate=scores(kit, right), budget=Budget.parse(drop + 0.005))
    quality = found.judge(session(model(kit, 0.5)))
    assert quality.verdict == "undecided"
    assert quality.samples_needed is not None
    assert quality.samples_needed > 200


def test_a_budget_and_a_gate_must_both_hold_and_say_which_did_not(kit: ModuleType) -> None:
    gate, budget = DriftGate("sqnr", 20.0), Budget.parse("0.9")
    found = judge(kit, evaluate=scores(kit, right), budget=budget, gate=gate)
    good, bad = found.judge(session(model(kit, 0.01))), found.judge(session(model(kit, 0.5)))
    assert (good.verdict, bad.verdict) == ("within-budget", "over-budget")
    assert bad.gate == "drop <= 0.9 and sqnr >= 20 dB"
    assert "below the 20 dB asked for" in bad.sentence
    strict = judge(
        kit, evaluate=scores(kit, right), budget=Budget.parse("0"), gate=DriftGate("sqnr", 1)
    )
    assert strict.judge(session(model(kit, 0.5))).verdict == "over-budget"


def test_a_metric_without_a_budget_is_shown_and_the_drift_decides(kit: ModuleType) -> None:
    found = judge(kit, evaluate=scores(kit, right))
    quality = found.judge(session(model(kit, 0.3)))
    assert quality.verdict == "over-budget"
    assert quality.rows[0].drop > 0
    assert "the metric went from 1 to" in quality.sentence


def test_slices_follow_the_whole(kit: ModuleType) -> None:
    first = np.arange(200) < 50

    def sliced(y: np.ndarray) -> Scores:
        return Scores(right(y).astype(float), slices={"first": first, "rest": ~first})

    found = judge(kit, evaluate=scores(kit, sliced), budget=Budget.parse("0.9"))
    rows = found.judge(session(model(kit, 0.3))).rows
    assert [(row.name, row.samples) for row in rows] == [
        ("metric", 200),
        ("first", 50),
        ("rest", 150),
    ]
    assert 0.25 * rows[1].after + 0.75 * rows[2].after == pytest.approx(rows[0].after)


def test_a_slice_that_falls_by_more_than_the_whole_is_said(kit: ModuleType) -> None:
    moved = session(model(kit, 0.3))
    wrong = ~right(moved.run({"x": kit.normal(200, WIDTH, seed=42)})[0])

    def sliced(y: np.ndarray) -> Scores:
        return Scores(right(y).astype(float), slices={"hard": wrong, "easy": ~wrong})

    quality = judge(kit, evaluate=scores(kit, sliced)).judge(moved)
    (sentence,) = quality.apart
    assert sentence.startswith("slice hard loses 1")


def test_lower_is_better_where_the_metric_says_so(kit: ModuleType) -> None:
    def error(y: np.ndarray) -> Scores:
        return Scores(1.0 - right(y), higher_is_better=False)

    found = judge(kit, evaluate=scores(kit, error), budget=Budget.parse("0.001"))
    quality = found.judge(session(model(kit, 0.5)))
    assert quality.verdict == "over-budget"
    assert quality.rows[0].drop == pytest.approx(quality.rows[0].after - quality.rows[0].before)
    assert quality.rows[0].drop > 0


def test_the_original_is_asked_once(kit: ModuleType) -> None:
    asked: list[object] = []

    def metric(run: Any) -> float:
        asked.append(run.__self__)
        return 1.0

    found = judge(kit, evaluate=metric, budget=Budget.parse("0.1"))
    candidates = [session(model(kit, noise)) for noise in (0.0, 0.01)]
    for candidate in candidates:
        found.judge(candidate)
    assert asked == [found.original, *candidates]


@pytest.mark.parametrize(
    ("result", "parts"),
    [
        ("good", ["str 'good'", "the evaluation of the original"]),
        (None, ["None"]),
        (True, ["True"]),
        (float("nan"), ["NaN"]),
        (np.zeros((3, 3)), ["(3, 3)"]),
        ([], ["no samples"]),
    ],
)
def test_what_is_no_metric_is_refused(kit: ModuleType, result: Any, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        judge(kit, evaluate=lambda run: result).judge(session(model(kit)))
    for part in parts:
        assert part in str(caught.value)


def test_a_metric_that_raises_is_named_with_its_line(kit: ModuleType) -> None:
    def faulty(run: Any) -> float:
        raise ZeroDivisionError("nothing was found")

    with pytest.raises(InputError, match="nothing was found") as caught:
        judge(kit, evaluate=faulty).judge(session(model(kit)))
    assert "faulty" in str(caught.value)
    assert "test_judge.py" in caught.value.where


def test_a_metric_that_feeds_the_model_wrongly_says_how(kit: ModuleType) -> None:
    with pytest.raises(InputError, match="no data for input 'x'"):
        judge(kit, evaluate=lambda run: run({})).judge(session(model(kit)))


# -- answers -----------------------------------------------------------------------------


class Counting:
    """A session that answers with arrays of some size, and counts."""

    def __init__(self, size: int) -> None:
        self.size, self.count = size, 0

    def run(self, feed: object) -> list[np.ndarray]:
        self.count += 1
        return [np.full(self.size, self.count, np.uint8)]


@pytest.mark.parametrize(("size", "runs"), [(10, 4), (KEPT_BYTES // 3, 12)])
def test_small_answers_are_asked_for_once(kit: ModuleType, size: int, runs: int) -> None:
    fake: Any = Counting(size)
    answers = Answers(fake, feeds(kit, model(kit)))
    seen = [[int(a[0][0]) for a in answers] for _ in range(3)]
    assert [len(row) for row in seen] == [4, 4, 4]
    assert fake.count == runs


def test_answers_left_half_way_are_whole_the_next_time(kit: ModuleType) -> None:
    fake: Any = Counting(1)
    answers = Answers(fake, feeds(kit, model(kit)))
    next(iter(answers))
    assert len(list(answers)) == len(list(answers)) == 4
