"""The pass manager: candidates -> choose -> perturb, measure, lower, check -> commit or undo.

All checks and all bookkeeping that is not the edit itself hang on instruments; see
``instruments``. A pass that raises leaves the model as it was before the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import numpy as np

from ..ir.errors import PassError, PlanishError, VerifyError
from ..ir.provenance import Edit
from ..ir.rewriter import EditRecord, Rewriter
from ..passes.api import SITES, Candidate, Pass, Perturbation, Refusal, Semantics
from .checking.regions import Reference, added_loss, reference
from .conduct import conduct
from .context import CompileContext
from .giving_back import GIVEN_BACK, HELD_BACK
from .guard import Guard
from .instruments import (
    BrokenPromiseError,
    EditEvent,
    Instrument,
    PassEvent,
    RejectedError,
    StrayEditError,
    region_bounds,
)

FAILED = "pass-failed"
"""Code of remarks on passes that failed and were left out, as the user asked."""
DEFECTS = ("not-well-formed", "region-differs")
"""Codes of edits that are undone, and that speak of a defect of their pass."""
CHUNK = 16
"""Candidates that are perturbed, and whose region inputs are sampled, in one go at first."""
HELD_BYTES = 256 << 20
"""Later as many as need about so much memory: each go runs the model from its inputs."""


_PROMISED = {
    Semantics.EXACT: "mend what it computes; where it is equal in real arithmetic only, promise "
    "REASSOCIATES. planish test-pass shows the smallest graph that differs",
    Semantics.REASSOCIATES: "mend what it computes; planish test-pass shows the smallest graph "
    "that differs",
}
"""What to do about a promise that a pass of one's own broke."""

Planned = tuple[Candidate, Perturbation | None]
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Measured:
    """The declared loss of an edit, what the runtime's kernel adds to it (None: nothing), and what
    the edit alone does to the outputs (None: not measured)."""

    loss: float
    runtime: float | None = None
    output: float | None = None


@dataclass
class PassOutcome:
    """What one pass did. ``mark`` is the journal position before it."""

    name: str
    mark: int
    edits: list[Edit] = field(default_factory=list)


