"""The first lines of a shown difference: sums over both models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ...ir.shown import clipped, inline
from ..diffing import ModelDiff
from ..stages import EMITTED
from .difflines import LONGEST, Line
from .headline import size


def sum_lines(diff: ModelDiff) -> Iterator[Line]:
    """Both sides' names, nodes, parameters, bytes, figures, operators, and what callers see."""
    one, other = diff.graph.totals
    yield Line(f"{inline(diff.before.label)} -> {inline(diff.after.label)}", "title")
    for name, x, y in (
        ("nodes", one.nodes, other.nodes),
        ("parameters", one.parameters, other.parameters),
        ("bytes", one.bytes, other.bytes),
    ):
        texts = [size(v) if name == "bytes" else f"{v:,}" for v in (x, y)]
        yield _row(name, texts[0], texts[1], _percent(x, y))
    yield from _figures(diff)
    yield from _histogram("operators", one.operators, other.operators)
    stored = {k: size(v) for k, v in one.dtypes.items()}, other.dtypes
    yield from _histogram("stored", stored[0], {k: size(v) for k, v in stored[1].items()})
    yield from missing_lines(diff.graph.unknown)
    for sentence in (*diff.graph.face, *diff.graph.opsets, *diff.graph.stores):
        yield Line(f"  {inline(sentence)}", "changed")
    headline = diff.after.stage in ("", EMITTED) and diff.after.manifest.get("headline")
    if headline:
        yield Line(f"  as compiled: {inline(str(headline))}", "quiet")


def missing_lines(unknown: tuple[tuple[str, ...], tuple[str, ...]]) -> Iterator[Line]:
    """Constants whose bytes are not here."""
    for word, names in zip(("before", "after"), unknown, strict=True):
        if names:
            more = f", {names[0]} among them" if len(names) > 1 else f", {names[0]}"
            yield Line(
                inline(f"  the files of {len(names)} weights {word} are missing{more}: "
                       "compared by dtype and shape"), "changed",
            )  # fmt: skip


def _figures(diff: ModelDiff) -> Iterator[Line]:
    """Operations and times, where both sides have them."""
    found = diff.figures
    one, other = found.before, found.after
    if one.flops is not None and other.flops is not None:
        yield _row("FLOPs", count_text(one.flops), count_text(other.flops),
                   _percent(one.flops, other.flops))  # fmt: skip
    if one.ms is not None and other.ms is not None:
        share = _percent(one.ms, other.ms)
        yield _row("predicted", f"{one.ms:.3g} ms", f"{other.ms:.3g} ms", share)
        where = ", ".join(filter(None, (found.target, found.workload)))
        yield Line(f"             on {inline(where)}: {inline(other.note)}", "quiet")
    elif found.target:
        missing = one if one.ms is None else other
        yield Line(f"  predicted  not known: {inline(missing.note)}", "quiet")
    if one.measured_ms is not None and other.measured_ms is not None:
        yield _row("measured", f"{one.measured_ms:.3g} ms", f"{other.measured_ms:.3g} ms",
                   _percent(one.measured_ms, other.measured_ms))  # fmt: skip


def count_text(count: float) -> str:
    """``1.23 G``: three digits and a unit."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= limit:
            return f"{count / limit:.3g} {unit}"
    return f"{count:g}"


def _row(name: str, before: str, after: str, change: str) -> Line:
    return Line(f"  {name:11}{before:>14} -> {after:<14}{change}".rstrip())


def _percent(before: float, after: float) -> str:
    return "" if before in (0, after) else f"({100 * (after - before) / before:+.1f} %)"


def _histogram(
    title: str, before: Mapping[str, int | str], after: Mapping[str, int | str]
) -> Iterator[Line]:
    changed = [
        f"{name} {before.get(name, 0)} -> {after.get(name, 0)}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
    if changed:
        yield Line(clipped(f"  {title:11}{', '.join(changed)}", 4 * LONGEST))
