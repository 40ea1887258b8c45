"""A result as the rows and groups that the report, the screen and the model card show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...ir.provenance import Edit, Remark
from ..result import UNCHANGED, CompileResult, PredictedSpeed, QualityRow, SiteKernel
from .headline import interval, size, size_change, three

_MEASURES = {"cosine": "cosine {:.4f}", "sqnr_db": "SQNR {:.1f} dB", "top1": "top-1 {:.1f} %"}


@dataclass(frozen=True)
class Row:
    """One line of the table: what, its value before and after, and what that means."""

    name: str
    before: str
    after: str
    change: str


@dataclass(frozen=True)
class Done:
    """The edits of one pass with one setting. loss: the largest one, and where."""

    pass_name: str
    setting: str
    edits: tuple[Edit, ...]

    @property
    def saving(self) -> int:
        """Bytes of weights saved by all these edits."""
        return sum(edit.saving for edit in self.edits)

    @property
    def worst(self) -> Edit | None:
        """The edit that lost most; None where nothing was lost."""
        lossy = [edit for edit in self.edits if edit.loss is not None]
        return max(lossy, key=lambda edit: edit.loss or 0.0, default=None)

    @property
    def sentence(self) -> str:
        """``quantize static-int8 at 73 sites: 66 MB saved, largest loss 0.0041 at …``."""
        places = f"{len(self.edits)} site{'s' if len(self.edits) != 1 else ''}"
        parts = [p for p in (_saved(self.saving), _loss(self.worst), _added(self.edits)) if p]
        head = f"{self.pass_name} {self.setting}".strip() + f" at {places}"
        return f"{head}: {', '.join(parts)}" if parts else head


@dataclass(frozen=True)
class Left:
    """Sites that one pass left alone for one reason; ``kind`` is refused or missed."""

    kind: str
    pass_name: str
    code: str
    remarks: tuple[Remark, ...]

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites that were left alone."""
        return tuple(remark.site for remark in self.remarks)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Each different sentence once, in order."""
        return tuple(dict.fromkeys(remark.sentence for remark in self.remarks))


def rows(result: CompileResult) -> list[Row]:
    """Size, parameters, latency, then every quality metric and slice, then drift."""
    return [*size_rows(result), *latency_rows(result), *quality_rows(result), *drift_rows(result)]


def size_rows(result: CompileResult) -> list[Row]:
    """Bytes and parameters before and after."""
    before, after = result.parameters_before, result.parameters_after
    change = "same" if before == after else f"{after - before:+,}"
    return [
        Row("size", size(result.bytes_before), size(result.bytes_after), size_change(result)),
        Row("parameters", f"{before:,}", f"{after:,}", change),
    ]


def latency_rows(result: CompileResult) -> list[Row]:
    """Milliseconds before and after and their ratio, or why there are none."""
    speed = result.speed
    if speed.predicted is not None:
        return [_predicted_row(speed.predicted)]
    if speed.before is None or speed.after is None or speed.ratio is None:
        unknown = "no change" if speed.reason == UNCHANGED else "not measured"
        return [Row("latency", "–", "–", ": ".join(filter(None, [unknown, speed.reason])))]
    bounds = interval(speed.low, speed.high)
    change = f"{speed.ratio:.2f}x" + (f" ({bounds})" if bounds else "")
    feeds = f" of {speed.feeds} feeds in turn" if speed.feeds > 1 else ""
    return [Row(f"latency{feeds}", f"{three(speed.before)} ms", f"{three(speed.after)} ms", change)]


def _predicted_row(predicted: PredictedSpeed) -> Row:
    """Never measured, and called so."""
    name, known = "latency (predicted, not measured)", predicted
    if known.before is None or known.after is None or known.ratio is None:
        return Row(name, "–", "–", f"unknown: {known.note}".rstrip(": "))
    change = f"{known.ratio:.2f}x ({known.basis})"
    return Row(name, f"{three(known.before)} ms", f"{three(known.after)} ms", change)


def quality_rows(result: CompileResult) -> list[Row]:
    """The metric and its slices before and after."""
    return [
        Row(row.name, f"{row.before:.4g}", f"{row.after:.4g}", drop(row))
        for row in result.quality.rows
    ]


def drift_rows(result: CompileResult) -> list[Row]:
    """How far each output moved on held-out data: one row an output, what gates look at."""
    return [
        Row(f"drift of {output}", "", "", measures_text(measures))
        for output, measures in sorted(result.quality.drift.items())
    ]


def drop(row: QualityRow) -> str:
    """``drop 0.18 (0.05-0.3)``: positive is worse, whatever the metric's direction."""
    bounds = interval(row.low, row.high, ".2g")
    count = f", {row.samples} samples" if row.samples else ""
    return f"drop {row.drop:.2g}" + (f" ({bounds})" if bounds else "") + count


