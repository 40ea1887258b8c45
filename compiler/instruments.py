"""Instruments: what watches passes from outside. None of it is inside a pass.

Hooks: before_build (of a pipeline), before_pass, allow (may a candidate be applied?), after_edit
(may raise ``RejectedError`` to have the edit undone), after_pass, on_failure.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..ir.digest import contents_digest
from ..ir.editing.strays import Look, Touched, strays
from ..ir.errors import InputError, PassError, PlanishError, UsageError, VerifyError
from ..ir.provenance import Edit
from ..ir.rewriter import EditRecord, Rewriter
from ..ir.save import save_model
from ..ir.signature import Signature
from ..ir.verify import verify
from ..passes.api import Candidate, Pass, Perturbation, Semantics, promise_of
from .checking.regions import Reference, compare
from .context import CompileContext
from .execution import running
from .pipeline import Pipeline, parse
from .quality.equality import each_difference, promised_tolerance, random_outputs
from .quality.noise import is_noise

LOOKED_THROUGH = 100
"""Edits, each a run of the model, among which the one that broke a promise is looked for."""


class RejectedError(Exception):
    """An instrument's veto: the edit is undone and the reason becomes a remark."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class BrokenPromiseError(PassError):
    """Edits changed an output although the pass promises not to. site: of the first that did."""

    def __init__(
        self, pass_name: str, promise: Semantics, output: str, found: str, site: str = ""
    ) -> None:
        super().__init__(
            f"the pass changed output {output!r} although it promises not to: {found}",
            where=f"{pass_name} at {site}" if site else pass_name,
            hint="please report this with the reproducer; leave the pass out meanwhile",
        )
        self.promise = promise


class StrayEditError(PassError):
    """A pass changed the graph behind the rewriter's back, so rollback cannot undo it."""


@dataclass(frozen=True)
class PassEvent:
    """A pass at work on a model."""

    pass_: Pass
    model: ir.Model
    context: CompileContext
    rewriter: Rewriter


@dataclass(frozen=True)
class EditEvent:
    """An edit that was lowered and not yet committed."""

    during: PassEvent
    candidate: Candidate
    perturbation: Perturbation | None
    reference: Reference | None
    record: EditRecord
    edit: Edit


class Instrument:
    """Base of instruments; every hook does nothing."""

    def before_build(self) -> None:
        """A pipeline is about to be applied to the imported model."""

    def before_pass(self, event: PassEvent) -> None:
        """The pass is about to look for candidates."""

    def allow(self, event: PassEvent, candidate: Candidate) -> bool:
        """Whether the candidate may be applied."""
        return True

    def after_edit(self, event: EditEvent) -> None:
        """The edit is in the graph; raise ``RejectedError`` to undo it."""

    def after_pass(self, event: PassEvent, edits: Sequence[Edit]) -> None:
        """The pass is done."""

    def on_failure(self, event: PassEvent, error: BaseException) -> None:
        """The pass raised; the model is as it was before."""


@dataclass
class VerifyEach(Instrument):
    """The structural rules after every edit, against the frozen signature.

    After an edit they are checked where it touched the graph, which is all that it can have
    broken if it went through the rewriter; that every edit did is checked at the end of the pass,
    and then the whole graph is.
    """

    signature: Signature
    _look: Look | None = None
    _touched: Touched = field(default_factory=Touched)

    def before_pass(self, event: PassEvent) -> None:
        self._look, self._touched = Look.at(event.model), Touched()

    def after_edit(self, event: EditEvent) -> None:
        self._touched.add(event.record.footprint)
        try:
            event.during.rewriter.verify(event.record, self.signature)
        except VerifyError as error:
            raise RejectedError("not-well-formed", str(error)) from error

    def after_pass(self, event: PassEvent, edits: Sequence[Edit]) -> None:
        name = event.pass_.name
        found = list(strays(self._look, event.model, self._touched)) if self._look else []
        self._look = None
        if found:
            raise StrayEditError(
                f"the pass changed the graph behind the rewriter's back: {', '.join(found[:3])}",
                where=name,
                hint="change graphs through the rewriter only; this one is not as it was before",
            )
        verify(event.model, self.signature, where=name)


