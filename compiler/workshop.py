"""Build candidate pipelines on one imported model, judge them, and give sites back.

Every build starts from the imported graph (by rollback, not by copy); what was measured of a
site once is not measured again.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from ..ir.digest import contents_digest
from ..ir.errors import UsageError, VerifyError
from ..ir.facts import ENDS, FLOAT
from ..ir.provenance import Edit, Remark
from ..ir.rewriter import Rewriter
from ..ir.save import save_model
from ..ir.signature import Signature
from ..ir.types.shapecheck import shape_conflicts
from ..ir.verify import verify
from ..passes.api import Pass, pass_class
from ..targets.runtime import Session, open_session
from .backends.backend import SITE, Backend, Emitter
from .backends.table import backend_for, blamed
from .context import CompileContext
from .giving_back import Given, grouped, loss_per_saving, out_of_proportion
from .instruments import Instrument
from .manager import Measured, PassManager
from .pipeline import Pipeline, Step, parse, resolve
from .quality.judge import Answers, Judge
from .result import Quality
from .stages import LEGALISE, Recorder, Stage

GivenBack = Mapping[str, tuple[str, ...]]
MODEL, REFERENCE = "model.onnx", "reference.onnx"
TWIN = "twin"


@dataclass(frozen=True)
class Build:
    """One pipeline applied: a copy of the model, its file, and what was done.

    path: not written where no whole model is run. floating: the graph before its last pass, which
    calibrated ranges speak of. verbatim: the file is the user's own, byte for byte. twin: what is
    run here in the place of a model that no runtime here runs as it is; checks: what was checked
    of such a model, broken: what speaks against it. stages: the graph between its passes.
    """

    pipeline: str
    model: ir.Model
    path: Path
    edits: tuple[Edit, ...]
    remarks: tuple[Remark, ...]
    given_back: GivenBack = field(default_factory=dict)
    floating: ir.Model | None = None
    verbatim: bool = False
    twin: ir.Model | None = None
    checks: tuple[str, ...] = ()
    broken: str = ""
    stages: tuple[Stage, ...] = ()

    @property
    def bytes(self) -> int:
        """Size on disk, external weights included."""
        return sum(f.stat().st_size for f in self.path.parent.iterdir() if f.is_file())

    @property
    def runnable(self) -> Path:
        """The file that is run here."""
        return self.path if self.twin is None else self.path.parent / TWIN / REFERENCE


@dataclass(frozen=True)
class Judged:
    """A build that was loaded back and compared with the original.

    loaded, kept: None where no whole model is run.
    """

    build: Build
    loaded: Session | None
    quality: Quality
    kept: Answers | None

    @property
    def session(self) -> Session:
        """The loaded build."""
        assert self.loaded is not None, "no whole model is run"
        return self.loaded

    @property
    def answers(self) -> Answers:
        """What it answers on the held-out feeds."""
        assert self.kept is not None, "no whole model is run"
        return self.kept


@dataclass
class Workshop:
    """Where the builds of one compile are made.

    bench: None where no whole model is run. own: the user's file where it is all there is of the
    model (no weights in other files) and the target takes it.
    """

    rewriter: Rewriter
    context: CompileContext
    instruments: Sequence[Instrument]
    bench: Judge | None
    folder: Path
    own: Path | None = None
    recorder: Recorder = field(default_factory=Recorder)
    _count: int = 0
    _losses: dict[tuple[str, str, str], Measured] = field(default_factory=dict)
    _held: dict[str, Judged] = field(default_factory=dict)
    _reasons: dict[Given, str] = field(default_factory=dict)
    _start: int = field(init=False)
    _signature: Signature = field(init=False)
    backend: Backend = field(init=False)
    _emitter: Emitter = field(init=False)

    def __post_init__(self) -> None:
        self._start = self.rewriter.checkpoint()
        self._signature = Signature.of(self.rewriter.model)
        judge = self.bench
        original, holdout = (judge.original, judge.holdout) if judge else (None, ())
        self.backend = backend_for(self.context.target)
        with blamed(self.backend, "emitter"):
            self._emitter = self.backend.emitter(self.context, original, holdout)
        self.context.weighs_outputs = bool(self.backend.narrows) and judge is not None

    @property
    def judge(self) -> Judge:
        """What compares builds with the original."""
        assert self.bench is not None, "no whole model is run"
        return self.bench

    def build(self, text: str, given_back: GivenBack | None = None) -> Build:
        """Apply a pipeline to the imported model and write the result to a folder of its own.

        An empty text is the model untouched. Raises PassError, UsageError for unknown passes and
        options.
        """
        if not text:
            return self.build_untouched()
        back = dict(given_back or {})
        edits = self._applied(text, back)
        self._legalise()
        return self._write(text, edits, back, self.context.kept)

    def _applied(self, text: str, back: GivenBack) -> list[Edit]:
        """The edits of a pipeline, applied to the imported model."""
        for instrument in self.instruments:
            instrument.before_build()
        self.context.pipeline = text
        self.rewriter.rollback(self._start)
        self.context.remarks.clear()
        self.recorder.start(self.rewriter.model)
        manager = PassManager(
            self.rewriter, self.context, self.instruments, self._losses, reasons=self._reasons
        )
        edits: list[Edit] = []
        for step, pass_ in instantiate(parse(text)):
            manager.stage += f",{step}"
            exclude = frozenset(back.get(pass_.name, ()))
            outcome = manager.run(pass_, exclude=exclude, selector=step.selector)
            # What was given back here changes the regions that later steps are measured on.
            manager.stage += f" but {sorted(exclude)}" if exclude else ""
            edits.extend(outcome.edits)
            self.recorder.add(pass_.name, str(step), self.rewriter.model, outcome.edits)
        return edits

    def build_untouched(self) -> Build:
        """The user's own file where it stands alone, else the imported graph; no pass run.

        Import itself may cost time: what a runtime does with a graph hangs on how it is spelled.
        """
        self.rewriter.rollback(self._start)
        self.context.remarks.clear()
        self.recorder.start(self.rewriter.model)
        if not self.backend.verbatim:
            self._legalise()
        return self._verbatim(self._write("", (), {}, None))

    def handed_back(self, judged: Judged) -> Judged:
        """With the user's own file, where no edit was made and the runtime would read the same.

        Timed against itself, one of two equal files is always the faster one. What import changes
        (functions inlined, weights no longer inputs) a runtime may well notice: that is no such
        case.
        """
        build = judged.build
        own = self._own_file()
        if own is None or build.edits or build.verbatim or not _same(own, build.path):
            return judged
        return replace(judged, build=self._verbatim(build))

    def _own_file(self) -> Path | None:
        """The user's own file, where it may be handed over."""
        return self.own if self.backend.verbatim and self.bench is not None else None

    def _verbatim(self, build: Build) -> Build:
        own = self._own_file()
        if own is None:
            return build
        shutil.copyfile(own, build.path)
        return replace(build, verbatim=True)

    def judged(self, build: Build) -> Judged:
        """Load a build back from disk and compare it with the original."""
        self.context.progress.phase("judging")
        session = open_session(build.runnable, threads=self.context.threads)
        answers = Answers(session, self.judge.holdout)
        quality = self.judge.judge(session, answers)
        if build.broken:
            quality = replace(quality, verdict="over-budget", sentence=build.broken)
        return Judged(build, session, quality, answers)

    def hold(self, text: str) -> Judged:
        """Build a pipeline; over the bound, give back sites until it holds.

        Sites whose loss is out of proportion are given back at once, where the user set no bound.
        Sites go in order of loss for what they bring; the fewest that suffice are found by
        galloping and bisection. Where none suffice, all are given back. Of several passes
        one may be given back as a whole. A pipeline that comes to
        the same graph as an earlier one gets what that one got, the same object.
        """
        self._reasons = {}
        self._reasons = self._disproportionate(text)
        build = self.build(text, grouped([*self._reasons]))
        digest = contents_digest(build.model)
        if digest not in self._held:
            self._held[digest] = self._hold(build)
        return self._held[digest]

    def _disproportionate(self, text: str) -> dict[Given, str]:
        """What is left in float although no bound asks for it, each with the reason."""
        if not (text and self.context.weighs_outputs) or self.judge.gate or self.judge.budget:
            return {}
        return out_of_proportion(self._applied(text, {}))

    def _hold(self, build: Build) -> Judged:
        first, text = self.judged(build), build.pipeline
        if first.quality.verdict != "over-budget":
            return first
        order = loss_per_saving(first.build.edits)
        if first.build.broken:  # the conversion of floats is what speaks against it
            order.sort(key=lambda given: given[0] != self.backend.narrows)
        if not order:
            return first
        self.context.progress.note(
            f"{text}: {first.quality.sentence}; giving back sites, the costliest first"
        )
        return self._give_back(text, order)

    def rewritten(self, judged: Judged, model: ir.Model) -> Judged:
        """The same build in another spelling, loaded; its quality is still the old one's.

        Its declared shapes are not checked yet: see ``shapes_hold``.
        """
        verify(model, self._signature, where="the spelled graph")
        build = replace(judged.build, model=model, path=self._save(model))
        session = open_session(build.path, threads=self.context.threads)
        return Judged(build, session, judged.quality, Answers(session, self.judge.holdout))

    def shapes_hold(self, judged: Judged) -> bool:
        """Whether the declared shapes of a build can be. Takes an inference of the whole graph."""
        return next(shape_conflicts(judged.build.model), None) is None

    # -- inside ------------------------------------------------------------------------

    def _give_back(self, text: str, order: Sequence[tuple[str, str]]) -> Judged:
        """The fewest sites in this order; or all of one pass, where it spoiled it for the others
        and without it the model is smaller."""
        best = self._fewest(text, order)
        passes = dict.fromkeys(name for name, _ in order if name != self.backend.narrows)
        for name in passes if len(passes) > 1 else ():
            own = grouped([*self._reasons, *(pair for pair in order if pair[0] == name)])
            tried = self.judged(self.build(text, own))
            if tried.quality.verdict != "over-budget" and tried.build.bytes < best.build.bytes:
                best = tried
        return best

    def _fewest(self, text: str, order: Sequence[tuple[str, str]]) -> Judged:
        def attempt(count: int) -> Judged:
            back = grouped([*self._reasons, *order[:count]])
            return self.judged(self.build(text, back))

        low, high = 0, 1
        best = attempt(high)
        while best.quality.verdict == "over-budget" and high < len(order):
            low, high = high, min(2 * high, len(order))
            best = attempt(high)
        while high - low > 1 and best.quality.verdict != "over-budget":
            middle = (low + high) // 2
            tried = attempt(middle)
            if tried.quality.verdict == "over-budget":
                low = middle
            else:
                high, best = middle, tried
        return best

    def _legalise(self) -> None:
        with self.rewriter.edit("legalise"), blamed(self.backend, "legalise"):
            done = self.backend.legalise(self.rewriter, self.context.target)
        for item in done:
            self.context.remarks.append(
                Remark("note", "legalise", item.value, item.code, item.sentence)
            )
        self.recorder.add(LEGALISE, "", self.rewriter.model)

    def _write(
        self, text: str, edits: Sequence[Edit], back: GivenBack, floating: ir.Model | None
    ) -> Build:
        lowered = self._sound(self.rewriter.model).clone()
        with blamed(self.backend, "emit"):
            made = self._emitter.emit(lowered, wide=SITE in back.get(self.backend.narrows, ()))
        for model in (made.model, made.reference):
            if model is not None and model is not lowered:
                verify(model, self._signature, where="the emitted graph")
        path = self.folder / MODEL if self.bench is None else self._save(made.model)
        if made.reference is not None:
            (path.parent / TWIN).mkdir(parents=True)
            save_model(made.reference, path.parent / TWIN / REFERENCE)
        return Build(
            text, made.model, path, (*edits, *made.edits), (*self.context.remarks, *made.remarks),
            back, floating, twin=made.reference, checks=made.checks, broken=made.broken,
            stages=self.recorder.taken(),
        )  # fmt: skip

    def _sound(self, model: ir.Model) -> ir.Model:
        """A finished graph is checked once more: legalisation touched it last."""
        where = "the finished graph"
        verify(model, self._signature, where=where)
        lies = [f"value-shapes: {sentence}" for sentence in shape_conflicts(model)]
        if lies:
            raise VerifyError(lies, where=where)
        return model

    def _save(self, model: ir.Model) -> Path:
        self._count += 1
        folder = self.folder / f"build-{self._count:03d}"
        folder.mkdir(parents=True)
        save_model(model, folder / MODEL)
        return folder / MODEL


