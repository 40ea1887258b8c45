"""Which candidate is chosen, from sizes and times that are made up; which spellings are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.compiler import choose as choosing
from planish.compiler.choose import (
    choose,
    choose_spellings,
    measure_speed,
    rejudged,
    write_as,
)
from planish.compiler.quality.judge import Answers
from planish.compiler.result import Quality
from planish.compiler.timing import Paired
from planish.compiler.workshop import Build, Judged, Workshop
from planish.ir.digest import contents_digest
from planish.ir.errors import PassError
from planish.ir.provenance import Edit
from planish.ir.rewriter import Rewriter

Seconds = Mapping[str, float]
ROUNDS = 11
ORIGINAL = 1.0


class Shop:
    """As much of a workshop as choosing needs."""

    def __init__(self) -> None:
        self.judge: Any = self
        self.original = "original"


def candidate(
    folder: Path,
    name: str,
    size: int = 1000,
    verdict: Any = "within-budget",
    sqnr: float = 30.0,
    loss: float | None = 0.1,
) -> Judged:
    """A judged build of ``size`` bytes whose session is its name."""
    place = folder / name
    place.mkdir(exist_ok=True)
    (place / "model.onnx").write_bytes(bytes(size))
    empty = ir.Model(ir.Graph([], [], nodes=[], name=name), ir_version=10)
    edits = (Edit("e", "quantize", "site", "static", loss=loss),)
    build = Build(name, empty, place / "model.onnx", edits, ())
    quality = Quality(verdict, drift={"y": {"sqnr_db": sqnr}})
    session: Any = name
    nothing: Any = None
    return Judged(build, session, quality, nothing)


def lossless(folder: Path, size: int = 4000) -> Judged:
    return candidate(folder, "lossless", size, sqnr=float("inf"), loss=None)


@pytest.fixture
def pick(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``pick(goal, seconds, candidates)``: the choice where each session takes those seconds."""

    def run(goal: Any, seconds: Seconds | None, candidates: list[Judged]) -> Any:
        def timed(sessions: list[str], feeds: object, **_: object) -> Paired:
            assert sessions[0] == "original"
            each = [ORIGINAL if s == "original" else (seconds or {})[s] for s in sessions]
            return Paired(np.repeat(np.array(each)[:, None], ROUNDS, axis=1))

        monkeypatch.setattr(choosing, "time_alternating", timed)
        monkeypatch.setattr(choosing, "write_as", lambda *_: None)
        shop: Any = Shop()
        return choose(candidates, goal, None if seconds is None else [{}], shop)

    return run


# -- goals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("goal", "sizes", "seconds", "chosen"),
    [
        ("latency", (1000, 2000), (0.5, 0.3), "b"),
        ("latency", (1000, 2000), (0.305, 0.3), "a"),  # within 3 %: the smaller
        ("latency", (1000, 2000), (0.3095, 0.3), "b"),
        ("latency", (1000, 1000), (0.3, 0.3), "a"),  # by name
        ("latency", (4000, 9000), (1.2, 1.5), "lossless"),
        ("size", (1000, 2000), (0.9, 0.3), "a"),
        ("size", (1000, 1009), (0.9, 0.3), "b"),  # within 1 %: the faster
        ("size", (1000, 1011), (0.9, 0.3), "a"),
        ("size", (1000, 2000), (3.0, 0.3), "a"),  # even where it is slower
        ("size", (5000, 6000), (0.1, 0.1), "lossless"),
        ("balanced", (1000, 2000), (0.5, 0.3), "a"),  # 500 against 600
        ("balanced", (1000, 2000), (0.7, 0.3), "b"),
        ("balanced", (3999, 9000), (1.1, 1.0), "lossless"),
    ],
)
def test_goals(
    pick: Callable[..., Any],
    tmp_path: Path,
    goal: str,
    sizes: tuple[int, int],
    seconds: tuple[float, float],
    chosen: str,
) -> None:
    candidates = [
        lossless(tmp_path),
        *(candidate(tmp_path, n, s) for n, s in zip("ab", sizes, strict=True)),
    ]
    times = {"lossless": 1.0, "a": seconds[0], "b": seconds[1]}
    for order in (candidates, [candidates[0], candidates[2], candidates[1]]):
        assert pick(goal, times, order).judged.build.pipeline == chosen


