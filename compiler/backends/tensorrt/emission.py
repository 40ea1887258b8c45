"""From a lowered graph to what is handed over: ``model.onnx`` and ``reference.onnx``, checked.

TensorRT runs nowhere near here. What stands in for it: the rules of the target, ONNX's own checker
and shape inference, and ONNX Runtime, which runs the twin and, to see the half precision itself,
the typed model too.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from ....ir.digest import contents_digest
from ....ir.errors import PlanishError, TargetError
from ....ir.load import load_as_written
from ....ir.provenance import Edit, Remark
from ....ir.save import save_model
from ....targets.rules.rule import Violation
from ....targets.rules.table import check_model
from ....targets.runtime import Session, open_session
from ....targets.schema import Target
from ....targets.techniques import narrows_floats
from ...calibration.peaks import float_values, peaks
from ...context import CompileContext
from ...data.feedset import FeedSet
from ...quality.drift import OutputDrift
from ...quality.driftmeter import DriftMeter
from ..backend import SITE, Emission
from .fewbits import in_few_bits
from .precision import NAMES, WIDE, Precision, decide, spelled_nodes
from .writing import twin, typed, without_rounding
from .zeros import checked_zeros, codes_as_floats

PASS = "tensorrt"
"""Under whose name the conversion of floats is reported, and given back."""
CHECKED_FEEDS = 4
MOST_LOSS = 3.0
"""dB by which the typed model may be farther from the original than its twin."""
LEAST_TOP1 = 99.0
ENOUGH = 60.0
"""dB from which on two models count as equally near: float16 alone gives some 70."""
ENTRIES = {"session.disable_quant_qdq": "1"}
"""ONNX Runtime would fuse 8-bit floats into integer kernels, which take none."""
Feeds = Mapping[str, np.ndarray]


@dataclass
class Emitter:
    """Writes both models of each build of one compile; what was measured of a value is kept.

    name: under which the conversion is reported. unwanted: rules which, like errors, keep what
    breaks them in float32.
    """

    context: CompileContext
    original: Session | None
    holdout: FeedSet | Sequence[Feeds] = ()
    name: str = PASS
    unwanted: frozenset[str] = frozenset()
    _peaks: dict[str, dict[str, float]] = field(default_factory=dict)

    def emit(self, lowered: ir.Model, wide: bool) -> Emission:
        """wide: leave all floats in float32.

        Raises TargetError where the typed model breaks a rule of the target.
        """
        context = self.context
        precision = WIDE if wide or not context.calibrated else self._decide(lowered)
        shown, model = self._written(lowered, precision)
        found, objection = _inspected(model, context.target)
        if refused := _refused_types(found, lowered, precision, self.unwanted):
            precision = replace(precision, kept={**precision.kept, **refused})
            shown, model = self._written(lowered, precision)
            found, objection = _inspected(model, context.target)
        checks = (_within_rules(found, context.target), _valid(objection, lowered, context.target))
        reference = twin(lowered, precision)
        ran = _SPELLED if model is not shown else _ITSELF
        said, broken = self._compared(shown, reference, ran)
        remarks = self._remarks(lowered, precision, wide)
        edit: tuple[Edit, ...] = ()
        if precision.converts:
            edit = (self._edit(lowered, shown, precision),)
        said_of = tuple(filter(None, (checked_zeros(lowered, model, context.target), said)))
        return Emission(model, reference, edit, remarks, (*checks, *said_of), broken)

    def _written(self, lowered: ir.Model, precision: Precision) -> tuple[ir.Model, ir.Model]:
        """The typed model as ONNX Runtime can run it, and as it is handed over."""
        shown = typed(lowered, precision)
        codes_as_floats(shown, self.context.target)
        return shown, in_few_bits(shown)

    def _decide(self, lowered: ir.Model) -> Precision:
        if self.context.target.floats.float16 != "native":
            return WIDE
        digest = contents_digest(lowered)
        if digest not in self._peaks:
            self.context.progress.phase("measuring magnitudes")
            feeds, threads = chain(self.context.feeds, self.holdout), self.context.threads
            self._peaks[digest] = peaks(lowered, _measured(lowered), feeds, threads)
        return decide(lowered, self.context.target, self._peaks[digest])

    def _compared(self, model: ir.Model, reference: ir.Model, ran: str) -> tuple[str, str]:
        """How far the typed model is from the original, and what speaks against it ("" if nothing).

        Its twin sets the bar. They are not held against each other: behind Q/DQ the least
        difference moves whole steps. ran: what is said to have been run.
        """
        if self.original is None:
            return "model.onnx was not run", ""
        names = self.original.output_names
        near, own = DriftMeter(names), DriftMeter(names)
        try:
            with (
                _opened(reference, self.context.threads, {}) as before,
                _opened(model, self.context.threads, ENTRIES) as after,
            ):
                for feed in islice(self.holdout, CHECKED_FEEDS):
                    wanted = self.original.run(feed)
                    near.add(wanted, before.run(feed))
                    own.add(wanted, after.run(feed))
        except PlanishError as error:
            return f"model.onnx was not run: {error.what}", ""
        pairs = list(zip(near.result().outputs, own.result().outputs, strict=True))
        for twin_drift, typed_drift in pairs:
            if typed_drift.non_finite and not twin_drift.non_finite:
                return "", f"{typed_drift.name} is not finite in half precision"
            if (loss := _decibels(twin_drift) - _decibels(typed_drift)) > MOST_LOSS:
                return "", f"half precision costs {typed_drift.name} {loss:.1f} dB"
        least = min((_decibels(drift) for _, drift in pairs), default=ENOUGH)
        said = f"more than {ENOUGH:.0f}" if least >= ENOUGH else f"{least:.1f}"
        return _RAN.format(ran, f"{said} dB from the original"), ""

    def _edit(self, lowered: ir.Model, model: ir.Model, precision: Precision) -> Edit:
        """The conversion of floats. loss: of it alone, the Q/DQ of activations left out."""
        plain = without_rounding(lowered)
        narrow = model if plain is lowered else typed(plain, precision)
        threads, feed = self.context.threads, self.context.sample_feed()
        with _opened(plain, threads, ENTRIES) as before:
            wanted = before.run(feed)
        try:
            with _opened(narrow, threads, ENTRIES) as after:
                loss = _error(wanted, after.run(feed))
        except PlanishError:  # no kernel in half precision here: that of the weights alone
            with _opened(twin(plain, precision), threads, {}) as after:
                loss = _error(wanted, after.run(feed))
        kept = Counter(precision.kept.values())
        details = {f"float32 nodes ({reason})": kept[reason] for reason in sorted(kept)}
        name, saving = NAMES[precision.dtype], _bytes(lowered) - _bytes(model)
        return Edit(
            f"{self.name}-{name}", self.name, SITE, name, loss=loss, saving=saving, details=details
        )  # fmt: skip

    def _remarks(self, lowered: ir.Model, precision: Precision, wide: bool) -> tuple[Remark, ...]:
        if wide:
            sentence = "left as it was to hold the quality bound"
            return (Remark("refused", self.name, SITE, "given-back", sentence),)
        if not self.context.calibrated:
            sentence = (
                "floats stay float32: without calibration data nobody knows what would exceed "
                "float16's range"
            )
            return (Remark("refused", self.name, SITE, "no-calibration", sentence),)
        reached = [n for n in lowered.graph if precision.kept.get(str(n.name)) == "range"]
        return tuple(
            Remark(
                "note",
                self.name,
                str(node.name),
                "out-of-range",
                _RANGE.format(NAMES[precision.dtype]),
            )
            for node in reached
        )


def foreseen(lowered: ir.Model, target: Target, calibrated: bool) -> ir.Model:
    """What would be handed over of a graph whose numbers are not known; nothing is run.

    In half precision wherever types allow it, as if no magnitude spoke against it; in float32
    without calibration data, and the graph itself for runtimes that take floats as they are.
    """
    if not narrows_floats(target):
        return lowered
    magnitudes = dict.fromkeys(_measured(lowered), 1.0)
    precision = decide(lowered, target, magnitudes) if calibrated else WIDE
    return in_few_bits(typed(lowered, precision))


_RAN = (
    "{} was run by ONNX Runtime on the CPU, which keeps some values in float32 "
    "between operators: {}"
)
_ITSELF = "model.onnx itself"
_SPELLED = "model.onnx, with rounding in blocks spelled in standard operators,"
_RANGE = "it stays float32, as its values come too near to an end of {}'s range"


def _measured(model: ir.Model) -> list[str]:
    """Float values whose magnitudes matter: not those inside the spelling of a rounding."""
    inner = spelled_nodes(model)
    hidden = {str(v.name) for n in model.graph if str(n.name) in inner for v in n.outputs}
    read = {str(v.name) for n in model.graph if str(n.name) not in inner for v in n.inputs if v}
    return [name for name in float_values(model) if name not in hidden or name in read]


@contextmanager
def _opened(model: ir.Model, threads: int, entries: Mapping[str, str]) -> Iterator[Session]:
    """A session on a model, which passes through a file: it may be larger than 2 GB."""
    with tempfile.TemporaryDirectory(prefix="planish-") as folder:
        path = Path(folder, "model.onnx")
        save_model(model, path)
        yield open_session(path, threads=threads, entries=entries)


def _inspected(model: ir.Model, target: Target) -> tuple[tuple[Violation, ...], str]:
    """What the rules of ``planish targets check``, and ONNX's full check, find in its file."""
    with tempfile.TemporaryDirectory(prefix="planish-") as folder:
        path = Path(folder, "model.onnx")
        save_model(model, path)
        try:
            onnx.checker.check_model(str(path), full_check=True)
            objection = ""
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            objection = " ".join(str(error).split())[:300]
        return check_model(load_as_written(path), target), objection


