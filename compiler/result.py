"""What a compile found out: the verdicts, the figures behind them and the choices made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..ir.provenance import Edit, Remark
from .stages import Stage

SpeedVerdict = Literal["faster", "no-gain", "slower", "not-measured"]
QualityVerdict = Literal["within-budget", "over-budget", "undecided", "unverified"]

UNCHANGED = "the file is your own, byte for byte"
"""Why a model is not timed that nothing was done to."""

EXIT_CODES: Mapping[str, int] = {
    "over-budget": 5,
    "slower": 6,
    "undecided": 7,
    "no-gain": 8,
    "not-run-on-target": 11,
}


@dataclass(frozen=True)
class PredictedSpeed:
    """What the cost model expects on a target that was not run: milliseconds, before / after.

    basis: ``estimated`` from rates and bandwidths, ``measured`` where tables of times that were
    measured on such a machine hold every node, ``unknown`` without a figure. note: a sentence.
    """

    before: float | None
    after: float | None
    ratio: float | None
    basis: Literal["measured", "estimated", "unknown"]
    note: str = ""


@dataclass(frozen=True)
class Speed:
    """Paired timing against the user's original file, milliseconds inside ``run``.

    before, after: medians over rounds of a pass over the feeds. ratio: before / after;
    low and high bound its 95 % interval. reason: why nothing was measured. predicted: instead,
    for a target that is not here; it never decides a verdict.
    """

    verdict: SpeedVerdict
    before: float | None = None
    after: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 0
    feeds: int = 0
    threads: int = 0
    reason: str = ""
    predicted: PredictedSpeed | None = None


@dataclass(frozen=True)
class QualityRow:
    """One line of the quality table: a metric, or a slice of it.

    drop: before - after in the metric's units (positive is worse, also where lower is
    better); low and high bound its 95 % interval, None where there is no interval.
    """

    name: str
    before: float
    after: float
    drop: float
    low: float | None = None
    high: float | None = None
    samples: int | None = None


@dataclass(frozen=True)
class Quality:
    """How the compiled model compares with the original on held-out data.

    gate: what was required (``drop <= 0.3``, ``cosine >= 0.98``). rows: the metric first,
    then slices. drift: measures per output, always given where there are held-out feeds.
    samples_needed: for ``undecided``, how many samples would decide. coverage: share of held-out
    values outside each calibrated range. warning: what weakens the comparison. apart: sentences
    on slices that fall by more than the whole.
    """

    verdict: QualityVerdict
    gate: str = ""
    sentence: str = ""
    rows: tuple[QualityRow, ...] = ()
    drift: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    samples: int = 0
    samples_needed: int | None = None
    coverage: Mapping[str, float] = field(default_factory=dict)
    warning: str = ""
    apart: tuple[str, ...] = ()


@dataclass(frozen=True)
class SiteKernel:
    """Which kernel of the runtime computes a site, and why it is float where it is."""

    site: str
    kernel: str
    integer: bool
    reason: str = ""


@dataclass(frozen=True)
class Kernels:
    """The census of the loaded model. ``surprises``: what the runtime did on its own."""

    counts: Mapping[str, int] = field(default_factory=dict)
    sites: tuple[SiteKernel, ...] = ()
    surprises: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """One candidate pipeline that was built, judged and timed.

    lossless: whether no edit of it lost anything. predicted_ms: of a run on the target, where no
    candidate was timed and the target is known well enough to rank by.
    """

    pipeline: str
    bytes: int
    speedup: float | None
    quality: str
    chosen: bool
    sentence: str
    lossless: bool = False
    predicted_ms: float | None = None


@dataclass(frozen=True)
class Plan:
    """Every choice that was made; ``--plan`` replays it.

    pipeline: resolved text. given_back: sites that each pass left alone to hold the bound,
    by pass name. spellings: runtime spellings that paid, in the order of application.
    """

    pipeline: str
    given_back: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    spellings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One held-out feed and what the compiled and the original model answered.

    Without answers where no whole model could be run.
    """

    feeds: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    original: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Engine:
    """What an engine is built with where the target's runtime builds one of the model.

    profile: by input its ``min``, ``opt`` and ``max`` shape. open_axes: how many axes of inputs
    have no fixed size. values: the same of the numbers of inputs that decide shapes. sparsity:
    whether sparse kernels may be tried. min_version: of the runtime. checks: what was checked of
    the model here, and by what. tolerance: how far the engine's outputs may be from the recorded
    ones. built: in words, "" before it is tried. layers: of an engine that was built here, how
    many products compute in each type, and how many layers took a sparse tactic.
    """

    profile: Mapping[str, Mapping[str, tuple[int, ...]]]
    sparsity: bool
    min_version: str
    checks: tuple[str, ...] = ()
    tolerance: Mapping[str, float] = field(default_factory=dict)
    built: str = "not built here"
    open_axes: int = 0
    values: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    layers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Provider:
    """How ONNX Runtime is asked to run model.onnx on the target, as provider.json says it.

    min_version: of ONNX Runtime. options: of the execution provider, weak: those to add where it
    does not build typed networks. entries: of the session. tolerance: how far outputs may be from
    the recorded ones there. checks: what was checked of the model here, and by what. missing: why
    there is none. ran: whether it was run with the provider where it was compiled.
    """

    name: str = ""
    min_version: str = "1.31"
    options: Mapping[str, str] = field(default_factory=dict)
    weak: Mapping[str, str] = field(default_factory=dict)
    entries: Mapping[str, str] = field(default_factory=dict)
    tolerance: Mapping[str, float] = field(default_factory=dict)
    checks: tuple[str, ...] = ()
    missing: str = ""
    ran: bool = False