def test_of_equally_small_and_fast_ones_the_nearest_to_the_original(
    pick: Callable[..., Any], tmp_path: Path
) -> None:
    candidates = [
        lossless(tmp_path),
        candidate(tmp_path, "a", 1000, sqnr=25.0),
        candidate(tmp_path, "b", 1004, sqnr=40.0),
        candidate(tmp_path, "c", 1006, sqnr=50.0),
    ]
    times = {"lossless": 1.0, "a": 0.3, "b": 0.305, "c": 0.3}
    assert pick("latency", times, candidates).judged.build.pipeline == "b"


# -- what may be chosen at all -----------------------------------------------------------


@pytest.mark.parametrize("goal", ["latency", "size", "balanced"])
@pytest.mark.parametrize(
    ("first", "second", "chosen"),
    [
        ("over-budget", "within-budget", "b"),
        ("undecided", "within-budget", "b"),
        ("undecided", "unverified", "b"),
        ("undecided", "over-budget", "a"),
        ("over-budget", "over-budget", "lossless"),
    ],
)
def test_quality_comes_before_speed_and_size(
    pick: Callable[..., Any], tmp_path: Path, goal: str, first: str, second: str, chosen: str
) -> None:
    candidates = [
        lossless(tmp_path),
        candidate(tmp_path, "a", 10, first),
        candidate(tmp_path, "b", 1000, second),
    ]
    for times in ({"lossless": 1.0, "a": 0.1, "b": 0.5}, None):
        assert pick(goal, times, candidates).judged.build.pipeline == chosen


def test_a_pipeline_that_did_nothing_is_no_candidate(
    pick: Callable[..., Any], tmp_path: Path
) -> None:
    idle = candidate(tmp_path, "a", 10, loss=None)
    choice = pick("latency", {"lossless": 1.0, "a": 0.1}, [lossless(tmp_path), idle])
    assert choice.judged.build.pipeline == "lossless"


@pytest.mark.parametrize(("goal", "chosen"), [("latency", "b"), ("balanced", "b"), ("size", "a")])
def test_where_nothing_can_be_timed_the_order_of_proposal_decides(
    pick: Callable[..., Any], tmp_path: Path, goal: str, chosen: str
) -> None:
    candidates = [lossless(tmp_path), candidate(tmp_path, "b", 2000), candidate(tmp_path, "a")]
    choice = pick(goal, None, candidates)
    assert choice.judged.build.pipeline == chosen
    assert [t.speedup for t in choice.trials] == [None] * 3


@pytest.mark.parametrize(
    ("goal", "times", "chosen"),
    [
        ("latency", {"lossless": 3.0, "b": 2.0, "a": 1.0}, "a"),
        ("latency", {"lossless": 3.0, "b": 1.0, "a": 2.0}, "b"),
        ("latency", {"lossless": 3.0, "b": None, "a": 1.0}, "b"),  # unknown: as proposed
        ("latency", {"lossless": None, "b": 2.0, "a": 1.0}, "b"),
        ("latency", {"lossless": 0.9, "b": 2.0, "a": 1.0}, "lossless"),
        ("balanced", {"lossless": 3.0, "b": 1.0, "a": 1.5}, "a"),  # 2000 against 1500
        ("size", {"lossless": 0.9, "b": 1.0, "a": 9.0}, "a"),
    ],
)
def test_elsewhere_the_predicted_time_decides_where_all_are_known(
    tmp_path: Path, goal: Any, times: Mapping[str, float | None], chosen: str
) -> None:
    """Also against the lossless one: nothing is given away for what is predicted to be slower."""
    candidates = [lossless(tmp_path), candidate(tmp_path, "b", 2000), candidate(tmp_path, "a")]
    shop: Any = Shop()
    choice = choose(candidates, goal, None, shop, lambda model: times[str(model.graph.name)])
    assert choice.judged.build.pipeline == chosen
    assert [t.speedup for t in choice.trials] == [None] * 3  # predicted, never measured
    assert [t.predicted_ms for t in choice.trials] == list(times.values())


