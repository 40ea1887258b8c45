"""What is known of a compile before it is done: sites, sizes and times, each with its basis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...ir.provenance import Remark
from ..policy import Aside, Goal
from ..workload import Workload

TimeBasis = Literal["measured", "estimated", "unknown"]
SizeBasis = Literal["lowered", "savings"]


@dataclass(frozen=True)
class SitePlan:
    """What would become of one site.

    weight: shape as stored. done: the pass and setting that takes it, "" where none does. bits:
    of the stored weight afterwards. kernel: what the runtime would run it in, "" where that was
    not found out. saving: bytes, as the pass counts them. code, sentence: why it is left alone.
    """

    site: str
    kind: str
    weight: tuple[int, ...]
    done: str = ""
    bits: int | None = None
    kernel: str = ""
    saving: int = 0
    code: str = ""
    sentence: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**vars(self), "weight": list(self.weight)}


@dataclass(frozen=True)
class Size:
    """Bytes of the model's files. basis: counted on the graph as it would be lowered, or the
    original's less the savings that passes promise."""

    before: int
    after: int
    basis: SizeBasis


@dataclass(frozen=True)
class Time:
    """Milliseconds of one run, over the workloads by their weights; None where unknown.

    basis: the weaker one of both figures. note: what that means here. ranks: whether they are fit
    to choose by: they rest on tables that were measured on the target. Rates alone give lower
    bounds, from which what kernels of few bits spend on unpacking is missing.
    """

    before: float | None
    after: float | None
    basis: TimeBasis
    note: str = ""
    ranks: bool = False

    @property
    def ratio(self) -> float | None:
        """Before over after: above 1 is faster."""
        return None if not self.before or not self.after else self.before / self.after


@dataclass(frozen=True)
class Outlook:
    """One pipeline: why, what it would do at each site, and what that is predicted to give.

    notes: what passes remark beside their sites, and steps that move numbers without saving any.
    """

    pipeline: str
    technique: str
    reason: str
    sites: tuple[SitePlan, ...]
    size: Size
    time: Time
    notes: tuple[str, ...] = ()

    @property
    def taken(self) -> tuple[SitePlan, ...]:
        """The sites that would be changed."""
        return tuple(site for site in self.sites if site.done)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            **vars(self),
            "sites": [site.to_json() for site in self.sites],
            "size": vars(self.size),
            "time": {**vars(self.time), "ratio": self.time.ratio},
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Planned:
    """The plan of a compile: outlooks, the one that would be chosen first, and what is set aside.

    target, resolved: its name, and the class that the host is. executable: whether a compile would
    measure here; ``why_not`` says why it would not, or which backend is missing. generated:
    whether the workloads are shapes of generated feeds. given: the pipeline was the user's.
    """

    model: str
    target: str
    resolved: str
    goal: Goal
    workloads: tuple[Workload, ...]
    generated: bool
    executable: bool
    compilable: bool
    why_not: str
    outlooks: tuple[Outlook, ...]
    aside: tuple[Aside, ...] = ()
    remarks: tuple[Remark, ...] = ()
    given: bool = False
    threads: int = 0

    @property
    def chosen(self) -> Outlook:
        """The likeliest by prediction; a compile that can measure may choose another."""
        return self.outlooks[0]

    @property
    def alternatives(self) -> Sequence[Outlook]:
        """The other pipelines that a compile would build, the likelier first."""
        return self.outlooks[1:]

    def to_json(self) -> dict[str, Any]:
        """As plain values; ``planish-outlook/1``."""
        return {
            "schema": "planish-outlook/1",
            **vars(self),
            "workloads": [{"axes": dict(w.bindings), "weight": w.weight} for w in self.workloads],
            "outlooks": [outlook.to_json() for outlook in self.outlooks],
            "aside": [vars(aside) for aside in self.aside],
            "chosen": self.chosen.pipeline,
        }
