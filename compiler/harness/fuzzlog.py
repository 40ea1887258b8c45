"""How far fuzzing came, in a file: it takes hours, and goes on where it was stopped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ...ir.errors import InputError
from .plans import Plan
from .run import Report

FILE = "progress.json"
MOST_NOTED = 20
"""Failures of one pipeline that are written down in words."""


@dataclass(frozen=True)
class Done:
    """What one pipeline has taken so far.

    seen: graphs, skipped ones too. failing: of those. edits: by step. failures: in words, with
    the name of the graph.
    """

    seen: int = 0
    skipped: int = 0
    failing: int = 0
    seconds: float = 0.0
    edits: Mapping[str, int] = field(default_factory=dict)
    failures: tuple[str, ...] = ()

    def and_more(self, report: Report, seconds: float) -> Done:
        """With another run added."""
        noted = (*self.failures, *(f"{f.case}: {f}" for f in report.failures))
        return replace(
            self,
            seen=self.seen + report.seen,
            skipped=self.skipped + report.skipped.total(),
            failing=self.failing + report.failing_cases,
            seconds=round(self.seconds + seconds, 1),
            edits=dict(Counter(self.edits) + Counter(report.by_step)),
            failures=noted[:MOST_NOTED],
        )


@dataclass
class Log:
    """All pipelines by what they are, in a file of a folder, for one seed and first graph."""

    path: Path
    key: str
    done: dict[str, Done]

    @classmethod
    def read(cls, folder: Path, seed: int, start: int) -> Log:
        """What the folder holds of this seed and start. Raises InputError for another file."""
        path, key = folder / FILE, f"seed {seed} from {start}"
        if not path.exists():
            return cls(path, key, {})
        try:
            held = json.loads(path.read_text(encoding="utf8")).get(key, {})
            done = {name: Done(**each) for name, each in held.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"this is no record of fuzzing: {error}",
                where=str(path),
                hint="give another --keep, or delete the file",
            ) from error
        return cls(path, key, {n: replace(d, failures=tuple(d.failures)) for n, d in done.items()})

    def of(self, plan: Plan) -> Done:
        """What the pipeline has taken."""
        return self.done.get(_name(plan), Done())

    def write(self, plan: Plan, done: Done) -> None:
        """Note how far the pipeline came; the file is replaced as a whole."""
        self.done[_name(plan)] = done
        every = json.loads(self.path.read_text(encoding="utf8")) if self.path.exists() else {}
        every[self.key] = {name: asdict(each) for name, each in self.done.items()}
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(every, indent=1), encoding="utf8")
        beside.replace(self.path)


def _name(plan: Plan) -> str:
    return " ".join(filter(None, [plan.pipeline, f"for {plan.target}", plan.tower]))