def test_every_candidate_is_a_trial(pick: Callable[..., Any], tmp_path: Path) -> None:
    candidates = [
        lossless(tmp_path, 4000),
        candidate(tmp_path, "a", 1000),
        candidate(tmp_path, "b", 2000, "over-budget"),
    ]
    trials = pick("latency", {"lossless": 0.8, "a": 0.5}, candidates).trials
    assert [(t.pipeline, t.bytes, t.quality, t.chosen) for t in trials] == [
        ("lossless", 4000, "within-budget", False),
        ("a", 1000, "within-budget", True),
        ("b", 2000, "over-budget", False),
    ]
    assert [t.speedup for t in trials] == [pytest.approx(1.25), pytest.approx(2.0), None]


# -- verdicts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "verdict"),
    [(0.5, "faster"), (0.97, "faster"), (0.99, "no-gain"), (1.01, "no-gain"), (1.03, "slower")],
)
def test_the_verdict_on_speed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, after: float, verdict: str
) -> None:
    paired = Paired(np.repeat(np.array([[ORIGINAL], [after]]), ROUNDS, axis=1))
    monkeypatch.setattr(choosing, "time_alternating", lambda *_: paired)
    judge: Any = Shop()
    speed = measure_speed(lossless(tmp_path), [{}, {}], judge, 2)
    assert speed.verdict == verdict
    assert (speed.before, speed.after) == pytest.approx((1000.0, 1000.0 * after))
    assert speed.ratio == pytest.approx(1 / after)
    assert (speed.rounds, speed.feeds, speed.threads) == (ROUNDS, 2, 2)


@pytest.mark.parametrize("centre", [0.85, 1.15])
def test_a_wide_interval_is_neither_faster_nor_slower(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, centre: float
) -> None:
    random = np.random.default_rng(0)
    paired = Paired(np.array([random.lognormal(0, 0.8, 21), centre * random.lognormal(0, 0.8, 21)]))
    monkeypatch.setattr(choosing, "time_alternating", lambda *_: paired)
    judge: Any = Shop()
    speed = measure_speed(lossless(tmp_path), [{}], judge, 0)
    assert speed.low is not None
    assert speed.high is not None
    assert speed.low < 1 < speed.high
    assert speed.verdict == "no-gain"


# -- spellings ---------------------------------------------------------------------------


def twice_negated(rewriter: Rewriter) -> int:
    """The same numbers by two more nodes."""
    (output,) = rewriter.graph.outputs
    node = output.producer()
    assert node is not None
    if node.op_type == "Neg":
        return 0
    first = rewriter.insert("Neg", [node.inputs[0]], before=node)
    second = rewriter.insert("Neg", [first.outputs[0]], before=node)
    rewriter.set_input(node, 0, second.outputs[0])
    return 1


def passed_on(rewriter: Rewriter) -> int:
    """The same numbers through one more node."""
    node = rewriter.graph.outputs[0].producer()
    assert node is not None
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    if source is not None and source.op_type == "Identity":
        return 0
    made = rewriter.insert("Identity", [node.inputs[0]], before=node)
    rewriter.set_input(node, 0, made.outputs[0])
    return 1


def scaled(rewriter: Rewriter) -> int:
    """Other numbers."""
    node = rewriter.graph.outputs[0].producer()
    assert node is not None
    factor = rewriter.initializer("factor", np.array(1.5, np.float32))
    made = rewriter.insert("Mul", [node.inputs[0], factor], before=node)
    rewriter.set_input(node, 0, made.outputs[0])
    return 1


def reshaped(rewriter: Rewriter) -> int:
    """The same numbers in another shape."""
    node = rewriter.graph.outputs[0].producer()
    assert node is not None
    axis = rewriter.initializer("axis", np.array([0]))
    made = rewriter.insert("Unsqueeze", [node.inputs[0], axis], before=node)
    rewriter.set_input(node, 0, made.outputs[0])
    return 1