@dataclass
class PassManager:
    """Runs passes over one model under a list of instruments.

    losses: what was measured and checked of an edit already, by stage, site and setting; a
    rebuild of the same edit is not measured again. stage: the pipeline up to this pass. reasons:
    why sites are given back, by pass and site, where it is not the quality bound.
    """

    rewriter: Rewriter
    context: CompileContext
    instruments: Sequence[Instrument]
    losses: dict[tuple[str, str, str], Measured] = field(default_factory=dict)
    stage: str = ""
    reasons: Mapping[tuple[str, str], str] = field(default_factory=dict)
    _site: str = ""
    _guard: Guard = field(init=False)
    _known: frozenset[tuple[str, str]] = frozenset()
    _operations: Mapping[str, int | None] = field(default_factory=dict)

    def run(
        self,
        pass_: Pass,
        *,
        exclude: frozenset[str] = frozenset(),
        selector: tuple[str, ...] = (),
    ) -> PassOutcome:
        """Run one pass on the selected sites (all by default).

        Sites in ``exclude`` were given back to hold the quality bound and are left alone.

        Raises PassError naming the pass and the site, unless such passes are to be skipped; the
        model is then as before the pass.
        """
        model, context = self.rewriter.model, self.context
        outcome = PassOutcome(pass_.name, self.rewriter.checkpoint())
        context.begin_pass(pass_.name, model)
        event, self._site = PassEvent(pass_, model, context, self.rewriter), ""
        if pass_.joint and exclude:
            self.stage += f" without {sorted(exclude)}"
        self._guard = Guard(pass_, self.rewriter, conduct().timeout)
        if (known := conduct().failed.get(self.stage)) is not None:
            return self._skipped(outcome, known)
        self._known = frozenset((s, c) for stage, s, c in self.losses if stage == self.stage)
        try:
            for instrument in self.instruments:
                instrument.before_pass(event)
            outcome.edits.extend(self._edits(pass_, exclude, selector, event))
            for instrument in reversed(self.instruments):
                instrument.after_pass(event, outcome.edits)
        except BaseException as error:
            self.rewriter.rollback(outcome.mark)
            self._guard.put_back()
            named = self._named(error, pass_)
            for instrument in self.instruments:
                instrument.on_failure(event, named)
            if isinstance(named, (PassError, VerifyError)) and conduct().on_failure == "skip":
                return self._skipped(outcome, named)
            raise named from (None if named is error else error)
        finally:
            self.rewriter.tidy()
        return outcome

    def undo(self, outcome: PassOutcome) -> None:
        """Take back a whole pass (and all that came after it)."""
        self.rewriter.rollback(outcome.mark)

    # -- inside ------------------------------------------------------------------------

    def _skipped(self, outcome: PassOutcome, error: PlanishError) -> PassOutcome:
        """Go on without a pass that failed."""
        conduct().failed[self.stage] = error
        where = self._guard.without_folder(error.where)
        said = f"{error.what} ({where})" if where else error.what
        self.context.remark("missed", "graph", FAILED, said)
        self.context.progress.note(f"{outcome.name} is left out: {said}")
        return PassOutcome(outcome.name, outcome.mark)

    def _named(self, error: BaseException, pass_: Pass) -> BaseException:
        """Errors of the pass with its name, the site, and where it is written."""
        error = self._guard.judged(error)
        if isinstance(error, (PassError, VerifyError)):
            self._guard.blame(error)
        if isinstance(error, StrayEditError) and not self._guard.trusted:
            error.hint = "change graphs through the rewriter only; this one was put back"
        if isinstance(error, BrokenPromiseError) and not self._guard.known:
            error.hint = _PROMISED[error.promise]
        return _named(error, pass_, self._site)

    def _edits(
        self, pass_: Pass, exclude: frozenset[str], selector: tuple[str, ...], event: PassEvent
    ) -> Iterator[Edit]:
        """As long as a pass that asks for it finds more to do, round after round."""
        for round_ in range(pass_.rounds):
            edits = 0
            for edit in self._round(pass_, exclude, selector, event):
                edits += 1
                yield edit
            if not edits or round_ + 1 == pass_.rounds:
                return
            self.context.begin_pass(pass_.name, self.rewriter.model)

    def _round(
        self, pass_: Pass, exclude: frozenset[str], selector: tuple[str, ...], event: PassEvent
    ) -> Iterator[Edit]:
        chosen = self._choose(pass_, exclude, selector)
        self.context.chosen = tuple(candidate.site for candidate in chosen)
        self.context.progress.phase(pass_.name, len(chosen))
        if type(pass_).perturb is not Pass.perturb:
            self.context.values_before  # noqa: B018 - kept, as perturbations speak of it
        self._operations = self.context.operations() if chosen else {}
        start, size = 0, CHUNK if self.context.limit is None else 1
        while start < len(chosen):
            planned = [(c, self._perturbed(pass_, c)) for c in chosen[start : start + size]]
            samples = self._samples(planned)
            start += size
            if self.context.limit is None:
                size = _next_size(size, _held_bytes(planned, samples))
            moved = self._moved(pass_, planned)
            yield from self._apply_all(pass_, planned, samples, moved, event)

    def _choose(
        self, pass_: Pass, exclude: frozenset[str], selector: tuple[str, ...]
    ) -> list[Candidate]:
        """One candidate a site: the first offered; refusals become remarks."""
        selected = self._selected(pass_, selector)
        chosen: dict[tuple[str, str], Candidate] = {}
        for offer in self._guard.candidates(self.context):
            if not selected(offer.site):
                continue
            if isinstance(offer, Refusal):
                self.context.remark("refused", offer.site, offer.code, offer.sentence)
            elif offer.site in exclude:
                sentence = self.reasons.get((pass_.name, offer.site), HELD_BACK)
                self.context.remark("refused", offer.site, GIVEN_BACK, sentence)
            elif reason := self.context.no_room(offer):
                self.context.remark("refused", offer.site, "memory", reason)
            else:
                key = (offer.site, offer.setting if offer.site == "graph" else "")
                chosen.setdefault(key, offer)
        return list(chosen.values())

    def _selected(self, pass_: Pass, selector: tuple[str, ...]) -> Callable[[str], bool]:
        if not selector:
            return lambda name: True
        if pass_.by_node:
            return lambda name: any(fnmatchcase(name, text) for text in selector)
        sites = self.context.analysis(SITES)
        return {site.name for text in selector for site in sites.select(text)}.__contains__

    def _samples(self, planned: Sequence[Planned]) -> Arrays:
        """What the regions that have not been measured yet read, by value name."""
        new = [p for c, p in planned if p is not None and self._is_new(c)]
        names = sorted({n for p in new for n in p.inputs})
        return self.context.samples(self.context.before, names) if names else {}

    def _moved(self, pass_: Pass, planned: Sequence[Planned]) -> Mapping[str, float | None]:
        """What those that lose something, and are new, do to the outputs; by site."""
        lossy = pass_.semantics is Semantics.LOSSY
        new = {c.site: p for c, p in planned if lossy and p is not None and self._is_new(c)}
        return dict(zip(new, self.context.output_changes([*new.values()]), strict=True))

    def _apply_all(
        self,
        pass_: Pass,
        planned: Sequence[Planned],
        samples: Arrays,
        moved: Mapping[str, float | None],
        event: PassEvent,
    ) -> Iterator[Edit]:
        context = self.context
        for candidate, perturbation in planned:
            ref, self._site = None, candidate.site
            if perturbation is not None and self._is_new(candidate):
                values = context.values_before
                ref = reference(context.before, perturbation, values, samples, context.threads)
            edit = self._apply(
                pass_, candidate, perturbation, ref, moved.get(candidate.site), event
            )
            context.progress.advance()
            if edit is not None:
                yield edit

    def _perturbed(self, pass_: Pass, candidate: Candidate) -> Perturbation | None:
        self._site = candidate.site
        return self._guard.perturb(candidate, self.context)

    def _is_new(self, candidate: Candidate) -> bool:
        return (candidate.site, candidate.setting) not in self._known

    def _apply(
        self,
        pass_: Pass,
        candidate: Candidate,
        perturbation: Perturbation | None,
        ref: Reference | None,
        moved: float | None,
        event: PassEvent,
    ) -> Edit | None:
        if not all(i.allow(event, candidate) for i in self.instruments):
            return None
        mark = self.rewriter.checkpoint()
        self.context.begin_editing()
        with self.rewriter.edit(f"{pass_.name}/{candidate.site}") as record:
            self._guard.lower(candidate, perturbation, self.context)
        if not self.rewriter.moved(record):
            self.rewriter.undo(mark)
            return None
        key = (self.stage, candidate.site, candidate.setting)
        measured = self.losses.get(key) if ref is None else Measured(ref.loss, output=moved)
        declared = measured if pass_.semantics is Semantics.LOSSY else None
        edit = _describe(pass_, candidate, record, declared)
        happened = EditEvent(event, candidate, perturbation, ref, record, edit)
        try:
            for instrument in self.instruments:
                instrument.after_edit(happened)
            self._guard.check_edit(record)
            edit = replace(edit, saving=self._guard.saved(candidate.saving))
        except RejectedError as reason:
            if reason.code in DEFECTS and not self._guard.trusted:
                raise PassError(str(reason)) from reason
            self.rewriter.undo(mark)
            self.context.remark("missed", candidate.site, reason.code, str(reason))
            return None
        if edit.saving < candidate.saving:
            said = f"the pass states that {candidate.saving} bytes are saved; it is {edit.saving}"
            self.context.remark("note", candidate.site, "saving-overstated", said)
        if measured is not None:
            measured = replace(measured, runtime=_added(happened, measured.runtime))
            edit = replace(
                edit,
                runtime_loss=measured.runtime if declared else None,
                operations=self._operations.get(candidate.site) if declared else None,
            )
            self.losses[key] = measured
        self.context.remark("applied", candidate.site, candidate.setting, _sentence(edit))
        return edit