def instantiate(pipeline: Pipeline) -> list[tuple[Step, Pass]]:
    """Each step with its pass, options resolved.

    Raises UsageError before any work: unknown passes and options, and a step that no site
    could take, because an earlier step took from all of them what it requires.
    """
    made: list[tuple[Step, Pass]] = []
    possible: frozenset[str] = frozenset({FLOAT})
    for step in pipeline:
        cls = pass_class(step.name)
        missing = cls.requires - possible
        if missing:
            raise UsageError(
                f"no site can be {', '.join(sorted(missing))} any more when {step} runs",
                where=f"pipeline {pipeline}",
                hint="put it in front of the step that takes that away, leave it out, or give the "
                "earlier one a selector or exclude=",
            )
        partly = bool(step.selector) or not cls.narrowing.isdisjoint(step.options)
        ended = cls.invalidates.union(*(ENDS.get(fact, ()) for fact in cls.produces))
        possible = (possible if partly else possible - ended) | cls.produces
        made.append((step, cls(resolve(step, cls.Options))))
    return made


def _same(*files: Path) -> bool:
    """Whether all hold the same graph and weights, as they are written."""
    digests = set()
    for path in files:
        model = ir.load(path)
        if model.functions:
            return False
        digests.add(contents_digest(model))
    return len(digests) == 1
