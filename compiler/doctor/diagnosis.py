"""What was found of a model, and how it is ordered."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ...targets.rules.rule import Severity
from ...targets.rules.table import SEVERITIES
from ...targets.schema import Target

if TYPE_CHECKING:
    from .mend import Mended

SCHEMA = 1
"""Version of the JSON document; it grows with every change that a reader could notice."""
BROKEN = 10
"""Exit code where errors or slow layers were found; also that of ``targets check``."""


@dataclass(frozen=True)
class Place:
    """A node of a finding. value: what was found there. ms: of what computes it, None where no
    time is known. runs_as: the operators that the runtime executes there."""

    node: str
    op: str
    value: str
    ms: float | None = None
    runs_as: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cause:
    """One cause with all places that it concerns, the dearest first.

    rule: of the rule table; "" where no rule explains what was seen. ms: what is spent there a
    run, None where no time is known; share: of the run, 0 to 1. command: what planish can do about
    it, "" where it is not planish's to do.
    """

    rule: str
    severity: Severity
    reason: str
    fix: str
    places: tuple[Place, ...]
    ms: float | None = None
    share: float | None = None
    command: str = ""


@dataclass(frozen=True)
class Spent:
    """Time by operator. count: of executed nodes."""

    op: str
    count: int
    ms: float


@dataclass(frozen=True)
class Run:
    """How the times came about. basis: "measured" here, or "predicted". ms: of one run; without
    the profiler where it was measured. source: of the feeds. rounds: over all of them."""

    basis: str
    ms: float | None
    spent: tuple[Spent, ...]
    source: str = ""
    feeds: int = 0
    rounds: int = 0
    threads: int = 0
    note: str = ""

    @property
    def nodes_ms(self) -> float:
        """The sum over operators, of which shares are taken."""
        return sum(row.ms for row in self.spent)


@dataclass(frozen=True)
class Diagnosis:
    """model: as the user gave it. run: None where no times are known; not_run: why not, or why
    they are predicted. layers: how many run in integer kernels, and how many there
    are. mended: the copy that was asked for."""

    model: str
    target: Target
    causes: tuple[Cause, ...]
    run: Run | None = None
    not_run: str = ""
    layers: tuple[int, int] | None = None
    quantized: bool = False
    notes: tuple[str, ...] = ()
    mended: Mended | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many causes of each severity."""
        found: Counter[str] = Counter(cause.severity for cause in self.causes)
        return {severity: found[severity] for severity in SEVERITIES}

    @property
    def healthy(self) -> bool:
        """Whether it was run, and nothing but notes was found."""
        run = self.run is not None and self.run.basis == "measured"
        return run and not self.counts["error"] and not self.counts["slow"]

    @property
    def exit_code(self) -> int:
        """0 where nothing but notes was found."""
        return BROKEN if self.counts["error"] or self.counts["slow"] else 0

    def __str__(self) -> str:
        from ..reporting.doctortext import lines  # which reads this module

        return "\n".join(line.text for line in lines(self))

    def to_json(self) -> dict[str, Any]:
        """The document of ``planish doctor --json``; see docs/doctor.md."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "target": self.target.name,
            "healthy": self.healthy,
            "counts": self.counts,
            "causes": [asdict(cause) for cause in self.causes],
            "run": None if self.run is None else asdict(self.run),
            "not_run": self.not_run,
            "quantized": self.quantized,
            "integer_layers": None if self.layers is None else self.layers[0],
            "layers": None if self.layers is None else self.layers[1],
            "notes": list(self.notes),
            "fixed": None if self.mended is None else self.mended.to_json(),
            "exit_code": self.exit_code,
        }


def ordered(causes: Sequence[Cause], results: Mapping[str, int]) -> tuple[Cause, ...]:
    """Errors first, then what is slow, then notes; by cost within each.

    results: of rules on what a model computes, how surely they ruin it, the surest lowest. Such
    errors come behind refusals and in that order, as time says nothing of them; such notes come
    before the others.
    """

    def key(cause: Cause) -> tuple[int, int, float]:
        rank, sure = SEVERITIES.index(cause.severity), results.get(cause.rule)
        if cause.severity == "error":
            return rank, 0 if sure is None else 1 + sure, 0.0 if sure else -(cause.ms or 0.0)
        return rank, int(cause.severity == "note" and sure is None), -(cause.ms or 0.0)

    return tuple(sorted(causes, key=key))


def by_operator(rows: Sequence[tuple[str, float]]) -> tuple[Spent, ...]:
    """Operators with their milliseconds, the dearest first."""
    count: Counter[str] = Counter()
    spent: defaultdict[str, float] = defaultdict(float)
    for op, ms in rows:
        count[op] += 1
        spent[op] += ms
    order = sorted(spent, key=lambda op: -spent[op])
    return tuple(Spent(op, count[op], spent[op]) for op in order)