def measures_text(measures: Mapping[str, float]) -> str:
    """Measures of drift in one line, the known ones first and in fixed units."""
    moved = measures.get("non_finite") or measures.get("reshaped")
    if measures.get("sqnr_db") == math.inf and not moved:
        return "equal to the original's"
    shown = [form.format(measures[name]) for name, form in _MEASURES.items() if name in measures]
    return ", ".join(shown or [f"{name} {measures[name]:.4g}" for name in sorted(measures)])


def done(result: CompileResult) -> list[Done]:
    """Edits grouped by pass and setting, in the order in which they were first made."""
    groups: dict[tuple[str, str], list[Edit]] = {}
    for edit in result.edits:
        groups.setdefault((edit.pass_name, edit.setting), []).append(edit)
    return [Done(name, setting, tuple(edits)) for (name, setting), edits in groups.items()]


def left(result: CompileResult) -> list[Left]:
    """Refused and missed remarks grouped by pass and reason code, the largest group first."""
    groups: dict[tuple[str, str, str], list[Remark]] = {}
    for remark in result.remarks:
        if remark.kind in ("refused", "missed"):
            key = (remark.kind, remark.pass_name, remark.code)
            groups.setdefault(key, []).append(remark)
    found = [Left(*key, tuple(remarks)) for key, remarks in groups.items()]
    return sorted(found, key=lambda group: (-len(group.remarks), group.pass_name, group.code))


def notes(result: CompileResult) -> list[str]:
    """What else a reader should know: notes of the compile, then remarks of that kind."""
    places: dict[str, list[str]] = {}
    for remark in result.remarks:
        if remark.kind == "note":
            places.setdefault(remark.sentence, []).append(remark.site)
    remarked = [_note(sentence, sites) for sentence, sites in places.items()]
    return list(dict.fromkeys([*result.notes, *remarked]))


def float_kernels(result: CompileResult) -> list[SiteKernel]:
    """Sites that the runtime computes in float."""
    return [site for site in result.kernels.sites if not site.integer]


def some(names: Iterable[str], limit: int = 3) -> str:
    """The first names and how many more there are."""
    known = list(names)
    more = f" and {len(known) - limit} more" if len(known) > limit else ""
    return ", ".join(known[:limit]) + more


def _saved(saving: int) -> str:
    if not saving:
        return ""
    return f"{size(saving)} saved" if saving > 0 else f"{size(-saving)} added"


def _loss(edit: Edit | None) -> str:
    return "" if edit is None else f"largest loss {edit.loss:.2g} at {edit.site}"


def _added(edits: Sequence[Edit]) -> str:
    """What kernels add by rounding activations on their own account."""
    found = [edit.runtime_loss for edit in edits if edit.runtime_loss is not None]
    return f"the kernel's int8 activations add up to {max(found):.2g}" if found else ""


def _note(sentence: str, sites: Iterable[str]) -> str:
    """The sentence behind the first places it is said of, the others counted."""
    known = some(dict.fromkeys(site for site in sites if site))
    return f"{known}: {sentence}" if known else sentence