def unloadable(rewriter: Rewriter) -> int:
    """An operator that the runtime does not know."""
    node = rewriter.graph.outputs[0].producer()
    assert node is not None
    rewriter.require_opset("com.microsoft", 1)
    made = rewriter.insert("NoSuchThing", [node.inputs[0]], before=node, domain="com.microsoft")
    rewriter.set_input(node, 0, made.outputs[0])
    return 1


def disordered(rewriter: Rewriter) -> int:
    """A node that reads what is made after it."""
    node = rewriter.graph.outputs[0].producer()
    assert node is not None
    made = rewriter.insert("Neg", [node.outputs[0]], before=node)
    rewriter.set_input(node, 0, made.outputs[0])
    return 1


def refusing(rewriter: Rewriter) -> int:
    """Fails as the rewriter does where inputs do not fit."""
    odd = rewriter.initializer("odd", np.zeros((3, 5, 7), np.float32))
    node = rewriter.graph.outputs[0].producer()
    assert node is not None
    rewriter.insert("MatMul", [node.inputs[0], odd], before=node)
    raise PassError("the rewriter refused")


def idle(rewriter: Rewriter) -> int:
    return 0


@pytest.fixture
def shop(kit: ModuleType, tmp_path: Path) -> Any:
    return kit.workshop(kit.chain(1), tmp_path)


def spell(
    monkeypatch: pytest.MonkeyPatch, kit: ModuleType, spellings: Mapping[str, Any], fast: str
) -> None:
    """Use these spellings; models with that operator take half the time."""
    monkeypatch.setattr(choosing, "SPELLINGS", spellings)

    def seconds(model: onnx.ModelProto) -> float:
        return 0.5 if any(node.op_type == fast for node in model.graph.node) else 1.0

    monkeypatch.setattr(choosing, "time_alternating", kit.made_up(seconds))


@pytest.mark.parametrize(("fast", "kept"), [("Neg", ("negated",)), ("Nothing", ())])
def test_a_spelling_is_kept_where_it_measures_faster(
    shop: Workshop, kit: ModuleType, monkeypatch: pytest.MonkeyPatch, fast: str, kept: Any
) -> None:
    plain = shop.judged(shop.build("canonicalize"))
    before = contents_digest(plain.build.model)
    spell(monkeypatch, kit, {"idle": idle, "negated": twice_negated}, fast)
    best, names = choose_spellings(plain, kit.feeds(1), shop)
    assert names == kept
    assert (best is plain) is (kept == ())
    assert contents_digest(plain.build.model) == before
    assert any(n.op_type == "Neg" for n in best.build.model.graph) is bool(kept)
    assert best.quality.verdict == "within-budget"
    assert (best.build.edits, best.build.remarks) == (plain.build.edits, plain.build.remarks)


@pytest.mark.parametrize(
    ("negated", "passed", "kept"),
    [
        (0.5, 0.5, ("negated", "passed-on")),
        (0.5, 2.0, ("negated",)),
        (2.0, 0.5, ("passed-on",)),
        (1.5, 1.2, ()),
        (0.999, 0.998, ()),  # within 1 %: the fewest
        (0.5, 0.995, ("negated",)),
    ],
)
def test_the_best_set_of_spellings_is_kept(
    shop: Workshop,
    kit: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    negated: float,
    passed: float,
    kept: tuple[str, ...],
) -> None:
    plain = shop.judged(shop.build("canonicalize"))
    spell(monkeypatch, kit, {"negated": twice_negated, "passed-on": passed_on}, "")

    def seconds(model: onnx.ModelProto) -> float:
        ops = {node.op_type for node in model.graph.node}
        return (negated if "Neg" in ops else 1.0) * (passed if "Identity" in ops else 1.0)

    monkeypatch.setattr(choosing, "time_alternating", kit.made_up(seconds))
    best, names = choose_spellings(plain, kit.feeds(1), shop)
    assert names == kept
    ops = {node.op_type for node in best.build.model.graph}
    assert ("Neg" in ops, "Identity" in ops) == ("negated" in kept, "passed-on" in kept)


