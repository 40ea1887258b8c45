"""Instruments: what watches passes from outside. None of it is inside a pass.

Hooks: before_build (of a pipeline), before_pass, allow (may a candidate be applied?), after_edit
(may raise ``RejectedError`` to have the edit undone), after_pass, on_failure.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ..ir.digest import contents_digest
from ..ir.errors import InputError, PassError, PlanishError, UsageError, VerifyError
from ..ir.graph import all_nodes
from ..ir.provenance import Edit
from ..ir.rewriter import EditRecord
from ..ir.save import save_model
from ..ir.signature import Signature
from ..ir.verify import verify
from ..passes.api import Candidate, Pass, Perturbation, Semantics
from .context import CompileContext, values_by_name
from .execution import running
from .pipeline import Pipeline, parse
from .regions import Reference, compare

WHOLE_GRAPH_TOLERANCE = 1e-4
"""Relative to the largest output, for passes that reassociate over the whole graph."""
COARSE_TOLERANCES = {ir.DataType.FLOAT16: 2.0**-6, ir.DataType.BFLOAT16: 2.0**-3}
"""The same where the graph computes in so few bits: 32 units in the last place."""
ROUNDING_TOLERANCE = 2.0**-5
"""The same behind quantizers, in which a difference in the last place may flip a rounding."""
QUANTIZERS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
FLIPPED_SHARE = 1e-3
"""Share of class numbers and flags that a reassociation may flip."""


class RejectedError(Exception):
    """An instrument's veto: the edit is undone and the reason becomes a remark."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True)
class PassEvent:
    """A pass at work on a model."""

    pass_: Pass
    model: ir.Model
    context: CompileContext


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
    """The structural verifier after every edit, against the frozen signature."""

    signature: Signature

    def after_edit(self, event: EditEvent) -> None:
        try:
            verify(event.during.model, self.signature, where=event.record.id)
        except VerifyError as error:
            raise RejectedError("not-well-formed", str(error)) from error


@dataclass
class RegionCheck(Instrument):
    """The lowered region computes its perturbed reference; whole graphs before and after."""

    _before: dict[str, np.ndarray] = field(default_factory=dict)

    def before_pass(self, event: PassEvent) -> None:
        self._before = _outputs(event) if event.pass_.semantics is not Semantics.LOSSY else {}

    def after_edit(self, event: EditEvent) -> None:
        if event.perturbation is None or event.reference is None:
            return
        check = compare(
            event.during.model,
            event.perturbation,
            values_by_name(event.during.model),
            event.reference,
            event.during.context.threads,
        )
        if not check.agrees:
            raise RejectedError("region-differs", f"the lowered region differs: {check.sentence}")

    def after_pass(self, event: PassEvent, edits: Sequence[Edit]) -> None:
        if not edits or event.pass_.semantics is Semantics.LOSSY:
            return
        exact = event.pass_.semantics is Semantics.EXACT
        tolerance = None if exact else whole_graph_tolerance(event.model)
        for name, array in _outputs(event).items():
            if not _same(self._before[name], array, tolerance):
                raise _broken_promise(event.pass_.name, name)


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
    """On failure: the model before the failing pass, the pipeline from there, the command."""

    folder: Path
    command: str

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
        (self.folder / "command.txt").write_text(self.command + "\n", encoding="utf8")


def _from(event: PassEvent) -> Pipeline:
    """The pipeline that is being built, from the pass at work on."""
    steps = parse(event.context.pipeline)
    names = [step.name for step in steps]
    return Pipeline(steps[names.index(event.pass_.name) :])


def _outputs(event: PassEvent) -> dict[str, np.ndarray]:
    """All outputs on a sample feed, the runtime's optimisations off."""
    feed = event.context.sample_feed()
    with running(event.model, threads=event.context.threads, optimize="none") as session:
        return dict(zip(session.output_names, session.run(feed), strict=True))


def whole_graph_tolerance(model: ir.Model) -> float:
    """How far outputs may move, relative to the largest, where a pass reassociates."""
    nodes = list(all_nodes(model))
    dtypes = {output.dtype for node in nodes for output in node.outputs}
    found = [COARSE_TOLERANCES[d] for d in dtypes if d in COARSE_TOLERANCES]
    if any(node.op_type in QUANTIZERS for node in nodes):
        found.append(ROUNDING_TOLERANCE)
    return max(found, default=WHOLE_GRAPH_TOLERANCE)


def _same(before: np.ndarray, after: np.ndarray, tolerance: float | None) -> bool:
    """Whether outputs are equal, bit for bit without a tolerance."""
    if before.shape != after.shape or before.dtype != after.dtype:
        return False
    if tolerance is None or before.size == 0:
        return before.tobytes() == after.tobytes()
    if before.dtype.kind != "f":
        return float(np.mean(before != after)) <= FLIPPED_SHARE
    finite = before[np.isfinite(before)]
    bound = tolerance * (float(np.abs(finite).max()) if finite.size else 0.0)
    return bool(np.allclose(before, after, rtol=0.0, atol=bound, equal_nan=True))


def _broken_promise(pass_name: str, output: str) -> PassError:
    return PassError(
        f"the pass changed output {output!r} although it promises not to",
        where=pass_name,
        hint="please report this with the reproducer; leave the pass out meanwhile",
    )