def _valid(objection: str, lowered: ir.Model, target: Target) -> str:
    """Raises TargetError where ONNX's checker objects to what was made of a model that it takes."""
    checker = f"onnx.checker {onnx.__version__}, full check with shape inference"
    if not objection:
        return f"{checker}: nothing found"
    _, before = _inspected(lowered, target)
    if not before:
        what = f"the typed model is not valid ONNX: {objection}"
        raise TargetError(what, where="model.onnx", hint="this is a fault of planish: report it")
    return f"{checker}, objects, and did before types were in the model: {before}"


def _refused_types(
    found: Sequence[Violation],
    lowered: ir.Model,
    precision: Precision,
    unwanted: frozenset[str] = frozenset(),
) -> dict[str, str]:
    """Nodes that may compute in float32 but not in half precision, as the rules say."""
    if not precision.converts:
        return {}
    known = {str(node.name) for node in lowered.graph} - precision.kept.keys()
    errors = {each.node for each in found if each.severity == "error" or each.rule in unwanted}
    return dict.fromkeys(sorted(errors & known), "type")


def _within_rules(found: Sequence[Violation], target: Target) -> str:
    """What the rules found, in words. Raises TargetError for errors."""
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
    texts = [
        f"{e.op} {e.node!r}: {e.reason}{f' ({e.value})' if e.value else ''}" for e in known[:most]
    ]
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


def _decibels(drift: OutputDrift) -> float:
    """How near an output is, in dB; where it holds no floats, near or not."""
    if drift.sqnr_db is None:
        return ENOUGH if (drift.top1 or 0.0) >= LEAST_TOP1 else 0.0
    return min(drift.sqnr_db, ENOUGH)


def _bytes(model: ir.Model) -> int:
    values = model.graph.initializers.values()
    return sum(v.const_value.nbytes for v in values if v.const_value is not None)
