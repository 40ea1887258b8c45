"""A difference of two models as lines: for a terminal, and in Markdown for a pull request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from ...ir.diff.changes import GraphDiff, Hunk, TensorChange, TensorFacts
from ...ir.diff.patterns import pattern_of
from ...ir.diff.pool import Pool, Source
from ...ir.diff.weights import Weight, WeightChange
from ...ir.shown import clipped, inline
from ...ir.signature import shape_of, shape_text
from ..diffing import ModelDiff, pass_of, repeated
from ..stages import EMITTED
from .headline import size
from .places import folded

Style = Literal["title", "old", "new", "changed", "quiet", "plain"]
LONGEST = 160
"""Characters of one line on a screen."""
SHOWN_SUBJECTS = 5
NEW_ZEROS = 0.1
"""Share of the elements from which on zeros that were none are told."""
SHOWN_TENSORS, SHOWN_PLACES, SHOWN_OPERATORS = 6, 6, 4


@dataclass(frozen=True)
class Line:
    """One line. style: what it is, for who colours it."""

    text: str
    style: Style = "plain"


@dataclass(frozen=True)
class Shown:
    """What is to be seen. stat: sums and families only; only: passes; every: each of several
    alike, not the first alone; context: unchanged nodes around a hunk."""

    stat: bool = False
    only: tuple[str, ...] = ()
    every: bool = False
    context: int = 0


def lines(diff: ModelDiff, shown: Shown) -> Iterator[Line]:
    """All of it, sums first."""
    if not diff.graph:
        yield Line("no difference: the contents of both graphs are equal")
        return
    if _nothing_seen(diff.graph):
        yield Line("no difference that can be seen: all that is known of both graphs is equal")
        yield from _missing(diff.graph.unknown)
        return
    yield from _sums(diff)
    families = [
        (key, hunks) for key, hunks in repeated(diff) if _wanted(diff, hunks[0], shown.only)
    ]
    yield Line("")
    yield from _summary(diff, [hunks for _, hunks in families])
    yield from _families(diff, [hunks for _, hunks in families])
    for _, hunks in () if shown.stat else families:
        for hunk in hunks if shown.every else hunks[:1]:
            yield Line("")
            yield from _hunk(diff, hunk, hunks, shown)


def _nothing_seen(graph: GraphDiff) -> bool:
    """Whether nothing but the weights that are missing can be different."""
    told = (graph.hunks, graph.values, graph.face, graph.opsets, graph.stores)
    return any(graph.unknown) and not any(told)


def markdown(diff: ModelDiff, shown: Shown) -> str:
    """The same for a pull request: one block, coloured as a diff is."""
    title, *rest = lines(diff, shown)
    marks = {"old": "-", "new": "+", "changed": "!"}
    body = [f"{marks.get(line.style, ' ')}{_unmarked(line.text)}".rstrip() for line in rest]
    fence = "`" * 3
    return "\n".join([f"### {title.text}", "", f"{fence}diff", *body, fence, ""])


def _unmarked(text: str) -> str:
    """Without the sign of a line, which stands in front of it in Markdown."""
    return f" {text[2:]}" if text[:2] in (" -", " +", " ~") else text


# -- sums ----------------------------------------------------------------------------------


def _sums(diff: ModelDiff) -> Iterator[Line]:
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
    yield from _missing(diff.graph.unknown)
    for sentence in (*diff.graph.face, *diff.graph.opsets, *diff.graph.stores):
        yield Line(f"  {inline(sentence)}", "changed")
    headline = diff.after.stage in ("", EMITTED) and diff.after.manifest.get("headline")
    if headline:
        yield Line(f"  as compiled: {inline(str(headline))}", "quiet")


def _missing(unknown: tuple[tuple[str, ...], tuple[str, ...]]) -> Iterator[Line]:
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


def _wanted(diff: ModelDiff, hunk: Hunk, only: Sequence[str]) -> bool:
    return not only or not set(only).isdisjoint(diff.passes(hunk))


# -- families ------------------------------------------------------------------------------


def _families(diff: ModelDiff, families: Sequence[Sequence[Hunk]]) -> Iterator[Line]:
    """What was done, how often, and what it is worth: a line for hunks that are alike."""
    width = len(str(max((len(hunks) for hunks in families), default=1)))
    for hunks in families:
        first, saved = hunks[0], sum(hunk.bytes for hunk in hunks)
        count = f"{len(hunks):>{width}} x {pattern_of(diff.graph, first).title}"
        parts = [f"{count}: {_operators(diff, first)}", _signed(saved), _who(diff, first)]
        yield Line("  " + "  ".join(filter(None, parts)), _style(first))
    same = diff.graph.unchanged
    yield Line(f"  {same} node{' is' if same == 1 else 's are'} the same", "quiet")


def _summary(diff: ModelDiff, families: Sequence[Sequence[Hunk]]) -> Iterator[Line]:
    """What was done to which operators, where several families had the same done to them."""
    done: dict[str, list[Hunk]] = {}
    for hunks in families:
        done.setdefault(pattern_of(diff.graph, hunks[0]).title, []).extend(hunks)
    if len(done) == len(families):
        return
    for title, hunks in sorted(done.items(), key=lambda pair: sum(h.bytes for h in pair[1])):
        subjects = Counter[str]()
        for hunk in hunks:
            subjects.update(dict(pattern_of(diff.graph, hunk).subjects))
        common = subjects.most_common()
        rest = sum(count for _, count in common[SHOWN_SUBJECTS:])
        names = [f"{count} {name}" for name, count in common[:SHOWN_SUBJECTS]]
        counted = ", ".join([*names, *([f"{rest} more"] if rest else [])])
        saved = _signed(sum(hunk.bytes for hunk in hunks))
        yield Line(clipped("  " + "  ".join(filter(None, [f"{title}: {counted}", saved])), LONGEST))
    yield Line("")


def _operators(diff: ModelDiff, hunk: Hunk) -> str:
    before = _counted(diff.graph.before.nodes[n].op_type for n in hunk.before)
    after = _counted(diff.graph.after.nodes[n].op_type for n in hunk.after)
    if hunk.kind in ("modified", "moved"):
        return before
    return " -> ".join(filter(None, (before, after)))


def _counted(names: Iterator[str]) -> str:
    """``MatMul, 2 Add``; of many the commonest."""
    counts = Counter(names).most_common()
    shown = [name if n == 1 else f"{n} {name}" for name, n in counts[:SHOWN_OPERATORS]]
    more = sum(n for _, n in counts[SHOWN_OPERATORS:])
    return ", ".join([*shown, *([f"{more} more"] if more else [])])


def _who(diff: ModelDiff, hunk: Hunk) -> str:
    return f"by {', '.join(diff.passes(hunk))}" if diff.passes(hunk) else ""


def _signed(count: int) -> str:
    return f"{'+' if count > 0 else ''}{size(count)}" if count else ""


def _style(hunk: Hunk) -> Style:
    return {"added": "new", "removed": "old"}.get(hunk.kind, "changed")  # type: ignore[return-value]


# -- one hunk ------------------------------------------------------------------------------


def _hunk(diff: ModelDiff, hunk: Hunk, alike: Sequence[Hunk], shown: Shown) -> Iterator[Line]:
    losses = diff.losses(hunk)
    loss = f"loss {max(losses.values()):.2e}" if losses else ""
    counts = f"{len(hunk.before)} -> {len(hunk.after)}"
    what = f"{pattern_of(diff.graph, hunk).title} {counts}"
    title = [inline(hunk.module) or "(no module)", what, _signed(hunk.bytes), _who(diff, hunk)]
    yield Line("@@ " + "  ".join(filter(None, [*title, loss])), "title")
    if len(alike) > 1 and not shown.every:
        yield Line(f"   {_others(hunk, alike)}", "quiet")
    yield from _context(diff.graph.before, hunk, shown.context)
    changed = dict(hunk.changed)
    old = [n for n in hunk.before if n not in changed]
    new = [n for n in hunk.after if n not in changed.values()]
    yield from _nodes(diff.graph.before, old, "- ", "old")
    yield from _nodes(diff.graph.before, sorted(changed), "~ ", "changed")
    yield from _nodes(diff.graph.after, new, "+ ", "new")
    for sentence in hunk.details:
        yield Line(clipped(f"   {inline(sentence)}", LONGEST), "changed")
    yield from _weights(diff, hunk)
    yield from _reasons(diff, hunk)


def _reasons(diff: ModelDiff, hunk: Hunk) -> Iterator[Line]:
    """Why, as the compile has it: the first edit of each pass."""
    first = {pass_of(edit, diff.edits): edit for edit in reversed(hunk.edits)}
    for name in diff.passes(hunk):
        reason = diff.reason(first[name])
        if reason:
            yield Line(clipped(inline(f"   {name}: {reason}"), LONGEST), "quiet")


def _others(hunk: Hunk, alike: Sequence[Hunk]) -> str:
    """Where else the same was done."""
    places = folded(inline(h.module) for h in alike if h.module and h.module != hunk.module)
    if not places:
        return f"the same {len(alike) - 1} times more"
    more = len(places) - SHOWN_PLACES
    tail = f" and {more} more" if more > 0 else ""
    return f"the same in {', '.join(places[:SHOWN_PLACES])}{tail}"


def _context(pool: Pool, hunk: Hunk, count: int) -> Iterator[Line]:
    """Unchanged nodes that the hunk reads."""
    read = (int(s.of) for n in hunk.before for s in pool.sources[n] if s.kind == "node")
    near = sorted({n for n in read if n not in hunk.before})[-count:] if count else []
    yield from _nodes(pool, near, "  ", "plain")


def _nodes(pool: Pool, numbers: Sequence[int], sign: str, style: Style) -> Iterator[Line]:
    lines = dict[int, int]()
    for line, number in enumerate(numbers):
        above = {n: line - at for n, at in lines.items()}
        yield Line(clipped(f" {sign}{node_text(pool, number, above)}", LONGEST), style)
        lines[number] = line


def node_text(pool: Pool, number: int, above: Mapping[int, int]) -> str:
    """``MatMul(^, q.weight FLOAT[384, 384]) -> [b, t, 384]``.

    above: how many lines above the nodes stand that are shown already; ``^`` is the line before,
    ``^3`` the third before.
    """
    node = pool.nodes[number]
    values = zip(pool.sources[number], node.inputs, strict=True)
    read = [_input(source, value, above) for source, value in values if value is not None]
    made = ", ".join(_shape(value) for value in node.outputs if value.name)
    return inline(f"{node.op_type}({', '.join(read)}) -> {made}")


def _input(source: Source, value: ir.Value, above: Mapping[int, int]) -> str:
    if source.kind == "node" and int(source.of) in above:
        back = above[int(source.of)]
        return "^" if back == 1 else f"^{back}"
    if source.kind in ("constant", "input"):
        dtype = value.dtype.name if value.dtype is not None else "?"
        return f"{value.name} {dtype}{_shape(value)}"
    return _shape(value)


def _shape(value: ir.Value) -> str:
    found = shape_of(value)
    return shape_text(None if found is None else [_dim(d) for d in found])


def _dim(dim: int | str | None) -> int | str | None:
    return None if isinstance(dim, str) and dim.startswith("unk__") else dim


def _weights(diff: ModelDiff, hunk: Hunk) -> Iterator[Line]:
    """What became of weights, and of smaller constants that are on both sides."""
    weights = [w for w in diff.weights(hunk) if w.before is not None and w.after is not None]
    told = {part.digest for w in weights for s in (w.before, w.after) if s for part in s.parts}
    small = [t for t in hunk.tensors if _tells(t) and t.before and t.before.digest not in told]
    texts = [*map(_weight_text, weights), *map(_tensor_text, small)]
    for text in texts[:SHOWN_TENSORS]:
        yield Line(clipped(f"   {inline(text)}", LONGEST), "quiet")
    if len(texts) > SHOWN_TENSORS:
        yield Line(f"   and {len(texts) - SHOWN_TENSORS} more tensors", "quiet")


def _tells(change: TensorChange) -> bool:
    """Whether a tensor is on both sides: the lines of the nodes tell of the others."""
    return change.before is not None and change.after is not None


def _weight_text(change: WeightChange) -> str:
    """``q.weight: FLOAT[384, 384] 590 kB -> INT8 149 kB, relative error 1.84e-02``."""
    one, other = change.before, change.after
    assert one is not None
    assert other is not None
    names = [weight.parts[0].name for weight in (one, other)]
    name = names[0] if one.parts[0].name == other.parts[0].name else " -> ".join(names)
    made = list(_weight_facts(change, other))
    return ", ".join([f"{name}: {_held(one)} -> {_held(other)}", *made])


def _held(weight: Weight) -> str:
    """Dtype and shape of what is stored, and all its bytes."""
    first = weight.parts[0]
    if weight.inner is not None:
        matrices = [part for part in weight.parts if len(part.shape) > 1]
        shapes = " x ".join(str(list(part.shape)) for part in matrices)
        return f"{first.dtype}{shapes} {size(weight.bytes)}"
    return f"{first.dtype}{list(first.shape)} {size(weight.bytes)}"


def _weight_facts(change: WeightChange, after: Weight) -> Iterator[str]:
    if change.error is not None:
        yield f"relative error {change.error:.2e}"
    if change.cut:
        yield f"{100 * change.cut:.0f} % cut"
    if after.inner is not None:
        yield f"rank {after.inner}"
    before = None if change.before is None else change.before.zeros
    if after.zeros is not None and after.zeros > (before or 0.0) + NEW_ZEROS:
        yield f"{100 * after.zeros:.0f} % zeros"
    if after.two_of_four and not (change.before and change.before.two_of_four):
        yield "2:4"


def _tensor_text(change: TensorChange) -> str:
    one, other = change.before, change.after
    assert one is not None
    assert other is not None
    error = "" if change.error is None else f", relative error {change.error:.2e}"
    name = one.name if one.name == other.name else f"{one.name} -> {other.name}"
    return f"{name}: {_stored(one)} -> {_stored(other)}{error}"


def _stored(facts: TensorFacts) -> str:
    return f"{facts.dtype}{list(facts.shape)} {size(facts.bytes)}"