@dataclass(frozen=True)
class CompileResult:
    """All that an artifact's manifest and report say, but the model's bytes.

    run_on_target: whether speed and answers are the target's own. not_on_target: where this
    machine is not the target, why; reference_runtime: then what gave the answers, "" if nothing
    did. session_options: "key=value", which keep the target's kernels fast and change no answer.
    engine: what the target builds of the model. provider: how ONNX Runtime runs it there.
    reference_model: the file that stands for model.onnx here, "" where that is run itself.
    stages: the graph between the passes.
    """

    source: str
    target: str
    resolved_target: str
    goal: str
    speed: Speed
    quality: Quality
    kernels: Kernels
    plan: Plan
    bytes_before: int
    bytes_after: int
    parameters_before: int
    parameters_after: int
    edits: tuple[Edit, ...] = ()
    remarks: tuple[Remark, ...] = ()
    trials: tuple[Trial, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_rss_bytes: int | None = None
    run_on_target: bool = True
    not_on_target: str = ""
    reference_runtime: str = ""
    shortfall: str = ""
    session_options: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""
    samples: tuple[Sample, ...] = ()
    tolerance: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)
    engine: Engine | None = None
    provider: Provider | None = None
    reference_model: str = ""
    stages: tuple[Stage, ...] = ()

    @property
    def ran_whole(self) -> bool:
        """Whether whole models were run; not where the memory was too small for that."""
        return not self.memory.get("bounded", False)

    @property
    def lossless(self) -> bool:
        """Whether no edit that loses anything was made."""
        return all(edit.loss is None for edit in self.edits)

    @property
    def exit_code(self) -> int:
        """The status of the command line; quality outranks speed, speed where it was measured.

        Where size was asked for, a smaller model is a gain, under ``size`` even a slower one.
        """
        if self.quality.verdict in ("over-budget", "undecided"):
            return EXIT_CODES[self.quality.verdict]
        smaller = not self.lossless and self.bytes_after < self.bytes_before
        if self.speed.verdict == "no-gain" and self.goal != "latency" and smaller:
            return 0
        if self.speed.verdict == "slower" and self.goal == "size":
            return 0
        if self.not_on_target:
            return EXIT_CODES["not-run-on-target"]
        return EXIT_CODES.get(self.speed.verdict, 0)


@dataclass(frozen=True)
class Built:
    """A result together with the folder in which its model lies (``model.onnx``)."""

    result: CompileResult
    folder: Path
