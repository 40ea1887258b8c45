"""A difference of two models as lines: for a terminal, and in Markdown for a pull request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ...ir.diff.changes import GraphDiff, Hunk
from ...ir.diff.patterns import pattern_of
from ...ir.diff.pool import Pool, Source
from ...ir.shown import clipped, inline
from ...ir.signature import shape_of, shape_text
from ..diffing import ModelDiff, pass_of, repeated
from .difflines import LONGEST, Line, Style, signed_size
from .diffsums import missing_lines, sum_lines
from .diffweights import weight_lines
from .places import folded

QUIET = "spelled"
"""What was done in hunks of which nothing is shown but how many there are."""
SHOWN_SUBJECTS = 5
SHOWN_PLACES, SHOWN_OPERATORS = 6, 4


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
        yield from missing_lines(diff.graph.unknown)
        return
    yield from sum_lines(diff)
    families = [
        (key, hunks) for key, hunks in repeated(diff) if _wanted(diff, hunks[0], shown.only)
    ]
    if shown.only:
        yield from _filtered(shown, sum(len(h) for _, h in families), len(diff.graph.hunks))
    yield Line("")
    yield from _summary(diff, [hunks for _, hunks in families])
    yield from _families(diff, [hunks for _, hunks in families])
    for _, hunks in () if shown.stat else families:
        if not shown.every and pattern_of(diff.graph, hunks[0]).code == QUIET:
            continue
        for hunk in hunks if shown.every else hunks[:1]:
            yield Line("")
            yield from _hunk(diff, hunk, hunks, shown)


def _filtered(shown: Shown, count: int, of: int) -> Iterator[Line]:
    """That what follows is not all of it."""
    names = inline(" and ".join(shown.only))
    yield Line("")
    yield Line(f"  only what {names} did: {count} of {of} places; the sums above are of all",
               "changed")  # fmt: skip


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


def _wanted(diff: ModelDiff, hunk: Hunk, only: Sequence[str]) -> bool:
    return not only or not set(only).isdisjoint(diff.passes(hunk))


# -- families ------------------------------------------------------------------------------


def _families(diff: ModelDiff, families: Sequence[Sequence[Hunk]]) -> Iterator[Line]:
    """What was done, how often, and what it is worth: a line for hunks that are alike."""
    width = len(str(max((len(hunks) for hunks in families), default=1)))
    for hunks in families:
        first, saved = hunks[0], sum(hunk.bytes for hunk in hunks)
        count = f"{len(hunks):>{width}} x {pattern_of(diff.graph, first).title}"
        parts = [f"{count}: {_operators(diff, first)}", signed_size(saved), _who(diff, first)]
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
        saved = signed_size(sum(hunk.bytes for hunk in hunks))
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


def _style(hunk: Hunk) -> Style:
    return {"added": "new", "removed": "old"}.get(hunk.kind, "changed")  # type: ignore[return-value]


# -- one hunk ------------------------------------------------------------------------------


def _hunk(diff: ModelDiff, hunk: Hunk, alike: Sequence[Hunk], shown: Shown) -> Iterator[Line]:
    losses = diff.losses(hunk)
    loss = f"loss {max(losses.values()):.2e}" if losses else ""
    counts = f"{len(hunk.before)} -> {len(hunk.after)}"
    what = f"{pattern_of(diff.graph, hunk).title} {counts}"
    title = [inline(hunk.module) or "(no module)", what, signed_size(hunk.bytes), _who(diff, hunk)]
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
    yield from weight_lines(diff, hunk)
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
    ``^3`` the third before. The name of the node stands behind where no input tells which it is.
    """
    node = pool.nodes[number]
    values = zip(pool.sources[number], node.inputs, strict=True)
    read = [_input(source, value, above) for source, value in values if value is not None]
    made = ", ".join(_shape(value) for value in node.outputs if value.name)
    named = "" if any(_tells(source, above) for source in pool.sources[number]) else node.name
    return inline(f"{node.op_type}({', '.join(read)}) -> {made}  {named or ''}".rstrip())


def _tells(source: Source, above: Mapping[int, int]) -> bool:
    """Whether an input tells which node of its kind reads it: others are shapes alone."""
    return source.kind == "constant" or (source.kind == "node" and int(source.of) in above)


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