@dataclass
class RegionCheck(Instrument):
    """The lowered region computes its perturbed reference, and promises about outputs are kept.

    Edits in a row with the same promise are a stretch. Outputs of the whole graph are compared
    before and after each stretch whose promise is EXACT or REASSOCIATES, the runtime's
    optimisations off. Outputs that depend on random numbers are left out. Where they differ, edits
    are undone, the last first, until they do not: the pass is taken back then anyway.
    """

    _held: dict[str, Any] | None = None
    _promise: Semantics | None = None
    _edits: list[tuple[str, int]] = field(default_factory=list)
    """What edits of the stretch are called, each with the checkpoint behind it."""

    def before_pass(self, event: PassEvent) -> None:
        self._held, self._promise = None, None
        self._edits.clear()

    def allow(self, event: PassEvent, candidate: Candidate) -> bool:
        promise = promise_of(event.pass_, candidate)
        if promise is not self._promise:
            self._turn(event, promise)
        return True

    def after_edit(self, event: EditEvent) -> None:
        asked = event.candidate
        name = f"graph ({asked.setting})" if asked.site == "graph" else asked.site
        self._edits.append((name, event.during.rewriter.checkpoint()))
        check_lowered(event)

    def after_pass(self, event: PassEvent, edits: Sequence[Edit]) -> None:
        self._turn(event, None)

    def _turn(self, event: PassEvent, promise: Semantics | None) -> None:
        """End the present stretch, and begin one of edits that promise something else."""
        if self._edits:
            self._held = self._checked(event)
        self._promise = promise
        self._edits.clear()
        if self._held is None and promise not in (None, Semantics.LOSSY):
            self._held = _outputs(event)

    def _checked(self, event: PassEvent) -> dict[str, Any] | None:
        """The outputs now, compared with those before the stretch."""
        if self._promise in (None, Semantics.LOSSY) or self._held is None:
            return None
        now = _outputs(event)
        exact = self._promise is Semantics.EXACT
        tolerance = promised_tolerance(event.model, exact=exact)
        for name, found in each_difference(self._held, now, tolerance):
            if not exact and self._is_noise(event, name, now):
                continue
            site = self._culprit(event, tolerance)
            raise BrokenPromiseError(event.pass_.name, self._promise, name, found, site)
        return now

    def _is_noise(self, event: PassEvent, name: str, now: dict[str, Any]) -> bool:
        """Whether it is rounding alone by which an output differs; a remark says so."""
        assert self._held is not None
        if not is_noise(event.model, name, self._held[name], now[name], partial(_outputs, event)):
            return False
        said = (
            "the output is nothing but rounding: it differs, and would in any other order of sums"
        )
        event.context.remark("note", name, "rounding-noise", said)
        return True

    def _culprit(self, event: PassEvent, tolerance: float | None) -> str:
        """The first edit behind which outputs differ; "" where that would take long to find."""
        if len(self._edits) > LOOKED_THROUGH:
            return ""
        for number in reversed(range(1, len(self._edits))):
            event.rewriter.undo(self._edits[number - 1][1])
            try:
                now = _outputs(event)
            except PlanishError:
                return ""
            assert self._held is not None
            if not any(True for _ in each_difference(self._held, now, tolerance)):
                return self._edits[number][0]
        return self._edits[0][0]


@dataclass
class Timing(Instrument):
    """Seconds spent in each pass, summed over its runs."""

    seconds: dict[str, float] = field(default_factory=dict)
    _start: float = 0.0

    def before_pass(self, event: PassEvent) -> None:
        self._start = time.perf_counter()

    def after_pass(self, event: PassEvent, edits: Sequence[Edit]) -> None:
        name, spent = event.pass_.name, time.perf_counter() - self._start
        self.seconds[name] = self.seconds.get(name, 0.0) + spent


@dataclass
class Bisect(Instrument):
    """Applies only the first ``limit`` edits, in their stable order; counts all."""

    limit: int
    count: int = 0

    def before_build(self) -> None:
        self.count = 0

    def allow(self, event: PassEvent, candidate: Candidate) -> bool:
        self.count += 1
        runs = self.count <= self.limit
        word = "running" if runs else "NOT running"
        event.context.progress.note(
            f"bisect: {word} edit {self.count}: {event.pass_.name} at {candidate.site}"
        )
        return runs


