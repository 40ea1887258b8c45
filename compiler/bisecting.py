"""Which edit broke a model: a search over the edit log, each step a build that is judged.

The first n edits of a pipeline, in their stable order, are applied and what comes out is held
against the bound, for n chosen by bisection. Source of the idea: LLVM's -opt-bisect-limit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..ir.errors import UsageError
from ..ir.provenance import Edit
from ..passes.api import Candidate
from .garbage import rarely_collecting
from .instruments import Instrument, PassEvent
from .prepare import Prepared, Request, prepare
from .progress import Progress
from .result import Quality
from .workshop import GivenBack, Judged

Key = tuple[str, str, str]
"""Pass, site and setting of an edit."""
PROBES = 3
"""Numbers of edits that are tried beside those of the search: is more ever better?"""


@dataclass
class Chosen(Instrument):
    """Applies the first ``limit`` edits but those in ``without``, and counts what is offered."""

    limit: int | None = None
    without: frozenset[Key] = frozenset()
    count: int = 0

    def before_build(self) -> None:
        self.count = 0

    def allow(self, event: PassEvent, candidate: Candidate) -> bool:
        if (event.pass_.name, candidate.site, candidate.setting) in self.without:
            return False
        self.count += 1
        return self.limit is None or self.count <= self.limit


@dataclass(frozen=True)
class Step:
    """A build with the first ``edits`` edits. metric: None where the outputs' drift decides."""

    edits: int
    broken: bool
    sentence: str
    metric: float | None


@dataclass(frozen=True)
class Found:
    """What bisection found. total: edits of the whole pipeline. original: the metric before.

    culprit: the edit; None where the model is over the bound without any edit (``start``).
    before, after: the steps without and with it. alone: whether all edits but this one hold the
    bound. odd: steps that say otherwise than the search assumes: that more edits are never better.
    """

    pipeline: str
    gate: str
    total: int
    start: Step
    whole: Step
    culprit: Edit | None = None
    before: Step | None = None
    after: Step | None = None
    rest: Step | None = None
    original: float | None = None
    odd: tuple[Step, ...] = ()
    steps: tuple[Step, ...] = ()

    @property
    def alone(self) -> bool:
        """Whether the model holds the bound once this edit alone is left out."""
        return self.rest is not None and not self.rest.broken


def bisect(request: Request, given_back: GivenBack, progress: Progress) -> Found:
    """The edit of ``request.pipeline`` with which the model goes over the bound.

    given_back: sites by pass that stay as they are. Raises UsageError where the model holds the
    bound with all edits, and where there are none.
    """
    with rarely_collecting(), tempfile.TemporaryDirectory(prefix="planish-") as folder:
        prepared = prepare(request, Path(folder), progress)
        if prepared.workshop.bench is None:
            raise UsageError(
                f"bisection runs the whole model: {prepared.estimate.shortage}",
                hint="give more with --max-memory",
            )
        return _Search(request.pipeline or "", given_back, prepared, progress).run()


@dataclass
class _Search:
    pipeline: str
    given_back: GivenBack
    prepared: Prepared
    progress: Progress
    chosen: Chosen = field(default_factory=Chosen)
    gate: str = ""
    original: float | None = None
    _known: dict[int, tuple[Step, tuple[Edit, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        workshop = self.prepared.workshop
        workshop.instruments = [*workshop.instruments, self.chosen]

    def run(self) -> Found:
        whole = self._whole()
        start = self._at(0)
        found = Found(self.pipeline, self.gate, whole.edits, start, whole, original=self.original)
        if start.broken:
            return found
        low, high = 0, whole.edits
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._at(middle).broken else (middle, high)
        searched = sorted(self._known)
        culprit = self._edits(high)[-1]
        rest = self._without(culprit)
        odd = self._odd(low, high, whole.edits, searched)
        steps = tuple(self._known[n][0] for n in sorted(self._known))
        return Found(
            self.pipeline, self.gate, whole.edits, start, whole, culprit, self._at(low),
            self._at(high), rest, self.original, odd, steps,
        )  # fmt: skip

    def _whole(self) -> Step:
        """With all edits. Raises UsageError where there is nothing to look for."""
        step, edits = self._measured(None)
        total = self.chosen.count  # those that were undone again count, too
        if not edits:
            raise UsageError(
                "no pass of the pipeline edits this model", where=self.pipeline,
                hint="give the pipeline that broke it with --passes or --plan",
            )  # fmt: skip
        if not step.broken:
            raise UsageError(
                f"nothing to look for: with all {len(edits)} edits {step.sentence}",
                where=self.gate,
                hint="give a tighter --max-drop or --max-drift, or data with --holdout",
            )
        step = replace(step, edits=total)
        self._known[total] = step, edits
        return step

    def _odd(self, low: int, high: int, total: int, known: Sequence[int]) -> tuple[Step, ...]:
        """Steps below the found edit that are over the bound, and above it that hold it."""
        spread = [round(i * total / (PROBES + 1)) for i in range(1, PROBES + 1)]
        tried = [self._at(n) for n in dict.fromkeys([*spread, *known])]
        return tuple(
            s for s in tried if (s.edits < low and s.broken) or (s.edits > high and not s.broken)
        )

    def _at(self, count: int) -> Step:
        if count not in self._known:
            self._known[count] = self._measured(count)
        return self._known[count][0]

    def _edits(self, count: int) -> tuple[Edit, ...]:
        self._at(count)
        return self._known[count][1]

    def _without(self, edit: Edit) -> Step:
        """With all edits but one."""
        return self._measured(None, frozenset({(edit.pass_name, edit.site, edit.setting)}))[0]

    def _measured(
        self, limit: int | None, without: frozenset[Key] = frozenset()
    ) -> tuple[Step, tuple[Edit, ...]]:
        self.chosen.limit, self.chosen.without = limit, without
        told = "all edits" if limit is None else f"{limit} edits"
        self.progress.phase(f"building with {told}" + (" but one" if without else ""))
        workshop = self.prepared.workshop
        judged = workshop.judged(workshop.build(self.pipeline, self.given_back))
        step = _step(judged, len(judged.build.edits) if limit is None else limit)
        self.gate = judged.quality.gate
        rows = judged.quality.rows
        self.original = rows[0].before if rows else None
        self.progress.note(f"{told}: {'broken' if step.broken else 'holds'}, {step.sentence}")
        return step, tuple(judged.build.edits)


def _step(judged: Judged, edits: int) -> Step:
    quality: Quality = judged.quality
    metric = quality.rows[0].after if quality.rows else None
    return Step(edits, quality.verdict == "over-budget", quality.sentence, metric)
