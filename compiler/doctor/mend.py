"""Mend what can be mended in the file itself, and measure what that brought."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ...ir.errors import UsageError
from ...ir.load import load_model
from ...ir.rewriter import Rewriter
from ...ir.save import save_model
from ...ir.types.shapes import infer_shapes
from ...targets.rules.rule import View
from ...targets.runtime import open_session
from ...targets.schema import Target
from ...targets.techniques import runs_on_cpu
from ..quality.drift import DriftVerdict
from ..quality.driftmeter import DriftMeter
from ..quality.outputs import judge_drift, output_kinds
from ..quality.statistics import Ratio
from ..timing import time_alternating
from .causes import broken_rules
from .feeding import MOST_FEEDS, feeds_for
from .repairs import REPAIRS, hindrance

SLOWER = 0.98
"""Below this, with all of the interval, what was mended for speed is not handed over."""
RIGHT = frozenset({"softmax-range-blown", "quantized-unasked"})
"""Rules whose repair makes results right, at whatever time."""


@dataclass(frozen=True)
class Mended:
    """path: of the mended file, "" where none was written; why: the reason then. done, left: how
    many nodes broke a rule that has a repair, and no longer do, or still do. speed: how many times
    faster it is, paired, with its 95 % interval. drift: how the outputs moved, a sentence."""

    path: str
    why: str
    done: tuple[tuple[str, int], ...]
    left: tuple[tuple[str, int], ...]
    speed: Ratio | None = None
    drift: str = ""
    reasons: tuple[tuple[str, str], ...] = ()

    @property
    def gone(self) -> frozenset[str]:
        """Rules that nothing breaks any longer in the file that was written."""
        return frozenset(dict(self.done)) - frozenset(dict(self.left)) if self.path else frozenset()

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        by_rule = {"done": self.done, "left": self.left, "reasons": self.reasons}
        return {**asdict(self), **{name: dict(rows) for name, rows in by_rule.items()}}


def mend(
    path: Path, output: Path, target: Target, *, calibration: Any,
    workload: str | Sequence[str] | None, threads: int, seconds: float, runs: bool,
) -> Mended:  # fmt: skip
    """Write a mended copy of the model at ``path`` to ``output``.

    runs: whether this machine is the target and runs the model; then both are timed by turns and
    compared, and a copy that was mended for speed alone is not written where it is slower, or
    answers otherwise by the default gate of drift.
    """
    imported = load_model(path)
    model = imported.model
    before = _breaking(model, target)
    rewriter = Rewriter(model)
    for rule, repair in REPAIRS.items():
        nodes = _breaking(model, target, rule).get(rule)
        if nodes:
            with rewriter.edit(f"doctor/{rule}") as edit:
                repair(rewriter, nodes)
            rewriter.verify(edit, imported.signature)
    infer_shapes(model)
    still = _breaking(model, target)
    after = {rule: len(nodes) for rule, nodes in still.items()}
    said = ((rule, hindrance(rule, model, nodes)) for rule, nodes in still.items())
    reasons = tuple((rule, why) for rule, why in said if why)
    gone = {rule: len(nodes) - after.get(rule, 0) for rule, nodes in before.items()}
    done = tuple((rule, count) for rule, count in gone.items() if count > 0)
    left = tuple(after.items())
    if not done:
        why = "nothing that was found can be mended in the file"
        return Mended("", why, (), left, reasons=reasons)
    speed, verdict = None, None
    if runs:
        speed, verdict = _measured(path, model, calibration, workload, threads, seconds)
    drift = "" if verdict is None else verdict.sentence
    why = "" if RIGHT & dict(done).keys() else _worse(speed, verdict)
    if not why:
        save_model(model, output)
    return Mended("" if why else str(output), why, done, left, speed, drift, reasons)


def _worse(speed: Ratio | None, verdict: DriftVerdict | None) -> str:
    """Why what was mended for speed alone is not handed over; "" where it is."""
    if speed is not None and speed.high < SLOWER:
        return f"the mended model is slower, {speed.value:.2f}x"
    if verdict is not None and not verdict.holds:
        return f"the mended model answers otherwise: {verdict.sentence}"
    return ""


def check_output(output: str | Path | None, target: Target) -> None:
    """Raises UsageError where the mended model could not be written, before any work is done."""
    if output is None:
        return
    path = Path(output)
    if not runs_on_cpu(target):
        raise UsageError(
            f"repairs are for ONNX Runtime on CPUs, not for {target.name}",
            hint="leave --fix out, or compile the float model for that target",
        )
    if path.exists():
        raise UsageError("it is there already", where=str(path), hint="give --fix another name")
    if path.suffix != ".onnx" or not path.absolute().parent.is_dir():
        raise UsageError(
            "the mended model cannot be written there", where=str(path),
            hint="name a new file that ends in .onnx, in a folder that is there",
        )  # fmt: skip


def _breaking(model: ir.Model, target: Target, rule: str | None = None) -> dict[str, list[ir.Node]]:
    """Nodes that break rules which have a repair, by rule. rule: look at this one only."""
    asked = REPAIRS.keys() if rule is None else {rule}
    broken = broken_rules(View(model, target), asked)
    return {each.rule.id: [f.node for f in each.findings if f.node is not None] for each in broken}


def _measured(
    before: Path, model: ir.Model, calibration: Any, workload: str | Sequence[str] | None,
    threads: int, seconds: float,
) -> tuple[Ratio, DriftVerdict]:  # fmt: skip
    """Speed of the mended model against the file, and how its outputs moved."""
    feeds, _ = feeds_for(model, calibration, workload)
    chosen = [feeds[index] for index in range(min(len(feeds), MOST_FEEDS))]
    with tempfile.TemporaryDirectory(prefix="planish-") as folder:
        after = Path(folder) / "mended.onnx"
        save_model(model, after)
        sessions = [open_session(file, threads=threads) for file in (before, after)]
    names = sessions[0].output_names
    meter = DriftMeter(names)
    for feed in chosen:
        one, other = (session.run_outputs(names, feed) for session in sessions)
        meter.add(one, other)
    verdict = judge_drift(meter.result(), output_kinds(model.graph.outputs), None)
    return time_alternating(sessions, chosen, budget=2 * seconds).ratio(0, 1), verdict
