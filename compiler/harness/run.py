"""Run one subject over many cases, and make the first failures of each kind small."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .case import Case
from .check import Failure, Outcome, check
from .memory import Memory
from .reproduce import command_for, write_reproducer
from .shrink import DEFAULT_BUDGET, shrink
from .subject import Subject

MOST_SHRUNK = 5
"""Kinds of failures that are made small: one fault often shows in a thousand cases."""


@dataclass(frozen=True)
class Shrunk:
    """A failure, the smallest case that shows it, and, where one was asked for, its folder."""

    failure: Failure
    case: Case
    nodes_before: int
    command: str = ""


@dataclass(frozen=True)
class Report:
    """What a run found. skipped: reasons with their counts. seen: cases tried, skipped ones too.

    by_step: edits of each step of the pipeline.
    """

    subject: Subject
    seen: int
    edits: int
    failures: tuple[Failure, ...]
    failing_cases: int
    skipped: Counter[str]
    shrunk: tuple[Shrunk, ...]
    by_step: Mapping[str, int] = field(default_factory=dict)

    @property
    def checked(self) -> int:
        """Cases that were judged."""
        return self.seen - self.skipped.total()


@dataclass
class Run:
    """A run in progress. keep: where reproducers go; None: nowhere. budget: see ``shrink``.

    files: with the passes of users that the subject names, for the commands.
    """

    subject: Subject
    keep: Path | None = None
    budget: int = DEFAULT_BUDGET
    advance: Callable[[Case, Outcome], None] | None = None
    seen: int = 0
    edits: int = 0
    by_step: Counter[str] = field(default_factory=Counter)
    failing: int = 0
    failures: list[Failure] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    shrunk: dict[tuple[str, str], Shrunk] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    def over(self, cases: Iterable[Case]) -> Report:
        """Check every case, up to the first on which a pass runs out of time.

        Raises UsageError where the subject does not exist.
        """
        for case in cases:
            self.one(case)
            if self.overtime:
                break
        return self.report()

    @property
    def overtime(self) -> bool:
        """Whether a pass ran out of time: one without an end does so in most cases."""
        return any(failure.overtime for failure in self.failures)

    def report(self) -> Report:
        """What was found so far."""
        shrunk = tuple(self.shrunk.values())
        return Report(
            self.subject, self.seen, self.edits, tuple(self.failures), self.failing, self.skipped,
            shrunk, dict(self.by_step),
        )  # fmt: skip

    def one(self, case: Case, memory: Memory | None = None) -> None:
        """Check one case. memory: of this case, shared with runs of other subjects."""
        outcome = check(self.subject, case, memory)
        self.seen += 1
        self.edits += outcome.edits
        self.by_step.update(outcome.by_step)
        self.failing += bool(outcome.failures)
        self.failures.extend(outcome.failures)
        if outcome.skipped:
            self.skipped[outcome.skipped] += 1
        if self.advance is not None:
            self.advance(case, outcome)
        for failure in outcome.failures[:1]:  # the others of a case mostly follow from it
            self._make_small(failure, case)

    def _make_small(self, failure: Failure, case: Case) -> None:
        kind = failure.rule, failure.stage
        if kind in self.shrunk or len(self.shrunk) >= MOST_SHRUNK:
            return
        if failure.overtime:  # each case that is tried would take as long
            self.shrunk[kind] = self._kept(Shrunk(failure, case, len(case.model.graph.node)))
            return
        small = shrink(case, lambda c: _shows(check(self.subject, c), failure), self.budget)
        again = next(
            (f for f in check(self.subject, small).failures if _alike(f, failure)), failure
        )
        self.shrunk[kind] = self._kept(Shrunk(again, small, len(case.model.graph.node)))

    def _kept(self, shrunk: Shrunk) -> Shrunk:
        if self.keep is None:
            return shrunk
        number = len(self.shrunk) + 1
        folder = self.keep / f"{number:02d}-{shrunk.failure.rule}"
        command = command_for(self.subject, folder, self.files)
        write_reproducer(folder, shrunk.case, shrunk.failure, command)
        return Shrunk(shrunk.failure, shrunk.case, shrunk.nodes_before, command)


def _shows(outcome: Outcome, failure: Failure) -> bool:
    return any(_alike(found, failure) for found in outcome.failures)


def _alike(found: Failure, failure: Failure) -> bool:
    return (found.rule, found.stage) == (failure.rule, failure.stage)