@pytest.mark.parametrize("wrong", [scaled, reshaped, unloadable, disordered, refusing])
def test_a_spelling_that_computes_something_else_is_not_kept(
    shop: Workshop, kit: ModuleType, monkeypatch: pytest.MonkeyPatch, wrong: Any
) -> None:
    plain = shop.judged(shop.build("canonicalize"))
    fast = {scaled: "Mul", reshaped: "Unsqueeze", unloadable: "NoSuchThing"}
    spell(monkeypatch, kit, {"wrong": wrong}, fast.get(wrong, "Neg"))
    assert write_as(plain, ["wrong"], shop) is None
    assert choose_spellings(plain, kit.feeds(1), shop) == (plain, ())


def test_spellings_are_written_one_upon_the_other(
    shop: Workshop, kit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def counted(rewriter: Rewriter) -> int:
        seen.append(sum(node.op_type == "Neg" for node in rewriter.graph))
        return 0

    spell(monkeypatch, kit, {"negated": twice_negated, "counted": counted}, "Neg")
    plain = shop.judged(shop.build("canonicalize"))
    written = write_as(plain, ["negated", "counted"], shop)
    assert written is not None
    assert seen == [2]
    (feed,) = kit.feeds(1)
    np.testing.assert_array_equal(written.session.run(feed)[0], plain.session.run(feed)[0])
    assert write_as(plain, ["counted"], shop) is None


def test_a_spelling_that_breaks_the_budget_is_not_kept(
    shop: Workshop, kit: ModuleType, tmp_path: Path
) -> None:
    class Strict:
        def judge(self, session: object, answers: object) -> Quality:
            return Quality("over-budget")

    plain = candidate(tmp_path, "plain")
    written = candidate(tmp_path, "written")
    strict: Any = Shop()
    strict.judge = Strict()
    strict.shapes_hold = lambda _: True
    assert rejudged(plain, written, ("fast",), strict) == (plain, ())
    lost = candidate(tmp_path, "lost", verdict="over-budget")
    assert rejudged(lost, written, ("fast",), strict)[1] == ("fast",)
    strict.shapes_hold = lambda _: False
    assert rejudged(lost, written, ("fast",), strict) == (lost, ())


def test_kernels_that_round_otherwise_are_not_for_lossless_builds(
    kit: ModuleType, tmp_path: Path
) -> None:
    model = kit.graph(
        "g = Mul(x, r) t = Erf(g) u = Add(t, one) v = Mul(u, x) y = Mul(v, half)",
        {n: np.float32(v) for n, v in (("r", 0.5**0.5), ("one", 1), ("half", 0.5))},
        'float["batch", 64] x', 'float["batch", 64] y',
    )  # fmt: skip
    shop = kit.workshop(model, tmp_path)
    plain = shop.judged(shop.build_untouched())
    assert choosing.write_as(plain, ("fused-activation",), shop) is None
    lost = Edit("1", "quantize", "s", "int8", (), (), (), loss=0.01, saving=0)
    lossy = replace(plain, build=replace(plain.build, edits=(lost,)))
    written = choosing.write_as(lossy, ("fused-activation",), shop)
    assert written is not None
    assert [node.op_type for node in written.build.model.graph] == ["Gelu"]


def test_class_numbers_in_another_shape_do_not_agree(kit: ModuleType, tmp_path: Path) -> None:
    model = kit.graph(
        "y = ArgMax<axis=1, keepdims=0>(x)", {}, 'float["batch", 64] x', 'int64["batch"] y'
    )
    shop = kit.workshop(model, tmp_path)
    plain = shop.judged(shop.build_untouched())

    class Other:
        output_names = ("y",)

        def __init__(self, change: Callable[[np.ndarray], np.ndarray]) -> None:
            self.change = change

        def run(self, feed: Any) -> list[np.ndarray]:
            return [self.change(plain.session.run(feed)[0])]

    def agrees(change: Callable[[np.ndarray], np.ndarray]) -> bool:
        session: Any = Other(change)
        answers = Answers(session, shop.judge.holdout)
        return choosing._agrees(plain, Judged(plain.build, session, plain.quality, answers))

    assert agrees(lambda y: y)
    assert not agrees(lambda y: y[:, None])
    assert not agrees(lambda y: y + 1)
