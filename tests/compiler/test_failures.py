"""Passes that raise, lie or are interrupted: what is said, what stays, what is left behind."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import planish
from planish.compiler import choose as choosing
from planish.compiler.result import Built
from planish.ir.digest import contents_digest
from planish.ir.errors import InputError, PassError, PlanishError, TargetError
from planish.ir.graph import constant_array
from planish.ir.rewriter import Rewriter
from planish.passes import registry
from planish.passes.api import SITES, Candidate, Context, Pass, Perturbation, Semantics

NAME = "test-only"
Compile = Callable[..., Built]


@dataclass(frozen=True)
class NoOptions:
    """None."""


class Doubling(Pass):
    """Says that it leaves each weight as it is; what it does is up to the tests."""

    name = NAME
    semantics = Semantics.LOSSY
    Options = NoOptions
    factor = 2.0

    def candidates(self, model: ir.Model, ctx: Context) -> Iterable[Candidate]:
        for site in ctx.analysis(SITES).of_kind("linear"):
            yield Candidate(site.name, "doubled", saving=1)

    def perturb(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation:
        site = ctx.analysis(SITES).by_name[candidate.site]
        assert site.weight is not None
        assert site.input is not None
        assert site.output is not None
        weight = constant_array(site.weight)
        assert weight is not None
        return Perturbation(
            (str(site.input.name),), (str(site.output.name),),
            {str(site.weight.name): weight}, contraction=len(weight),
        )  # fmt: skip

    def lower(
        self, model: ir.Model, candidate: Candidate, perturbation: Perturbation | None,
        rewriter: Rewriter, ctx: Context,
    ) -> None:  # fmt: skip
        weight = ctx.analysis(SITES).by_name[candidate.site].weight
        assert weight is not None
        array = constant_array(weight)
        assert array is not None
        rewriter.set_tensor(weight, (self.factor * array).astype(array.dtype))


class Raising(Doubling):
    """Edits the first layer as it said, and raises at the second."""

    factor = 1.0 + 2.0**-20
    error: BaseException = RuntimeError("the second layer is too much")

    def lower(
        self, model: ir.Model, candidate: Candidate, perturbation: Perturbation | None,
        rewriter: Rewriter, ctx: Context,
    ) -> None:  # fmt: skip
        super().lower(model, candidate, perturbation, rewriter, ctx)
        if candidate.site == "block1":
            raise self.error


@pytest.fixture
def register() -> Iterator[Callable[[type[Pass]], type[Pass]]]:
    """Make a pass known for one test, as if it were planish's own (of others more is checked)."""

    def known(cls: type[Pass]) -> type[Pass]:
        return registry._REGISTRY.setdefault(cls.name, cls)

    yield known
    registry._REGISTRY.pop(NAME, None)


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of our own for temporary files, so that leftovers are ours."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def compiled(
    kit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> Compile:
    """``compiled(model, **options)`` into the folder ``out``; everything takes equally long."""
    monkeypatch.setattr(choosing, "time_alternating", kit.made_up(lambda model: 1.0))

    def run(model: Any, output: str = "out", **options: Any) -> Built:
        built: Built = kit.compiled(model, tmp_path / output, **options)
        return built

    return run


def failing(error: BaseException) -> type[Raising]:
    return type("Failing", (Raising,), {"error": error, "__module__": Raising.__module__})


# -- a pass that raises ------------------------------------------------------------------


def test_a_pass_that_raises_is_named_and_leaves_a_reproducer(
    compiled: Compile, kit: ModuleType, tmp_path: Path, temporary: Path, register: Any
) -> None:
    register(Raising)
    source = kit.chain(3)
    text = f"canonicalize,{NAME},quantize{{scheme=static}}"
    with pytest.raises(PassError) as caught:
        compiled(source, pipeline=text, command="planish compile it")
    for part in ("RuntimeError", "the second layer is too much", NAME, "block1", "out-repro"):
        assert part in str(caught.value)
    repro = tmp_path / "out-repro"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-repro"]
    assert kit.everything(temporary) == []
    assert sorted(path.name for path in repro.iterdir()) == [
        "command.txt", "model.onnx", "pipeline.txt",
    ]  # fmt: skip
    assert (repro / "command.txt").read_text() == "planish compile it\n"
    rest = (repro / "pipeline.txt").read_text().strip()
    assert rest == f"{NAME},quantize{{scheme=static}}"
    before = kit.workshop(source, tmp_path / "shop").build("canonicalize").model
    assert contents_digest(ir.load(repro / "model.onnx")) == contents_digest(before)
    with pytest.raises(PassError, match="the second layer is too much"):
        compiled(str(repro / "model.onnx"), "again", pipeline=rest)


def test_a_pass_that_raises_leaves_the_model_as_it_was(
    kit: ModuleType, tmp_path: Path, register: Any
) -> None:
    register(Raising)
    shop = kit.workshop(kit.chain(3), tmp_path)
    expected = contents_digest(shop.build("canonicalize").model)
    with pytest.raises(PassError):
        shop.build(f"canonicalize,{NAME}")
    assert contents_digest(shop.rewriter.model) == expected
    assert contents_digest(shop.build("canonicalize").model) == expected


