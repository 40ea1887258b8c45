from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from planish.compiler import manager as module
from planish.compiler.instruments import (
    Bisect,
    EditEvent,
    Instrument,
    PassEvent,
    RejectedError,
    Reproducer,
    Snapshots,
    Timing,
)
from planish.ir.errors import InputError, PassError, UsageError
from planish.ir.graph import constant_array
from planish.ir.load import load_model
from planish.ir.provenance import Edit
from planish.ir.rewriter import Rewriter
from planish.passes.api import SITES, Candidate, Context, Pass, Perturbation, Refusal, Semantics

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[n, 8] x) => (float[n, 8] y)
{
  [one] a = MatMul(x, w1)
  [relu] b = Relu(a)
  [two] c = MatMul(b, w2)
  [tanh] d = Tanh(c)
  [three] y = MatMul(d, w3)
}
"""
RNG = np.random.default_rng(5)
WEIGHTS = {f"w{i}": RNG.normal(size=(8, 8)).astype(np.float32) for i in (1, 2, 3)}
REGIONS = {"one": ("x", "a", "w1"), "two": ("b", "c", "w2"), "three": ("d", "y", "w3")}
FEEDS = [{"x": RNG.normal(size=(20, 8)).astype(np.float32)} for _ in range(2)]

Lower = Callable[[ir.Model, Candidate, Any, Rewriter], None]


@dataclass(frozen=True)
class NoOptions:
    pass


class Toy(Pass):
    """Rounds weights to quarters at ``one``, ``two`` and ``three``."""

    name = "toy"
    semantics: ClassVar[Semantics] = Semantics.LOSSY
    Options = NoOptions
    offers: Sequence[Candidate | Refusal] = (
        Candidate("one", "quarters", 10),
        Candidate("two", "quarters", 20),
        Candidate("three", "quarters", 30),
    )

    def candidates(self, model: ir.Model, ctx: Context) -> Iterable[Candidate | Refusal]:
        return self.offers

    def perturb(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation | None:
        x, y, w = REGIONS[candidate.site]
        rounded = np.round(constant(model, w) * 4) / 4
        return Perturbation((x,), (y,), {w: rounded}, payload=rounded, contraction=8)

    def lower(
        self,
        model: ir.Model,
        candidate: Candidate,
        perturbation: Perturbation | None,
        rewriter: Rewriter,
        ctx: Context,
    ) -> None:
        assert perturbation is not None
        value = model.graph.initializers[REGIONS[candidate.site][2]]
        rewriter.set_tensor(value, perturbation.payload)


def constant(model: ir.Model, name: str) -> np.ndarray[Any, Any]:
    array = constant_array(model.graph.initializers[name])
    assert array is not None
    return array


def toy(lower: Lower | None = None, **changes: Any) -> Pass:
    """The toy with another lowering (of all sites) or other class attributes."""

    def replaced(
        self: Pass, model: ir.Model, candidate: Candidate, perturbation: Any, rewriter: Rewriter,
        ctx: Context,
    ) -> None:  # fmt: skip
        assert lower is not None
        lower(model, candidate, perturbation, rewriter)

    methods = changes | ({"lower": replaced} if lower else {})
    made: Pass = type("Changed", (Toy,), methods)(NoOptions())
    return made


@dataclass
class Log(Instrument):
    """What happened, in order."""

    events: list[str]
    veto: str = ""

    def before_pass(self, event: PassEvent) -> None:
        self.events.append(f"before {event.pass_.name}")

    def allow(self, event: PassEvent, candidate: Candidate) -> bool:
        self.events.append(f"allow {candidate.site}")
        return True

    def after_edit(self, event: EditEvent) -> None:
        self.events.append(f"edit {event.edit.site}")
        if event.edit.site == self.veto:
            raise RejectedError("veto", "not this one")

    def after_pass(self, event: PassEvent, edits: Sequence[Edit]) -> None:
        self.events.append(f"after {len(edits)}")

    def on_failure(self, event: PassEvent, error: BaseException) -> None:
        self.events.append(f"failure {type(error).__name__}")


@pytest.fixture
def bench(graphs: ModuleType) -> Any:
    return graphs.Bench(graphs.parse(TEXT, **WEIGHTS), FEEDS)


def test_edits_are_measured_committed_and_described(bench: Any, graphs: ModuleType) -> None:
    values = graphs.parse(TEXT, **WEIGHTS)
    values.graph.outputs.extend([graphs.value(values, name) for name in "bcd"])
    before = graphs.run(values, {"x": FEEDS[0]["x"][:16]})  # losses are measured on 16 samples
    outcome = bench.manager.run(toy())
    assert [edit.site for edit in outcome.edits] == ["one", "two", "three"]
    for name, w in WEIGHTS.items():
        np.testing.assert_array_equal(constant(bench.model, name), np.round(w * 4) / 4)
    second = outcome.edits[1]
    assert (second.id, second.pass_name, second.setting) == ("0002-toy/two", "toy", "quarters")
    assert second.saving == 20
    y, rounded = before["b"] @ WEIGHTS["w2"], before["b"] @ (np.round(WEIGHTS["w2"] * 4) / 4)
    assert second.loss == pytest.approx(((y - rounded) ** 2).sum() / (y**2).sum(), rel=1e-4)
    applied = bench.remarks("applied")
    assert list(applied) == ["one", "two", "three"]
    assert applied["two"].code == "quarters"


def test_one_candidate_for_each_site_is_chosen(bench: Any) -> None:
    offers = [
        Refusal("one", "too-small", "it is small"),
        Candidate("two", "quarters"),
        Candidate("two", "alternative"),
        Candidate("three", "quarters"),
    ]
    outcome = bench.manager.run(toy(offers=offers), exclude=frozenset({"three"}))
    assert [(e.site, e.setting) for e in outcome.edits] == [("two", "quarters")]
    assert bench.refusals() == {"one": "too-small", "three": "given-back"}


def test_several_rules_may_apply_to_the_whole_graph(bench: Any) -> None:
    offers = [Candidate("graph", "first"), Candidate("graph", "second")]
    seen: list[str] = []

    def lower(model: ir.Model, candidate: Candidate, _: Any, rewriter: Rewriter) -> None:
        seen.append(candidate.setting)

    none = {"perturb": lambda self, model, candidate, ctx: None}
    bench.manager.run(toy(lower, offers=offers, **none))
    assert seen == ["first", "second"]


def test_a_selector_restricts_a_pass_to_sites(bench: Any) -> None:
    first, *_, last = [s.name for s in bench.context.analysis(SITES).of_kind("linear")]
    offers = [Refusal(first, "code", "sentence"), Refusal(last, "code", "sentence")]
    bench.manager.run(toy(offers=offers), selector=(last,))
    assert list(bench.refusals()) == [last]
    with pytest.raises(UsageError, match="no site matches 'nothing'"):
        bench.manager.run(toy(), selector=("nothing",))


def test_instruments_see_everything_in_order(graphs: ModuleType) -> None:
    log = Log([], veto="two")
    bench = graphs.Bench(graphs.parse(TEXT, **WEIGHTS), FEEDS, instruments=[log])
    outcome = bench.manager.run(toy())
    assert log.events == [
        "before toy", "allow one", "edit one", "allow two", "edit two", "allow three",
        "edit three", "after 2",
    ]  # fmt: skip
    assert [e.site for e in outcome.edits] == ["one", "three"]
    assert bench.remarks("missed")["two"].code == "veto"
    np.testing.assert_array_equal(constant(bench.model, "w2"), WEIGHTS["w2"])


def test_a_lowering_that_computes_something_else_is_undone(bench: Any, graphs: ModuleType) -> None:
    def lower(model: ir.Model, candidate: Candidate, p: Any, rewriter: Rewriter) -> None:
        wrong = p.payload * np.float32(1.01 if candidate.site == "two" else 1)
        rewriter.set_tensor(model.graph.initializers[REGIONS[candidate.site][2]], wrong)

    outcome = bench.manager.run(toy(lower))
    assert [e.site for e in outcome.edits] == ["one", "three"]
    missed = bench.remarks("missed")["two"]
    assert missed.code == "region-differs"
    assert "c: " in missed.sentence
    np.testing.assert_array_equal(constant(bench.model, "w2"), WEIGHTS["w2"])
    assert outcome.edits[1].id == "0002-toy/three"


def test_a_graph_that_is_not_well_formed_is_undone(bench: Any, graphs: ModuleType) -> None:
    before = graphs.snapshot(bench.model)

    def lower(model: ir.Model, candidate: Candidate, p: Any, rewriter: Rewriter) -> None:
        late = rewriter.insert("Neg", [graphs.value(model, "d")])  # behind its reader
        rewriter.set_input(graphs.node(model, "three"), 0, late.outputs[0])

    outcome = bench.manager.run(toy(lower, offers=[Candidate("three", "late")]))
    assert outcome.edits == []
    assert bench.remarks("missed")["three"].code == "not-well-formed"
    assert graphs.snapshot(bench.model) == before


def test_the_signature_is_frozen(bench: Any, graphs: ModuleType) -> None:
    def lower(model: ir.Model, candidate: Candidate, p: Any, rewriter: Rewriter) -> None:
        output = graphs.value(model, "y")
        rewriter.set_type(output, ir.DataType.FLOAT, ir.Shape(["n", 7]))

    bench.manager.run(toy(lower, offers=[Candidate("three", "narrow")]))
    assert bench.remarks("missed")["three"].code == "not-well-formed"
    assert graphs.value(bench.model, "y").shape == ("n", 8)


def test_changed_means_that_the_contents_moved(bench: Any, graphs: ModuleType) -> None:
    before = graphs.snapshot(bench.model)

    def lower(model: ir.Model, candidate: Candidate, p: Any, rewriter: Rewriter) -> None:
        w = model.graph.initializers["w1"]
        rewriter.set_tensor(w, constant(model, "w1").copy())
        graphs.node(model, "one").doc_string = "touched"

    outcome = bench.manager.run(toy(lower, perturb=lambda self, model, candidate, ctx: None))
    assert outcome.edits == []
    assert bench.context.remarks == []
    assert graphs.snapshot(bench.model) == before


def promising(semantics: Semantics, change: float) -> Pass:
    """A pass without perturbation that changes w3 by a relative amount."""

    def lower(model: ir.Model, candidate: Candidate, p: Any, rewriter: Rewriter) -> None:
        rewriter.set_tensor(model.graph.initializers["w3"], WEIGHTS["w3"] * np.float32(1 + change))

    return toy(
        lower, semantics=semantics, offers=[Candidate("graph", "scale")],
        perturb=lambda self, model, candidate, ctx: None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("semantics", "change", "kept"),
    [
        (Semantics.EXACT, 1e-6, False),
        (Semantics.REASSOCIATES, 1e-6, True),
        (Semantics.REASSOCIATES, 1e-2, False),
        (Semantics.LOSSY, 1e-2, True),
    ],
)
def test_promises_are_checked_on_the_whole_graph(
    bench: Any, graphs: ModuleType, semantics: Semantics, change: float, kept: bool
) -> None:
    before = graphs.snapshot(bench.model)
    if kept:
        assert len(bench.manager.run(promising(semantics, change)).edits) == 1
        return
    with pytest.raises(PassError, match="changed output 'y' although it promises not to"):
        bench.manager.run(promising(semantics, change))
    assert graphs.snapshot(bench.model) == before


E, R, L = Semantics.EXACT, Semantics.REASSOCIATES, Semantics.LOSSY


@pytest.mark.parametrize(
    ("of_pass", "edits", "guilty"),
    [
        # (promise of the candidate, relative change), one edit after the other; the first that lies
        (R, [(E, 0.0), (R, 1e-6)], None),
        (R, [(R, 1e-6), (E, 0.0)], None),
        (R, [(R, 1e-6), (E, 1e-6)], 1),
        (R, [(E, 1e-6), (R, 1e-6)], 0),
        (R, [(E, 1e-6), (E, -1e-6)], 0),
        (R, [(E, 0.0), (E, 0.0), (E, 1e-6), (E, 0.0)], 2),
        (R, [(None, 1e-6), (None, 1e-6)], None),
        (L, [(L, 0.5), (R, 1e-6), (L, 0.5)], None),
        (L, [(L, 0.5), (R, 1e-2), (L, 0.5)], 1),
        (E, [(L, 1e-6)], 0),
    ],
)
def test_each_stretch_of_edits_is_held_to_the_strictest_promise(
    bench: Any,
    graphs: ModuleType,
    of_pass: Semantics,
    edits: list[tuple[Semantics | None, float]],
    guilty: int | None,
) -> None:
    """A candidate may promise more than its pass, never less; who breaks it is named."""

    def lower(model: ir.Model, candidate: Candidate, p: Any, rewriter: Rewriter) -> None:
        change = edits[int(candidate.setting)][1]
        old = constant(model, "w3")
        new = old * np.float32(1 + change) if change else np.where(old == 0, 1, old)
        rewriter.set_tensor(model.graph.initializers["w3"], new)
        rewriter.insert("Identity", [model.graph.inputs[0]], name="counted")

    offers = [Candidate("graph", str(i), semantics=e[0]) for i, e in enumerate(edits)]
    made = toy(
        lower, semantics=of_pass, offers=offers, perturb=lambda self, model, candidate, ctx: None
    )
    if guilty is None:
        assert len(bench.manager.run(made).edits) == len(edits)
        return
    before = graphs.snapshot(bench.model)
    with pytest.raises(PassError, match="although it promises not to") as caught:
        bench.manager.run(made)
    assert caught.value.where == f"toy at graph ({guilty})"
    assert graphs.snapshot(bench.model) == before


@pytest.mark.parametrize("place", ["candidates", "perturb", "lower"])
def test_a_pass_that_fails_leaves_the_model_untouched(graphs: ModuleType, place: str) -> None:
    log = Log([])
    bench = graphs.Bench(graphs.parse(TEXT, **WEIGHTS), FEEDS, instruments=[log])
    before = graphs.snapshot(bench.model)

    def fail(*arguments: Any) -> Any:
        candidate = next((a for a in arguments if isinstance(a, Candidate)), None)
        if candidate is None or candidate.site == "two":
            raise ZeroDivisionError("in the middle")
        return getattr(Toy, place)(*arguments)

    failing = type("Failing", (Toy,), {place: fail})(NoOptions())
    with pytest.raises(PassError, match="ZeroDivisionError: in the middle") as caught:
        bench.manager.run(failing)
    assert caught.value.where == ("toy" if place == "candidates" else "toy at two")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert graphs.snapshot(bench.model) == before
    assert log.events[-1] == "failure PassError"


def test_errors_of_the_rewriter_get_the_name_of_the_pass_and_the_site(
    bench: Any, graphs: ModuleType
) -> None:
    def lower(model: ir.Model, candidate: Candidate, p: Any, rewriter: Rewriter) -> None:
        rewriter.set_tensor(model.graph.initializers["w1"], np.zeros(3, np.float32))

    with pytest.raises(PassError) as caught:
        bench.manager.run(toy(lower))
    assert caught.value.where == "toy at one: w1"


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError("bad data"), MemoryError])
def test_other_errors_pass_through(bench: Any, graphs: ModuleType, error: Any) -> None:
    before = graphs.snapshot(bench.model)

    def lower(model: ir.Model, candidate: Candidate, p: Any, rewriter: Rewriter) -> None:
        rewriter.set_tensor(model.graph.initializers["w1"], WEIGHTS["w2"])
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        bench.manager.run(toy(lower))
    assert graphs.snapshot(bench.model) == before


def test_a_whole_pass_can_be_undone(bench: Any, graphs: ModuleType) -> None:
    first = bench.manager.run(toy(offers=[Candidate("one", "quarters")]))
    between = graphs.snapshot(bench.model)
    second = bench.manager.run(toy(offers=[Candidate("two", "quarters")]))
    bench.manager.undo(second)
    assert graphs.snapshot(bench.model) == between
    bench.manager.undo(first)
    np.testing.assert_array_equal(constant(bench.model, "w1"), WEIGHTS["w1"])


def test_many_candidates_are_measured_chunk_by_chunk(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[list[str]] = []
    samples = bench.context.samples

    def watched(model: ir.Model, names: Sequence[str]) -> Any:
        held.append(list(names))
        return samples(model, names)

    monkeypatch.setattr(module, "CHUNK", 2)
    monkeypatch.setattr(bench.context, "samples", watched)
    assert len(bench.manager.run(toy()).edits) == 3
    assert held == [["b", "x"], ["d"]]


def test_what_was_measured_once_is_not_measured_again(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.manager.stage = "toy"
    first = bench.manager.run(toy())
    bench.manager.undo(first)
    monkeypatch.setattr(module, "reference", None)  # calling it would fail
    second = bench.manager.run(toy())
    assert [e.loss for e in second.edits] == [e.loss for e in first.edits]
    monkeypatch.undo()
    bench.manager.undo(second)
    bench.manager.stage = "other,toy"
    assert bench.manager.run(toy()).edits == first.edits


def test_bisection_applies_the_first_edits_only(graphs: ModuleType) -> None:
    bisect = Bisect(limit=2)
    bench = graphs.Bench(graphs.parse(TEXT, **WEIGHTS), FEEDS, instruments=[bisect])
    assert [e.site for e in bench.manager.run(toy()).edits] == ["one", "two"]
    assert bench.manager.run(toy()).edits == []
    assert bisect.count == 6


def test_snapshots_are_written_where_a_pass_changed_something(
    graphs: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "deep" / "snapshots"
    bench = graphs.Bench(graphs.parse(TEXT, **WEIGHTS), FEEDS, instruments=[Snapshots(folder)])
    bench.manager.run(toy(offers=[]))
    bench.manager.run(toy())
    bench.manager.run(toy(name="late", offers=[Candidate("one", "quarters")]))  # nothing left
    assert [path.name for path in folder.iterdir()] == ["001-toy.onnx"]
    written = load_model(folder / "001-toy.onnx").model
    np.testing.assert_array_equal(constant(written, "w3"), np.round(WEIGHTS["w3"] * 4) / 4)


def test_time_is_summed_by_pass(graphs: ModuleType) -> None:
    timing = Timing()
    bench = graphs.Bench(graphs.parse(TEXT, **WEIGHTS), FEEDS, instruments=[timing])
    bench.manager.run(toy())
    once = timing.seconds["toy"]
    bench.manager.run(toy(offers=[]))
    assert list(timing.seconds) == ["toy"]
    assert timing.seconds["toy"] > once > 0


def test_a_reproducer_holds_the_model_before_the_failing_pass(
    graphs: ModuleType, tmp_path: Path
) -> None:
    command = "planish compile model.onnx --passes canonicalize,first,toy{bits=4},last -t host"
    instruments = [Reproducer(tmp_path / "out", command, "model.onnx")]
    bench = graphs.Bench(graphs.parse(TEXT, **WEIGHTS), FEEDS, instruments=instruments)
    bench.context.pipeline = "canonicalize,first,toy{bits=4},last"
    bench.manager.run(toy(name="first", offers=[Candidate("one", "quarters")]))

    def fail(*arguments: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(PassError) as caught:
        bench.manager.run(toy(fail))
    assert str(tmp_path / "out") in caught.value.hint
    assert (tmp_path / "out" / "pipeline.txt").read_text() == "toy{bits=4},last\n"
    again, was = (tmp_path / "out" / "command.txt").read_text().splitlines()
    assert was == f"# it was: {command}"
    assert again.split() == [
        "cd", str(Path.cwd()), "&&", "planish", "compile", str(tmp_path / "out" / "model.onnx"),
        "-t", "host", "--passes", "'toy{bits=4},last'",
    ]  # fmt: skip
    instruments[0].command = "true model.onnx 'a\ntouch PWNED\n'"
    with pytest.raises(PassError):
        bench.manager.run(toy(fail))
    subprocess.run(["bash", tmp_path / "out" / "command.txt"], cwd=tmp_path, check=True)
    assert not Path("PWNED").exists()
    written = load_model(tmp_path / "out" / "model.onnx").model
    np.testing.assert_array_equal(constant(written, "w1"), np.round(WEIGHTS["w1"] * 4) / 4)
    np.testing.assert_array_equal(constant(written, "w2"), WEIGHTS["w2"])


def test_no_reproducer_for_mistakes_of_the_user(graphs: ModuleType, tmp_path: Path) -> None:
    instruments = [Reproducer(tmp_path / "out", "")]
    bench = graphs.Bench(graphs.parse(TEXT, **WEIGHTS), FEEDS, instruments=instruments)
    bench.context.pipeline = "toy"
    with pytest.raises(UsageError):
        bench.manager.run(toy(), selector=("nothing",))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["candidates", "perturb", "lower"])
@pytest.mark.parametrize("change", ["input", "attribute", "tensor", "node", "output"])
def test_an_edit_behind_the_rewriters_back_is_an_error(
    bench: Any, graphs: ModuleType, place: str, change: str
) -> None:
    def stray(model: ir.Model) -> None:
        node = graphs.node(model, "tanh")
        if change == "input":
            node.replace_input_with(0, graphs.value(model, "b"))
        elif change == "attribute":
            node.attributes["alpha"] = ir.AttrFloat32("alpha", 1.0)
        elif change == "tensor":
            model.graph.initializers["w3"].const_value = ir.tensor(WEIGHTS["w3"] + 1, name="w3")
        elif change == "node":
            model.graph.append(ir.node("Neg", [graphs.value(model, "a")], name="stray"))
        else:
            model.graph.outputs.append(graphs.value(model, "a"))

    def straying(self: Pass, model: ir.Model, *arguments: Any) -> Any:
        stray(model)
        return getattr(Toy, place)(self, model, *arguments)

    offers = [Candidate("one", "quarters")]
    made = type("Straying", (Toy,), {place: straying, "offers": offers})(NoOptions())
    with pytest.raises(PassError, match="behind the rewriter's back") as caught:
        bench.manager.run(made)
    assert caught.value.where.startswith("toy")


def test_no_edit_is_verified_or_compared_as_a_whole(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from planish.ir import rewriter
    from planish.ir.editing import sound

    monkeypatch.setattr(sound, "verify", None)  # calling them would fail
    monkeypatch.setattr(rewriter, "contents_digest", None)
    assert len(bench.manager.run(toy()).edits) == 3


def test_the_next_chunk_is_as_large_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD_BYTES", 1000)
    assert module._next_size(16, 0) == 128
    assert module._next_size(16, 100) == 128
    assert module._next_size(128, 2000) == 64
    assert module._next_size(64, 10**9) == module.CHUNK
