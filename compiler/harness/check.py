"""Check what a pass promises on one case: one small rule for each promise, in one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ...ir.errors import OvertimeError
from .case import Case
from .memory import Memory
from .rules import RULES, Found, Rule
from .subject import Subject
from .trial import Trial, as_skip, attempt

__all__ = ["RULES", "Failure", "Outcome", "check", "judge", "rule_names"]

Progress = Callable[[Case], None]


@dataclass(frozen=True)
class Failure:
    """A broken promise. rule: its name in ``rules.RULES``. stage: the step it happened in.

    overtime: a pass ran out of time on the case, and will again.
    """

    rule: str
    case: str
    sentence: str
    stage: str = ""
    overtime: bool = False

    def __str__(self) -> str:
        place = f" in {self.stage}" if self.stage else ""
        return f"{self.rule}{place}: {self.sentence}"


@dataclass(frozen=True)
class Outcome:
    """What a case showed. edits: how many were made. skipped: why nothing was judged.

    by_step: edits of each step of the pipeline that ended well, by the step as text.
    """

    failures: tuple[Failure, ...]
    edits: int = 0
    skipped: str = ""
    by_step: Mapping[str, int] = field(default_factory=dict, compare=False)


def check(subject: Subject, case: Case, memory: Memory | None = None) -> Outcome:
    """Run the subject on the case and hold what happened against every rule.

    memory: of this case alone, where several subjects are tried on it. Raises UsageError where
    the pipeline or the target does not exist.
    """
    return judge(attempt(subject, case, memory))


def judge(trial: Trial) -> Outcome:
    """The rules over what was seen; ``skipped`` where the original does not run."""
    overtime = _overtime(trial)
    failures = tuple(
        Failure(rule.name, trial.case.name, found.sentence, found.stage, overtime)
        for rule in RULES
        for found in _applied(rule, trial)
    )
    skipped = trial.skipped or (as_skip(trial.stop) if trial.stop else "")
    if trial.stop and not failures and not skipped:
        skipped = f"{trial.stop.stage}: {trial.stop.error}"
    by_step = {stage.name: stage.edits for stage in trial.stages if stage.edits}
    return Outcome(failures, trial.edits, skipped, by_step)


def _overtime(trial: Trial) -> bool:
    errors = trial.stop and trial.stop.error, trial.final and trial.final.second
    return any(isinstance(error, OvertimeError) for error in errors)


def _applied(rule: Rule, trial: Trial) -> Iterator[Found]:
    return iter(rule.check(trial))


def rule_names(failures: Iterable[Failure]) -> list[str]:
    """The rules broken, each once, in the order of the table."""
    broken = {failure.rule for failure in failures}
    return [rule.name for rule in RULES if rule.name in broken]