def test_without_an_output_the_reproducer_stays_where_it_is_said_to_be(
    kit: ModuleType, temporary: Path, register: Any
) -> None:
    register(Raising)
    with pytest.raises(PassError) as caught:
        planish.compile(kit.chain(3), kit.target(), pipeline=NAME, calibration=kit.feeds())
    (inside,) = temporary.iterdir()
    assert str(inside / "artifact-repro") in caught.value.hint
    assert (inside / "artifact-repro" / "model.onnx").is_file()


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), InputError("bad data"), SystemExit(3), PlanishError("disk full")]
)
def test_what_is_no_defect_of_a_pass_passes_through_and_leaves_nothing(
    compiled: Compile,
    kit: ModuleType,
    tmp_path: Path,
    temporary: Path,
    register: Any,
    error: BaseException,
) -> None:
    register(failing(error))
    with pytest.raises(type(error)) as caught:
        compiled(kit.chain(3), pipeline=f"canonicalize,{NAME}")
    assert caught.value is error
    assert kit.everything(tmp_path, temporary) == []


def test_a_reproducer_that_cannot_be_written_does_not_hide_the_failure(
    compiled: Compile, kit: ModuleType, tmp_path: Path, register: Any
) -> None:
    register(Raising)
    (tmp_path / "out-repro").write_text("somebody's file")
    with pytest.raises(PassError, match="the second layer is too much") as caught:
        compiled(kit.chain(3), pipeline=NAME)
    assert "a reproducer cannot be written to" in caught.value.hint
    assert (tmp_path / "out-repro").read_text() == "somebody's file"


# -- a pass that lies --------------------------------------------------------------------


def test_a_pass_that_lies_is_vetoed_and_its_edits_are_undone(
    compiled: Compile, kit: ModuleType, register: Any
) -> None:
    register(Doubling)
    built = compiled(kit.chain(2), pipeline=f"canonicalize,{NAME}")
    plain = compiled(kit.chain(2), "plain", pipeline="canonicalize")
    missed = [r for r in built.result.remarks if r.kind == "missed"]
    assert [(r.pass_name, r.site, r.code) for r in missed] == [
        (NAME, "block0", "region-differs"),
        (NAME, "block1", "region-differs"),
    ]
    assert "differ" in missed[0].sentence
    assert built.result.lossless
    assert {e.pass_name for e in built.result.edits} <= {"canonicalize"}
    assert built.result.digests["model"] == plain.result.digests["model"]
    assert {k.site: k.reason for k in built.result.kernels.sites} == {
        r.site: r.sentence for r in missed
    }


@pytest.mark.parametrize("factor", [np.nan, np.inf])
def test_a_lowering_that_makes_nan_is_vetoed(
    compiled: Compile, kit: ModuleType, register: Any, factor: float
) -> None:
    register(type("Breaking", (Doubling,), {"factor": factor, "__module__": __name__}))
    result = compiled(kit.chain(1), pipeline=NAME).result
    assert [r.code for r in result.remarks if r.kind == "missed"] == ["region-differs"]
    assert result.quality.verdict == "within-budget"


def test_a_pass_that_changes_nothing_made_no_edit(
    compiled: Compile, kit: ModuleType, register: Any
) -> None:
    register(type("Idle", (Doubling,), {"factor": 1.0, "__module__": __name__}))
    result = compiled(kit.chain(2), pipeline=NAME).result
    assert result.edits == ()
    assert [r for r in result.remarks if r.pass_name == NAME] == []


@pytest.mark.parametrize("semantics", [Semantics.EXACT, Semantics.REASSOCIATES])
def test_a_pass_that_breaks_its_promise_fails_the_compile(
    compiled: Compile, kit: ModuleType, tmp_path: Path, register: Any, semantics: Semantics
) -> None:
    def nothing(*_: object) -> None:
        return None

    register(
        type(
            "Promising",
            (Doubling,),
            {"semantics": semantics, "perturb": nothing, "__module__": __name__},
        )
    )
    with pytest.raises(PassError, match="although it promises not to") as caught:
        compiled(kit.chain(1), pipeline=NAME)
    assert NAME in caught.value.where
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-repro"]


# -- everything else that fails ----------------------------------------------------------


def _at_call(number: int, error: BaseException) -> Callable[[Any], float]:
    """A metric that raises when it is asked for the n-th time."""
    asked: list[int] = []

    def metric(run: Any) -> float:
        asked.append(1)
        if len(asked) == number:
            raise error
        return 1.0

    return metric


@pytest.mark.parametrize("number", [1, 2, 4])
@pytest.mark.parametrize(
    ("error", "expected"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (ValueError("no"), InputError)],
)
def test_a_metric_that_fails_at_any_time_leaves_nothing(
    compiled: Compile,
    kit: ModuleType,
    tmp_path: Path,
    temporary: Path,
    number: int,
    error: BaseException,
    expected: type[BaseException],
) -> None:
    with pytest.raises(expected):
        compiled(kit.chain(2), evaluate=_at_call(number, error), max_drop=1)
    assert kit.everything(tmp_path, temporary) == []


STEPS = [
    "planish.compiler.driver.prepare",
    "planish.compiler.driver.choose",
    "planish.compiler.driver.measure_speed",
    "planish.compiler.driver.save_model",
    "planish.compiler.driver.count_kernels",
    "planish.compiler.driver.describe",
    "planish.compiler.driver.write_artifact",
]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), TargetError("the runtime is gone")])
def test_an_end_at_any_step_leaves_the_old_artifact(
    compiled: Compile,
    kit: ModuleType,
    tmp_path: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    error: BaseException,
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.txt").write_text("old")

    def end(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(step, end)
    with pytest.raises(type(error)):
        compiled(kit.chain(1), force=True)
    left = [str(tmp_path / "out"), str(tmp_path / "out" / "old.txt")]
    assert kit.everything(tmp_path, temporary) == left


def test_success_leaves_the_artifact_alone(
    compiled: Compile, kit: ModuleType, tmp_path: Path, temporary: Path
) -> None:
    compiled(kit.chain(1))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert kit.everything(temporary) == []
    assert onnx.load(tmp_path / "out" / "model.onnx").graph.node
