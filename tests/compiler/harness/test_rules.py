"""Each rule is shown to fire, by a pass that breaks just that promise; honest ones pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planish.compiler.harness import execute, trial
from planish.compiler.harness.case import Case
from planish.compiler.harness.check import RULES, Failure, Outcome, check, rule_names
from planish.compiler.harness.subject import Subject
from planish.ir.errors import InputError, TargetError, UsageError
from planish.targets.runtime import Optimize

MakeCase = Callable[..., Case]
RNG = np.random.default_rng(5)
W = RNG.normal(size=(4, 4)).astype(np.float32)
X = RNG.normal(size=(3, 4)).astype(np.float32)
HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
NET = HEAD + "g (float[n, 4] x) => (float[n, 4] y) { a = MatMul(x, w) b = Relu(a) y = Neg(b) }"


@pytest.fixture
def net(make_case: MakeCase) -> Case:
    return make_case(NET, {"x": X}, {"x": -X[:1]}, w=W)


def broken(pipeline: str, case: Case, **more: Any) -> list[str]:
    return rule_names(check(Subject(pipeline, **more), case).failures)


LIES = [
    ("changes-bits", {"bits"}),
    ("changes-much", {"tolerance"}),
    ("one-candidate-lies", {"bits"}),
    ("gives-nan", {"tolerance"}),
    ("changes-the-signature", {"signature"}),
    ("renames-an-output", {"signature"}),
    ("leaves-a-duplicate", {"verify"}),
    ("never-ends", {"termination"}),
    ("never-settles", {"termination"}),
    ("offers-without-end", {"termination"}),
    ("declares-a-wrong-shape", {"shapes"}),
    ("touches-while-it-looks", {"digest"}),
    ("touches-while-it-perturbs", {"digest"}),
    ("swaps-a-tensor", {"rollback"}),
    ("never-stores-the-same", {"round-trip"}),
    ("goes-behind-the-rewriter", {"rollback"}),
    ("raises-half-way", {"crash"}),
    ("raises-and-leaves-a-mess", {"crash", "rollback"}),
    ("gives-up", {"refused"}),
    ("draws", {"deterministic"}),
    ("does-not-run", {"runs"}),
    ("lowers-something-else", {"region"}),
]


@pytest.mark.parametrize(("name", "rules"), LIES)
def test_a_lie_breaks_its_rule(liars: ModuleType, net: Case, name: str, rules: set[str]) -> None:
    outcome = check(Subject(name), net)
    assert rules <= set(rule_names(outcome.failures)), outcome
    assert all(f.case == "a case" and f.sentence for f in outcome.failures)


def test_every_rule_is_broken_by_some_test() -> None:
    told = set().union(*(rules for _, rules in LIES)) | {"expected"}
    assert told == {rule.name for rule in RULES}
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_a_failing_pass_that_cleans_up_breaks_no_rollback(liars: ModuleType, net: Case) -> None:
    assert broken("raises-half-way", net) == ["crash"]
    assert broken("gives-up", net) == ["refused"]


def test_stored_outputs_are_met(liars: ModuleType, net: Case) -> None:
    y = -np.maximum(X @ W, 0)
    stored = replace(net, expected=((y,), None), rtol=1e-5, atol=1e-6)
    assert broken("changes-little", stored) == ["expected"]
    assert broken("changes-little", net) == []
    assert broken("canonicalize", stored) == []
    # what the original itself misses in this runtime is not held against a pass
    assert broken("changes-little", replace(stored, expected=((y + 1,), None))) == []


@pytest.mark.parametrize(
    ("bound", "rules"),
    [(0.6, []), (0.3, []), (0.07, []), (0.04, ["termination"]), (0.0, ["termination"])],
)
def test_a_pass_that_measures_may_take_a_few_runs(
    liars: ModuleType, make_case: MakeCase, bound: float, rules: list[str]
) -> None:
    text = HEAD + (
        "g (float[n, 4] x) => (float[n, 4] y, float[1] z) <float[1] spare = {1.0}> "
        "{ y = Neg(x) a = Sign(spare) z = Abs(a) }"
    )
    liars.Chooses.bound = bound
    assert broken("halves-again", make_case(text, {"x": X})) == rules


def test_bits_can_be_asked_of_a_pass_that_reassociates(liars: ModuleType, net: Case) -> None:
    assert broken("changes-little", net, exact=True) == ["bits"]


@pytest.mark.parametrize(
    "face",
    [
        "float[n, 4] x) => (float[n, 4] y, float[n, 4] z) <float[5, 5] b>",
        "float[n, 4] x) => (float[n, 4] y, float[n, n] z)",
        "float[n, 4] x) => (float[n, 4] y, float[m, 4] z)",
    ],
)
def test_what_the_file_itself_gets_wrong_is_not_held_against_a_pass(
    make_case: MakeCase, face: str
) -> None:
    body = "{ a = MatMul(x, w) b = Relu(a) c = Identity(b) y = Neg(c) z = Abs(a) }"
    assert broken("canonicalize", make_case(HEAD + f"g ({face} {body}", {"x": X}, w=W)) == []


def test_sizes_that_the_runtime_makes_of_empty_tensors_are_no_lie(make_case: MakeCase) -> None:
    """Its ReduceMax of [0, 4] over the last axis is [0, 4], where [0, 1] is meant."""
    text = HEAD + (
        "g (float[n, 4] x) => (float[n, 4] y) { a = Identity(x) b = MatMul(a, w) "
        "m = ReduceMax<axes = [-1], keepdims = 1>(b) y = Sub(b, m) }"
    )
    assert broken("canonicalize", make_case(text, {"x": X[:0]}, w=W)) == []


def test_a_wrong_shape_under_a_name_that_the_file_declares_is_told(
    make_case: MakeCase, liars: ModuleType
) -> None:
    face = "float[n, 4] x) => (float[n, 4] y) <float[n, 4] b>"
    body = "{ a = MatMul(x, w) b = Relu(a) y = Neg(b) }"

    def work(model: Any, rewriter: Any) -> None:
        node = liars.first(model, "Relu")
        if node is not None and liars.first(model, "Identity") is None:
            made = rewriter.insert("Identity", node.outputs, after=node, name="spare")
            rewriter.set_input(made, 0, node.outputs[0])
            rewriter.set_type(node.outputs[0], node.outputs[0].dtype, ir.Shape([9]))

    liars.liar("misdeclares")(work)
    liars.register()
    assert broken("misdeclares", make_case(HEAD + f"g ({face} {body}", {"x": X}, w=W)) == ["shapes"]


@pytest.mark.parametrize("error", [KeyError("lost"), InputError("cannot be read")])
def test_import_is_part_of_the_way(
    monkeypatch: pytest.MonkeyPatch, net: Case, error: Exception
) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(trial, "load_model", load)
    (failure,) = check(Subject("canonicalize"), net).failures
    rule = "refused" if isinstance(error, InputError) else "crash"
    assert (failure.rule, failure.stage) == (rule, "import")


@pytest.mark.parametrize("loads", [True, False])
def test_a_refusal_by_the_runtime_counts_where_it_takes_the_original(
    monkeypatch: pytest.MonkeyPatch, net: Case, loads: bool
) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise TargetError("no kernel")

    def run_all(data: bytes, feeds: Any, optimize: Optimize = "none") -> Any:
        if optimize == "all" and not loads:
            raise TargetError("no kernel")
        return execute.run_all(data, feeds, optimize)

    monkeypatch.setattr(trial, "load_model", load)
    monkeypatch.setattr(trial, "run_all", run_all)
    outcome = check(Subject("canonicalize"), net)
    assert [failure.rule for failure in outcome.failures] == (["refused"] if loads else [])
    assert outcome.skipped.startswith("" if loads else "import: no kernel")
    assert bool(outcome.skipped) is not loads


def test_what_the_runtime_refuses_is_skipped(make_case: MakeCase) -> None:
    case = make_case(HEAD + "g (float[2] x) => (float[2] y) { y = Sigmoyd(x) }", {"x": X[0, :2]})
    outcome = check(Subject("canonicalize"), case)
    assert not outcome.failures
    assert outcome.skipped.startswith("the original does not run")


def test_a_selector_that_fits_nothing_is_no_failure(net: Case) -> None:
    outcome = check(Subject("quantize@nothing_of_that_name"), net)
    assert not outcome.failures
    assert "nothing_of_that_name" in outcome.skipped


def test_a_pipeline_that_is_none_is_an_error(net: Case) -> None:
    with pytest.raises(UsageError, match="no pass"):
        check(Subject("canonicalise"), net)
    with pytest.raises(UsageError, match="target"):
        check(Subject("canonicalize", "nowhere"), net)


def test_a_failure_says_where_and_what() -> None:
    failure = Failure("bits", "a case", "they differ", "canonicalize")
    assert str(failure) == "bits in canonicalize: they differ"
    assert Outcome((failure,)).edits == 0


# -- what must not confuse it --------------------------------------------------------------

ODD = {
    "random numbers": (
        "g (float[4] x) => (float[4] y, float[4] z) "
        "{ a = Identity(x) r = RandomNormalLike(a) y = Add(r, a) z = Relu(a) }",
        {"x": X[0]},
    ),
    "sizes that depend on data": (
        "g (float[n] x) => (int64[1, m] y) { a = Identity(x) y = NonZero(a) }",
        {"x": np.array([0, 1, 0, 2], np.float32)},
    ),
    "no inputs": (
        "g () => (float[2] y) <float[2] c = {1.0, 2.0}> { a = Identity(c) y = Neg(a) }",
        {},
    ),
    "strings": (
        "g (string[2] x) => (string[2] y, string[2] z) { a = Identity(x) y = Identity(a) "
        "z = Identity(a) }",
        {"x": np.array(["a", "b"], object)},
    ),
    "sequences": (
        "g (seq(float[n]) s) => (float[m] y, seq(float[n]) t) "
        "{ a = Identity(s) y = ConcatFromSequence <axis = 0> (a) t = Identity(a) }",
        {"s": [X[0], X[1, :2]]},
    ),
    "optionals": (
        "g (optional(float[4]) o) => (bool y) { a = Identity(o) y = OptionalHasElement(a) }",
        {"o": X[0]},
    ),
    "not a number": (
        "g (float[2] x) => (float[2] y) { a = Identity(x) y = Neg(a) }",
        {"x": np.array([np.nan, np.inf], np.float32)},
    ),
    "nothing at all": (
        "g (float[n, 4] x) => (float[n, 4] y) { a = Identity(x) y = Neg(a) }",
        {"x": np.zeros((0, 4), np.float32)},
    ),
    "a loop": (
        """g (float[4] x, int64 k, bool c) => (float[4] y) {
          a = Identity(x)
          y = Loop(k, c, a) <body = b (int64 i, bool go, float[4] v) => (bool on, float[4] w) {
            on = Identity(go) w = Add(v, a) }>
        }""",
        {"x": X[0], "k": np.array(3), "c": np.array(True)},
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_models_are_judged_like_others(make_case: MakeCase, name: str) -> None:
    text, feed = ODD[name]
    outcome = check(Subject("canonicalize"), make_case(HEAD + text, feed))
    assert outcome == Outcome((), outcome.edits)
    assert outcome.edits >= (name not in ("strings", "no inputs"))


@pytest.mark.parametrize("name", ["random numbers", "sequences", "a loop"])
def test_lies_about_odd_models_are_seen(liars: ModuleType, make_case: MakeCase, name: str) -> None:
    """One output of each is sure, whatever the others do."""
    text, feed = ODD[name]
    swapped = {"random numbers": "Relu", "sequences": "Identity", "a loop": "Identity"}[name]

    def work(model: Any, rewriter: Any) -> None:
        if swapped == "Relu":
            liars.swap(model, rewriter, "Relu", "Neg")
        else:
            node = liars.first(model, "ConcatFromSequence") or liars.first(model, "Loop")
            made = rewriter.insert("Abs", [node.outputs[0]], after=node, name="more")
            rewriter.replace_uses(node.outputs[0], made.outputs[0])
            rewriter.set_input(made, 0, node.outputs[0])

    liars.liar("spoils")(work)
    liars.register()
    assert "bits" in broken("spoils", make_case(HEAD + text, feed))


@pytest.mark.parametrize(
    "pipeline",
    [
        "canonicalize",
        "canonicalize{rules=exact}",
        "canonicalize,equalize",
        "canonicalize,quantize",
        "canonicalize,equalize,quantize{scheme=static}",
    ],
)
def test_our_own_passes_keep_their_promises(make_case: MakeCase, pipeline: str) -> None:
    text = HEAD + (
        "g (float[n, 48] x) => (float[n, 8] y) { a = Gemm <transB = 1> (x, w, b) h = Relu(a) "
        "i = Identity(h) c = MatMul(i, v) y = Add(b2, c) }"
    )
    made = {"w": (64, 48), "b": (64,), "v": (64, 8), "b2": (8,)}
    weights = {n: RNG.normal(size=s).astype(np.float32) for n, s in made.items()}
    feeds = [{"x": RNG.normal(size=(4, 48)).astype(np.float32)} for _ in range(2)]
    outcome = check(Subject(pipeline, "x86-avx512-vnni"), make_case(text, *feeds, **weights))
    assert outcome.failures == ()
    assert outcome.edits >= 2
