"""Passes that somebody else wrote, as subjects of the harness, and what their author reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...ir.errors import UsageError, near
from ...passes.api import Pass, pass_class
from ...passes.registry import is_own
from ..policy import LOSSLESS
from ..userpasses import PassFile, load_pass_file
from .case import Case
from .check import Failure
from .run import Report
from .subject import Subject
from .trial import AGAIN

GENERATED = 200
"""Graphs for a pass of one's own, where nothing else is asked for; a minute or less."""
TOWERS = ("", "transformer", "convnet", "recurrent")
"""What they begin with, in turn."""

ADVICE = {
    "crash": "the exception comes from the pass: guard the case that the model above shows",
    "refused": "offer a Refusal for graphs that the pass does not take, instead of an error",
    "verify": "lower() left a graph that no runtime takes: make values before they are read, and "
    "through the rewriter",
    "signature": "inputs and outputs of the model keep names and types: use rewriter.take_over() "
    "where an output gets another producer",
    "bits": "where the edit reassociates sums or products, say semantics=REASSOCIATES (a tolerance "
    "is then granted); where it should be exact, the model above is the case to refuse",
    "tolerance": "the results differ by more than reassociation can: refuse this case, or, where "
    "a loss is meant, say semantics=LOSSY and give a perturb()",
    "region": "lower() computes something else than perturb() declared: build from its payload",
    "digest": "candidates() and perturb() may not touch the graph, and an edit must change it",
    "termination": "the pass matches what it made itself: refuse nodes that it already rewrote",
    "shapes": "a value is declared with a dtype or shape that it does not have: give new values "
    "none, and they are inferred",
    "rollback": "change the graph through the rewriter only; what goes around it cannot be undone",
    "round-trip": "the graph holds what a file cannot: look at attributes and types",
    "deterministic": "nothing may depend on hash order, time, or random numbers without ctx.seed",
    "runs": "the runtime refuses the result: an operator, type or opset that it does not have",
    "expected": "the stored outputs are missed: see what the model above computes now",
}
"""By rule, what an author does next."""
OVERTIME = (
    "look for a loop without end there, or allow more with --pass-timeout; no further case "
    "was tried, and the model is as it came"
)


@dataclass(frozen=True)
class Asked:
    """What the argument of the command means.

    subjects: each of them a pipeline. mine: names of passes that were loaded from files, all of
    which must find something to edit.
    """

    subjects: tuple[Subject, ...]
    mine: frozenset[str] = frozenset()
    files: tuple[PassFile, ...] = ()


def asked(text: str, files: Sequence[PassFile], target: str, exact: bool) -> Asked:
    """``my_pass.py``, ``my_pass.py:name``, or a pipeline. files: loaded beside.

    A file stands for each of its passes, behind ``canonicalize``, as in a compile. Raises
    UsageError for a name that the file does not have, InputError for a file that is no pass file.
    """
    path, _, name = text.rpartition(":") if ".py:" in text else (text, "", "")
    if not path.endswith(".py"):
        mine = frozenset(cls.name for file in files for cls in file.passes)
        return Asked((Subject(text, target, exact),), mine, tuple(files))
    file = load_pass_file(path)
    names = [cls.name for cls in file.passes]
    if name and name not in names:
        raise UsageError(
            f"there is no pass {name!r} in the file", where=path, hint=near(name, names)
        )
    chosen = [name] if name else names
    subjects = tuple(Subject(f"{LOSSLESS},{each}", target, exact) for each in chosen)
    return Asked(subjects, frozenset(chosen), (*files, file))


def default_cases() -> Iterator[Case]:
    """Generated graphs of every kind, from seed 0."""
    from .generator import generated

    share = GENERATED // len(TOWERS)
    for tower in TOWERS:
        for case in generated(share, 0, tower=tower):
            yield Case(f"{tower or 'mixed'}-{case.name}", case.model, case.feeds)


def untried(report: Report, mine: frozenset[str]) -> list[str]:
    """Passes of the author's that edited nothing in all of the cases, and failed in none."""
    steps = [(str(step), step.name) for step, _ in report.subject.passes()]
    known = {text for text, _ in steps if report.by_step.get(text)}
    known |= {failure.stage.removesuffix(AGAIN) for failure in report.failures}
    return [name for text, name in steps if name in mine and text not in known]


def next_steps(failure: Failure) -> list[str]:
    """Where the pass is written that broke the promise, and what to do."""
    cls = _culprit(failure.stage)
    lines = [] if cls is None else [f"  written at {cls.place}"]
    said = OVERTIME if failure.overtime else ADVICE.get(failure.rule)
    return [*lines, f"  next: {said}"] if said else lines


def _culprit(stage: str) -> type[Pass] | None:
    """The class behind a stage; None for one of planish's own, and for what is no pass."""
    try:
        cls = pass_class(stage.partition("{")[0].partition("@")[0].partition(",")[0])
    except UsageError:
        return None
    return None if is_own(cls) or not cls.place else cls
