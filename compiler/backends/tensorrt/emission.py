"""From a lowered graph to what is handed over: ``model.onnx`` and ``reference.onnx``, checked.

TensorRT runs nowhere near here. What stands in for it: the rules of the target, ONNX's own checker
and shape inference, and ONNX Runtime, which runs the twin and, to see the half precision itself,
the typed model too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import onnx
import onnx_ir as ir

from ....ir.errors import PlanishError, TargetError
from ....ir.load import load_as_written
from ....ir.provenance import Edit, Remark
from ....ir.save import to_bytes
from ....targets.rules.rule import Violation
from ....targets.rules.table import check_model
from ....targets.runtime import open_session
from ....targets.schema import Target
from ...calibration.peaks import float_values, peaks
from ...context import CompileContext
from ...quality.driftmeter import DriftMeter
from .precision import NAMES, WIDE, Precision, decide
from .writing import twin, typed

PASS = "tensorrt"
"""Under whose name the conversion of floats is reported, and given back."""
SITE = "graph"
CHECKED_FEEDS = 4
LEAST_SQNR = 20.0
"""dB between the typed model and its twin, which differ by half precision of activations."""
LEAST_TOP1 = 99.0
ENTRIES = {"session.disable_quant_qdq": "1"}
"""ONNX Runtime would fuse 8-bit floats into integer kernels, which take none."""
Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Emission:
    """The typed model, its twin, and what is said of both. broken: why the typed model must not
    ship as it is, "" where nothing speaks against it."""

    model: ir.Model
    reference: ir.Model
    edits: tuple[Edit, ...] = ()
    remarks: tuple[Remark, ...] = ()
    checks: tuple[str, ...] = ()
    broken: str = ""


@dataclass
class Emitter:
    """Writes both models of each build of one compile; what was measured of a value is kept."""

    context: CompileContext
    _peaks: dict[str, float] = field(default_factory=dict)

    def emit(self, lowered: ir.Model, wide: bool) -> Emission:
        """wide: leave all floats in float32.

        Raises TargetError where the typed model breaks a rule of the target.
        """
        context = self.context
        precision = WIDE if wide or not context.calibrated else self._decide(lowered)
        model, reference = typed(lowered, precision), twin(lowered, precision)
        checks = [*_checked(model), _within_rules(model, context.target)]
        said, broken = self._compared(model, reference)
        edit, remarks = (), self._remarks(lowered, precision, wide)
        if precision.converts:
            edit = (self._edit(lowered, model, reference, precision),)
        return Emission(model, reference, edit, remarks, (*checks, said), broken)

    def _decide(self, lowered: ir.Model) -> Precision:
        if self.context.target.floats.float16 != "native":
            return WIDE
        missing = [name for name in float_values(lowered) if name not in self._peaks]
        self.context.progress.phase("measuring magnitudes")
        self._peaks |= peaks(lowered, missing, self.context.feeds, self.context.threads)
        return decide(lowered, self.context.target, self._peaks)

    def _compared(self, model: ir.Model, reference: ir.Model) -> tuple[str, str]:
        """What ONNX Runtime says of the typed model beside its twin, and what speaks against it."""
        feeds = list(islice(self.context.feeds, CHECKED_FEEDS))
        try:
            before = open_session(to_bytes(reference), threads=self.context.threads)
            after = open_session(to_bytes(model), threads=self.context.threads, entries=ENTRIES)
            meter = DriftMeter(before.output_names)
            for feed in feeds:
                meter.add(before.run(feed), after.run(feed))
        except PlanishError as error:
            return f"model.onnx was not run: {error.what}", ""
        worst = meter.result().outputs
        for output in worst:
            if output.non_finite:
                return "", f"{output.name} is not finite in half precision"
            if output.sqnr_db is not None and output.sqnr_db < LEAST_SQNR:
                return "", f"half precision moves {output.name} to {output.sqnr_db:.1f} dB"
            if output.sqnr_db is None and (output.top1 or 100.0) < LEAST_TOP1:
                return "", f"half precision changes {100 - (output.top1 or 0):.1f} % of {output.name}"
        least = min((o.sqnr_db for o in worst if o.sqnr_db is not None), default=np.inf)
        near = f"{least:.1f} dB" if np.isfinite(least) else "equal"
        return f"model.onnx itself was run by ONNX Runtime on the CPU: {near} to reference.onnx", ""

    def _edit(
        self, lowered: ir.Model, model: ir.Model, reference: ir.Model, precision: Precision
    ) -> Edit:
        feed = self.context.sample_feed()
        before = open_session(to_bytes(lowered), threads=self.context.threads, entries=ENTRIES)
        try:
            after = open_session(to_bytes(model), threads=self.context.threads, entries=ENTRIES)
            loss = _error(before.run(feed), after.run(feed))
        except PlanishError:
            after = open_session(to_bytes(reference), threads=self.context.threads)
            loss = _error(before.run(feed), after.run(feed))
        saving = _bytes(lowered) - _bytes(model)
        kept = {reason: 0 for reason in precision.kept.values()}
        for reason in precision.kept.values():
            kept[reason] += 1
        details = {f"float32 nodes ({reason})": count for reason, count in sorted(kept.items())}
        name = NAMES[precision.dtype]
        return Edit(f"{PASS}-{name}", PASS, SITE, name, loss=loss, saving=saving, details=details)

    def _remarks(self, lowered: ir.Model, precision: Precision, wide: bool) -> tuple[Remark, ...]:
        if wide:
            sentence = "left as it was to hold the quality bound"
            return (Remark("refused", PASS, SITE, "given-back", sentence),)
        if not self.context.calibrated:
            sentence = (
                "floats stay float32: without calibration data nobody knows what would exceed "
                "float16's range"
            )
            return (Remark("refused", PASS, SITE, "no-calibration", sentence),)
        reached = [n for n in lowered.graph if precision.kept.get(str(n.name)) == "range"]
        return tuple(
            Remark("note", PASS, str(node.name), "out-of-range", _RANGE.format(NAMES[precision.dtype]))
            for node in reached
        )


_RANGE = "it stays float32, as its values come too near to the end of {}'s range"


def _checked(model: ir.Model) -> Iterator[str]:
    """onnx.checker and shape inference on the whole model. Raises TargetError where they object."""
    proto = ir.to_proto(model)
    if proto.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        yield "onnx.checker was not run: the model is larger than 2 GB"
        return
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        what = f"the typed model is not valid ONNX: {str(error).strip()[:300]}"
        raise TargetError(what, where="model.onnx") from error
    yield f"onnx.checker {onnx.__version__}, full check with shape inference: nothing found"


def _within_rules(model: ir.Model, target: Target) -> str:
    """The rules of ``planish targets check``. Raises TargetError where one is broken."""
    import tempfile
    from pathlib import Path

    from ....ir.save import save_model

    with tempfile.TemporaryDirectory(prefix="planish-") as folder:
        path = Path(folder, "model.onnx")
        save_model(model, path)
        found = check_model(load_as_written(path), target)
    errors = [each for each in found if each.severity == "error"]
    if errors:
        raise TargetError(
            f"{target.name} does not take the model: {_listed(errors)}",
            where=f"node {errors[0].node!r}" if errors[0].node else "the model",
            hint=f"{errors[0].fix}; `planish targets check` lists all findings",
        )
    slow = sum(each.severity == "slow" for each in found)
    return f"planish targets check: 0 errors, {slow} slow, {len(found) - slow} notes"


def _listed(errors: Iterable[Violation], most: int = 3) -> str:
    known = list(errors)
    texts = [f"{e.op} {e.node!r}: {e.reason}{f' ({e.value})' if e.value else ''}" for e in known[:most]]
    more = f"; and {len(known) - most} more" if len(known) > most else ""
    return "; ".join(texts) + more


def _error(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    """Relative squared error over all float outputs together."""
    noise = signal = 0.0
    for a, b in zip(before, after, strict=True):
        if a.dtype.kind == "f":
            finite = np.isfinite(a) & np.isfinite(b)
            noise += float(((a.astype(np.float64) - b) ** 2)[finite].sum())
            signal += float((a.astype(np.float64) ** 2)[finite].sum())
    return noise / signal if signal else 0.0


def _bytes(model: ir.Model) -> int:
    values = model.graph.initializers.values()
    return sum(v.const_value.nbytes for v in values if v.const_value is not None)
