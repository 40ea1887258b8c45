"""One subject on one case: everything that happens, written down for the rules to judge.

The pipeline runs exactly as a compile runs it: the same import, opset, pass manager, context,
instruments, legalisation and file. Nothing here decides what is a failure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import onnx
import onnx_ir as ir

from ...ir.digest import contents_digest
from ...ir.errors import InputError, PlanishError, UsageError
from ...ir.load import load_model
from ...ir.opset import raised
from ...ir.provenance import Remark
from ...ir.rewriter import Rewriter
from ...ir.save import to_bytes
from ...ir.signature import Signature
from ...ir.verify import violations
from ...passes.api import Pass, Semantics
from ...targets.runtime import Optimize
from ..backends.legalise import legalise
from ..checking.patterns import KeepsPatterns
from ..context import CompileContext
from ..instruments import Instrument, RegionCheck, VerifyEach
from ..manager import PassManager
from ..pipeline import Step
from ..policy import QDQ_OPSET
from ..progress import Silent
from ..quality.equality import difference, promised_tolerance, random_outputs
from .case import Case
from .declared import Untrue, untrue
from .execute import Outputs, calibration, run_all
from .memory import Memory, Prefix
from .subject import Subject
from .watch import Notes, bounded_rewriter, snapshot, watched

Runs = tuple[Outputs, ...]
RUNS_UNTIL_SETTLED = 4
"""More runs of a pass that chooses by measurement; by then it finds nothing better."""
PLAIN_AND_OPTIMIZED: tuple[Optimize, ...] = ("none", "all")
IMPORT, OPSET, LEGALISE = "import", "opset", "legalise"
AGAIN = ", run again"
"""Behind the name of a step that runs a second time."""


@dataclass(frozen=True)
class Stage:
    """One step of the way and the graph behind it.

    promise: the weakest of what was offered. before, after: outputs of each feed, the runtime's
    optimisations off. tolerance: that the promise leaves; None: not one bit. moved: whether the
    contents digest did. touched: hooks that changed the graph where they must not. faces: what
    edits changed of the signature. again: edits when the pass runs a second time. problems:
    broken structural rules.
    """

    name: str
    promise: Semantics
    before: Runs
    after: Runs
    tolerance: float | None
    edits: int = 0
    moved: bool = False
    touched: tuple[str, ...] = ()
    faces: tuple[str, ...] = ()
    again: int = 0
    remarks: tuple[Remark, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stop:
    """Where the way ended early.

    restored: whether a failing pass left the graph as it was. running: the runtime failed on
    what the stage made, not the stage itself. touched, faces: see ``Stage``.
    """

    stage: str
    error: Exception
    restored: bool = True
    running: bool = False
    touched: tuple[str, ...] = ()
    faces: tuple[str, ...] = ()


@dataclass(frozen=True)
class Final:
    """The finished graph and its file.

    signature: as it is read from the file. plain, optimized: what the file computes, or why it
    does not run. digests: of the contents, before saving and after loading. file: digest of
    the file's bytes. restored: whether rolling everything back restores the imported graph.
    second: digest of the bytes when all is done again from the start, or the error that this gave;
    None where it was not (``Memory.twice``).
    """

    model: ir.Model
    signature: Signature
    problems: tuple[str, ...]
    plain: Runs | PlanishError
    optimized: Runs | PlanishError
    digests: tuple[str, str]
    restored: bool
    file: str
    second: str | Exception | None
    untrue: tuple[Untrue, ...]


@dataclass(frozen=True)
class Trial:
    """All that was seen. settled: outputs that two runs of the original agree on, bit by bit.

    skipped: why there is nothing to judge. plain, optimized: outputs of the original; the second
    is None where it does not run so. signature: after import.
    """

    subject: Subject
    case: Case
    skipped: str = ""
    plain: Runs = ()
    optimized: Runs | None = None
    settled: frozenset[str] = frozenset()
    signature: Signature | None = None
    untrue: tuple[Untrue, ...] = ()
    stages: tuple[Stage, ...] = ()
    stop: Stop | None = None
    final: Final | None = None

    @property
    def edits(self) -> int:
        """Edits of all passes together."""
        return sum(stage.edits for stage in self.stages)


def attempt(subject: Subject, case: Case, memory: Memory | None = None) -> Trial:
    """Try the subject on the case. Raises UsageError for a pipeline or target that is none.

    memory: what other subjects showed on the same case, and this one adds to.
    """
    subject.passes(), subject.load_target()
    memory = memory or Memory(prefixes=False)
    trial = memory.once("reference", lambda: _reference(Trial(subject, case)))
    trial = replace(trial, subject=subject)
    if trial.skipped:
        return replace(trial, stop=_import_alone(case))
    return _Attempt(trial, memory).run()


def _reference(trial: Trial) -> Trial:
    """What the original computes, twice, and once with the runtime's optimisations."""
    case = trial.case
    if not case.feeds:
        return replace(trial, skipped="the case has no feeds")
    data = case.model.SerializeToString()
    try:
        plain, again = run_all(data, case.feeds), run_all(data, case.feeds)
    except PlanishError as error:
        return replace(trial, skipped=f"the original does not run: {error.what}")
    except Exception as error:  # a value that the runtime's Python side cannot take or give
        return replace(trial, skipped=f"the original cannot be run: {error}")
    settled = frozenset(
        name
        for name in (plain[0] if plain else {})
        if all(
            difference(a[name], b[name], None) is None for a, b in zip(plain, again, strict=True)
        )
    )
    try:
        optimized = run_all(data, case.feeds, "all")
    except Exception:
        optimized = None
    return replace(trial, plain=plain, optimized=optimized, settled=settled)