def _held_bytes(planned: Sequence[Planned], samples: Arrays) -> int:
    """Bytes of samples and of new weights, which ``lower`` finds once more in the payload."""
    tensors = [a for _, p in planned if p is not None for a in p.tensors.values()]
    return sum(a.nbytes for a in samples.values()) + 2 * sum(a.nbytes for a in tensors)


def _next_size(size: int, held: int) -> int:
    """As many candidates as fit, but not many times more than were seen."""
    return max(CHUNK, min(8 * size, HELD_BYTES * size // max(held, 1)))


def _added(event: EditEvent, known: float | None) -> float | None:
    """What the kernels of a lowered region add to its reference; known of an edit made before."""
    if event.perturbation is None or event.reference is None:
        return known
    during = event.during
    bounds, threads = region_bounds(event), during.context.threads
    return added_loss(during.model, event.perturbation, bounds, event.reference, threads)


def _describe(
    pass_: Pass, candidate: Candidate, record: EditRecord, measured: Measured | None
) -> Edit:
    return Edit(
        id=record.id,
        pass_name=pass_.name,
        site=candidate.site,
        setting=candidate.setting,
        before=tuple(record.removed),
        after=tuple(str(n.name) for n in record.added),
        lineage=pass_.lineage,
        origins=tuple(record.origins),
        loss=None if measured is None else measured.loss,
        output_loss=None if measured is None else measured.output,
        saving=candidate.saving,
        details=candidate.details,
    )


def _sentence(edit: Edit) -> str:
    loss = "" if edit.loss is None else f", relative squared error {edit.loss:.2e}"
    return f"{edit.setting}: {edit.saving} bytes saved{loss}"


def _named(error: BaseException, pass_: Pass, site: str) -> BaseException:
    """Errors of the pass with its name and the site; input errors and interrupts as they are."""
    place = f"{pass_.name} at {site}" if site else pass_.name
    if isinstance(error, PassError) and not _says(error.where, pass_.name):
        error.where = f"{place}: {error.where}" if error.where else place
    if isinstance(error, (PlanishError, MemoryError)) or not isinstance(error, Exception):
        return error
    return PassError(
        f"the pass failed with {type(error).__name__}: {error}",
        where=place,
        hint="the model is as it was before the pass",
    )


def _says(where: str, name: str) -> bool:
    """Whether a place names the pass already; that its file is called so does not count."""
    return (
        where == name
        or where.startswith((f"{name} at ", f"{name}: "))
        or where.endswith(f": {name}")
        or f": {name} at " in where
    )