@dataclass
class Snapshots(Instrument):
    """The model after each pass that changed it, as numbered files in a folder."""

    folder: Path
    count: int = 0
    _digest: str = ""

    def before_pass(self, event: PassEvent) -> None:
        self._digest = contents_digest(event.model)

    def after_pass(self, event: PassEvent, edits: Sequence[Edit]) -> None:
        if contents_digest(event.model) == self._digest:
            return
        self.count += 1
        self.folder.mkdir(parents=True, exist_ok=True)
        save_model(event.model, self.folder / f"{self.count:03d}-{event.pass_.name}.onnx")


@dataclass
class Reproducer(Instrument):
    """On failure: the model before the failing pass, the pipeline from there, the command.

    command: as it was given. model: what it names the model that is compiled.
    """

    folder: Path
    command: str
    model: str = ""

    def on_failure(self, event: PassEvent, error: BaseException) -> None:
        # A wrong selector or a full disk is no defect of the pass.
        theirs = isinstance(error, (UsageError, InputError)) or type(error) is PlanishError
        if theirs or not isinstance(error, PlanishError):
            return
        told = f"a reproducer is in {self.folder}"
        try:
            self._write(event)
        except (OSError, PlanishError):  # the failure itself is what the user must hear of
            told = f"a reproducer cannot be written to {self.folder}"
        error.hint = "; ".join(filter(None, [error.hint, told]))

    def _write(self, event: PassEvent) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        save_model(event.model, self.folder / "model.onnx")
        (self.folder / "pipeline.txt").write_text(f"{_from(event)}\n", encoding="utf8")
        text = _again(self.command, self.model, self.folder / "model.onnx", str(_from(event)))
        (self.folder / "command.txt").write_text(text, encoding="utf8")


def _again(command: str, name: str, model: Path, pipeline: str) -> str:
    """What shows the failure again, and the command as it was given; that alone where it names no
    model."""
    given, words = f"{command}\n", list[str]()
    for word in (asked := iter(shlex.split(command))):
        if word == "--passes":
            next(asked, None)
        elif not word.startswith("--passes="):
            words.append(str(model.absolute()) if word == name else word)
    if not name or str(model.absolute()) not in words:
        return given
    again = shlex.join([*words, "--passes", pipeline])
    was = command.replace("\n", "\n# ")  # a file's name may hold line ends: they end no comment
    return f"cd {shlex.quote(str(Path.cwd()))} && {again}\n# it was: {was}\n"


def check_lowered(event: EditEvent) -> None:
    """Raise ``RejectedError`` where the lowered region does not compute its reference."""
    if event.perturbation is None or event.reference is None:
        return
    check = compare(
        event.during.model,
        event.perturbation,
        region_bounds(event),
        event.reference,
        event.during.context.threads,
    )
    if not check.agrees:
        raise RejectedError("region-differs", f"the lowered region differs: {check.sentence}")


def region_bounds(event: EditEvent) -> dict[str, ir.Value]:
    """The values that bound the edited region and are still there, by name."""
    assert event.perturbation is not None
    names = (*event.perturbation.inputs, *event.perturbation.outputs)
    found = {name: event.during.rewriter.value(name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _from(event: PassEvent) -> Pipeline:
    """The pipeline that is being built, from the pass at work on."""
    steps = parse(event.context.pipeline)
    names = [step.name for step in steps]
    return Pipeline(steps[names.index(event.pass_.name) :])


def _outputs(event: PassEvent, model: ir.Model | None = None) -> dict[str, Any]:
    """Outputs on a sample feed, the runtime's optimisations off; random ones are left out.

    model: another one with the same face; default: the one that the pass is at.
    """
    feed, drawn = event.context.sample_feed(), random_outputs(event.model)
    with running(model or event.model, threads=event.context.threads, optimize="none") as session:
        found = zip(session.output_names, session.run(feed), strict=True)
        return {name: value for name, value in found if name not in drawn}