def _import_alone(case: Case) -> Stop | None:
    """A model that the runtime refuses may be refused, but nothing else may happen."""
    try:
        load_model(case.model)
    except PlanishError:
        return None
    except Exception as error:
        return Stop(IMPORT, error)
    return None


@dataclass(frozen=True)
class _Start:
    """A case as passes get it. newer: at a later opset, where it can be had; else ``model``."""

    signature: Signature
    model: ir.Model
    newer: ir.Model


def _imported(case: Case) -> _Start:
    imported = load_model(case.model)
    return _Start(imported.signature, imported.model, _raised(imported.model))


@dataclass
class _Attempt:
    """The way of one model through the pipeline."""

    trial: Trial
    memory: Memory
    stages: list[Stage] = field(default_factory=list)
    settled: frozenset[str] = frozenset()
    stop: Stop | None = None

    @property
    def subject(self) -> Subject:
        """What is tried."""
        return self.trial.subject

    def run(self) -> Trial:
        try:
            start = self.memory.once("imported", lambda: _imported(self.trial.case))
        except Exception as error:
            return replace(self.trial, stop=Stop(IMPORT, error))
        begun, stages, self.stop = self.memory.once("begun", lambda: self._begun(start))
        self.trial = trial = replace(begun, subject=self.subject)
        self.stages, self.settled = list(stages), trial.settled
        final = None if self.stop else self._passes(start)
        return replace(trial, stages=tuple(self.stages), stop=self.stop, final=final)

    def _begun(self, start: _Start) -> tuple[Trial, list[Stage], Stop | None]:
        """The stages of the import."""
        trial, model = self.trial, start.model
        self.settled = trial.settled - random_outputs(model)
        found = tuple(untrue(model, trial.case.feeds))
        trial = replace(trial, signature=start.signature, settled=self.settled, untrue=found)
        self._add(IMPORT, Semantics.EXACT, trial.plain, model)
        if start.newer is not model and self.stop is None:
            self._add(OPSET, Semantics.REASSOCIATES, self.stages[-1].after, start.newer)
        return trial, self.stages, self.stop

    def _passes(self, start: _Start) -> Final | None:
        subject, signature, memory = self.subject, start.signature, self.memory
        steps, way = subject.passes(), ("first", subject.target, subject.exact)
        texts = tuple(str(step) for step, _ in steps)
        known = memory.longest(way, texts) or Prefix(0, start.newer.clone(), tuple(self.stages))
        self.stages, model = list(known.stages), known.model
        rewriter = bounded_rewriter(model)
        context = _context(subject, self.trial.case, model, signature)
        mark, whole = rewriter.checkpoint(), snapshot(model)
        for number, (step, pass_) in enumerate(steps[known.steps :], known.steps + 1):
            self._pass(step, pass_, rewriter, context, signature)
            if self.stop is not None:
                return None
            if number < len(steps):
                memory.put(way, texts[:number], model, tuple(self.stages))
        self._legalise(rewriter)
        if self.stop is not None:
            return None
        return _finished(self.trial, rewriter, signature, mark, whole, memory)

    def _pass(
        self,
        step: Step,
        pass_: Pass,
        rewriter: Rewriter,
        context: CompileContext,
        signature: Signature,
    ) -> None:
        model, notes, before = rewriter.model, Notes(), snapshot(rewriter.model)
        context.remarks.clear()
        manager = PassManager(rewriter, context, _instruments(signature))
        try:
            done = manager.run(watched(pass_, notes), selector=step.selector)
        except Exception as error:
            restored, seen = snapshot(model) == before, (tuple(notes.touched), tuple(notes.faces))
            self.stop = Stop(str(step), error, restored, False, *seen)
            return
        remarks, edits = tuple(context.remarks), len(done.edits)
        moved = contents_digest(model) != before[0]
        promise = max(notes.promises, key=list(Semantics).index, default=Semantics.EXACT)
        promise = Semantics.EXACT if self.trial.subject.exact else promise
        again = 0
        if promise is not Semantics.LOSSY:
            again = self._again(step, pass_, rewriter, context, signature)
        self._add(
            str(step), promise, self.stages[-1].after, model, edits=edits, moved=moved,
            touched=tuple(notes.touched), faces=tuple(notes.faces), again=again, remarks=remarks,
            problems=tuple(violations(model, signature)),
        )  # fmt: skip

    def _again(
        self,
        step: Step,
        pass_: Pass,
        rewriter: Rewriter,
        context: CompileContext,
        signature: Signature,
    ) -> int:
        """Edits that the pass makes when it runs once more; they are taken back.

        A pass that chooses numbers by what it measures may need a few runs until none is better.
        """
        mark, edits = rewriter.checkpoint(), 0
        try:
            for _ in range(1 if type(pass_).perturb is Pass.perturb else RUNS_UNTIL_SETTLED):
                manager = PassManager(rewriter, context, _refusing(signature))
                edits = len(manager.run(pass_, selector=step.selector).edits)
                if not edits:
                    break
            return edits
        except Exception as error:
            self.stop = Stop(f"{step}{AGAIN}", error)
            return 0
        finally:
            rewriter.rollback(mark)

    def _legalise(self, rewriter: Rewriter) -> None:
        try:
            with rewriter.edit(LEGALISE):
                done = legalise(rewriter)
        except Exception as error:
            self.stop = Stop(LEGALISE, error)
            return
        if done:
            lossy = any(s.promise is Semantics.LOSSY for s in self.stages)
            promise = Semantics.LOSSY if lossy else Semantics.REASSOCIATES
            self._add(LEGALISE, promise, self.stages[-1].after, rewriter.model)

    def _add(
        self, name: str, promise: Semantics, before: Runs, model: ir.Model, **more: object
    ) -> None:
        """Note a stage, unless its graph does not run."""
        try:
            after = run_all(to_bytes(model), self.trial.case.feeds)
        except Exception as error:
            self.stop = self.stop or Stop(name, error, running=True)
            return
        tolerance = promised_tolerance(model, exact=promise is Semantics.EXACT)
        self.stages.append(Stage(name, promise, before, after, tolerance, **more))  # type: ignore[arg-type]


def _raised(model: ir.Model) -> ir.Model:
    """As a compile does: at an opset that can be quantized, where that can be had."""
    try:
        return raised(model, QDQ_OPSET)
    except InputError:
        return model


def _context(subject: Subject, case: Case, model: ir.Model, signature: Signature) -> CompileContext:
    feeds = calibration(case.feeds, signature)
    return CompileContext(
        subject.load_target(), model, feeds, True, None, 1, Silent(), pipeline=subject.pipeline
    )


def _instruments(signature: Signature) -> Sequence[Instrument]:
    """The checks of a compile; the others only watch."""
    return [*_refusing(signature), RegionCheck()]


def _refusing(signature: Signature) -> Sequence[Instrument]:
    """Those that look at the graph alone; what they refuse once they have to refuse again."""
    return [VerifyEach(signature), KeepsPatterns()]


def _finished(
    trial: Trial,
    rewriter: Rewriter,
    signature: Signature,
    start: int,
    whole: tuple[object, ...],
    memory: Memory,
) -> Final:
    model = rewriter.model.clone()
    data = to_bytes(model)  # what a file would hold; files themselves take longer than all else
    loaded = ir.from_proto(onnx.load_from_string(data))
    plain, optimized = (_ran(data, trial.case, how) for how in PLAIN_AND_OPTIMIZED)
    digests = contents_digest(model), contents_digest(loaded)
    rewriter.rollback(start)
    return Final(
        model,
        Signature.of(loaded),
        tuple(violations(model, signature)),
        plain,
        optimized,
        digests,
        restored=snapshot(rewriter.model) == whole,
        file=_digest(data),
        second=_second(trial, memory) if memory.twice else None,
        untrue=tuple(untrue(model, trial.case.feeds)),
    )


def _ran(data: bytes, case: Case, how: Optimize) -> Runs | PlanishError:
    try:
        return run_all(data, case.feeds, how)
    except PlanishError as error:
        return error


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _second(trial: Trial, memory: Memory) -> str | Exception:
    """Digest of the file's bytes when all is done again from the start."""
    subject, case = trial.subject, trial.case
    try:
        start = memory.once("imported again", lambda: _imported(case))
        steps, way = subject.passes(), ("second", subject.target, subject.exact)
        texts = tuple(str(step) for step, _ in steps)
        known = memory.longest(way, texts) or Prefix(0, start.newer.clone())
        rewriter = bounded_rewriter(known.model)
        context = _context(subject, case, known.model, start.signature)
        manager = PassManager(rewriter, context, _instruments(start.signature))
        for number, (step, pass_) in enumerate(steps[known.steps :], known.steps + 1):
            manager.run(pass_, selector=step.selector)
            if number < len(steps):
                memory.put(way, texts[:number], known.model, ())
        with rewriter.edit(LEGALISE):
            legalise(rewriter)
        return _digest(to_bytes(rewriter.model))
    except Exception as error:
        return error


def as_skip(stop: Stop) -> str:
    """Why a stop is no failure: what the user asked for does not fit this model; else empty."""
    if isinstance(stop.error, UsageError):
        return f"{stop.stage}: {stop.error.what}"
    return ""
