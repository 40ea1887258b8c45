"""A plan on one screen: what would be done, why, what it is predicted to give, what is refused."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..compiler.moves import BY_HAND, PASSES_FOR
from ..compiler.planning.outlook import Outlook, Planned, SitePlan, Size, Time
from ..compiler.policy import Aside
from ..compiler.reporting.headline import factor, size, three
from ..compiler.reporting.summary import some
from ..ir.shown import inline

MOST_GROUPS = 8
"""Lines of equal sites; so that everything fits 40 lines. --all has every site."""
SAME = 1.005
GAIN = 1.02
_WIDTH = 10


def show(plan: Planned, console: Console, *, every: bool = False) -> None:
    """Print the plan; every: one line a site instead of one a group of equal ones."""
    first = plan.chosen
    console.print(Text(headline(plan), style="bold"), soft_wrap=True)
    rows = [
        ("workload", workload_text(plan)),
        ("pipeline", first.pipeline),
        ("why", first.reason),
        ("size", size_text(first.size)),
        ("time", time_text(first.time)),
        ("then", standing(plan)),
        *(("also", note) for note in first.notes[:2]),
    ]
    console.print()
    for label, text in rows:
        _line(console, label, text)
    console.print()
    console.print(_sites(first, every=every))
    if plan.alternatives:
        console.print()
        console.print(_alternatives(plan.alternatives))
    lines = aside_lines(plan.aside)
    if lines:
        console.print()
    for label, text in lines:
        _line(console, label, text)


def headline(plan: Planned) -> str:
    """Model, target, goal, and that nothing was done."""
    target = plan.target if plan.resolved == plan.target else f"{plan.target} ({plan.resolved})"
    return f"plan of {inline(plan.model)} for {target}, goal {plan.goal}: nothing is changed"


def workload_text(plan: Planned) -> str:
    """The workloads, the first ones, and where they come from."""
    shown = some(map(str, plan.workloads))
    if not any(w.bindings for w in plan.workloads):
        return "all axes of the inputs have fixed sizes"
    return f"{shown} (generated feeds: state yours with --workload)" if plan.generated else shown


def size_text(figures: Size) -> str:
    """``90.7 MB -> 14.0 MB, 6.5x smaller (…)``."""
    basis = {
        "lowered": "counted on the graph as it would be lowered",
        "savings": "the file less what the passes say they save",
    }[figures.basis]
    change = f"{size(figures.before)} -> {size(figures.after)}, {size_ratio(figures)}"
    return f"{change} (predicted: {basis})"


def size_ratio(figures: Size) -> str:
    """``6.5x smaller``, ``1.2x larger``, ``same size``."""
    ratio = figures.before / max(figures.after, 1)
    if 1 / SAME < ratio < SAME:
        return "same size"
    return f"{factor(ratio)}x smaller" if ratio > 1 else f"{factor(1 / ratio)}x larger"


def time_text(time: Time) -> str:
    """``1.20 ms -> 0.40 ms a run, 3.00x (estimated: …)``, or why it is unknown."""
    if time.before is None or time.after is None or time.ratio is None:
        return f"unknown: {time.note}" if time.note else "unknown"
    figures = f"{three(time.before)} ms -> {three(time.after)} ms a run, {time.ratio:.2f}x"
    doubt = "" if time.ratio > GAIN else "; no gain in speed is predicted"
    said = time.note if time.note.startswith(time.basis) else f"{time.basis}: {time.note}"
    return f"{figures} ({said}){doubt}"


def standing(plan: Planned) -> str:
    """What a compile would do about it."""
    if not plan.compilable:
        return f"nothing can be compiled yet: {plan.why_not}"
    if not plan.executable:
        return f"a compile would predict, not measure: {plan.why_not}"
    if plan.given:
        return "a compile builds this one, judges its quality and times it here"
    count = len(plan.outlooks)
    which = "this one" if count == 1 else f"these {count}"
    return f"a compile builds {which}, judges quality, times here, and keeps what pays"


def aside_lines(aside: Sequence[Aside]) -> list[tuple[str, str]]:
    """What is set aside as labelled lines: with its reason where planish has a pass for it."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for item in aside:
        if item.technique in PASSES_FOR:
            label = "refused" if item.by == "target" else "not tried"
            named = reasons.setdefault((label, f"{item.code}: {item.sentence}"), [])
            named.append(item.pipeline or item.technique)
    lines = [(label, f"{', '.join(names)} ({why})") for (label, why), names in reasons.items()]
    others = [item for item in aside if item.technique not in PASSES_FOR]
    never = ", ".join(f"{item.technique} ({item.code})" for item in others if item.by == "target")
    asked = [item.technique for item in others if item.by == "request"]
    takes = ", ".join(f"{a} ({BY_HAND[a]})" if a in BY_HAND else a for a in asked)
    later = ", ".join(i.technique for i in others if i.code == "no-pass")
    backend = ", ".join(f"{i.technique} ({i.code})" for i in others if i.code == "by-backend")
    lines += [("refused", f"by the target: {never}")] if never else []
    if takes:
        lines.append(("by hand", f"how much may go is yours to say: --passes takes {takes}"))
    if backend:
        lines.append(("backend", f"where ranges allow, without a pass: {backend}"))
    return lines + ([("no pass", f"planish has none yet for {later}")] if later else [])


def _line(console: Console, label: str, text: str) -> None:
    words = Text.assemble((f"{label:<{_WIDTH}}", "bold"), " ".join(text.split()))
    console.print(words, soft_wrap=True)


def _sites(outlook: Outlook, *, every: bool) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("sites", "kind", "weight", "what would be done"):
        table.add_column(name, overflow="fold")
    groups = [[site] for site in outlook.sites] if every else _groups(outlook.sites)
    shown = groups if every else groups[:MOST_GROUPS]
    for group in shown:
        table.add_row(*map(Text, _cells(group)))
    hidden = sum(len(group) for group in groups[len(shown) :])
    if hidden:
        table.add_row(Text(f"{hidden} more sites: --all lists them"), "", "", "")
    return table


def _groups(sites: Sequence[SitePlan]) -> list[list[SitePlan]]:
    """Equal sites together, those that are changed first, the larger savings before."""
    groups: dict[object, list[SitePlan]] = {}
    for site in sites:
        shape = site.weight if site.done else ()
        key = (site.kind, shape, site.done, site.bits, site.kernel, site.code)
        groups.setdefault(key, []).append(site)
    return sorted(groups.values(), key=lambda g: (not g[0].done, -sum(s.saving for s in g)))


def _cells(group: Sequence[SitePlan]) -> tuple[str, ...]:
    first = group[0]
    names = some([inline(site.site) for site in group], 1)
    sites = names if len(group) == 1 else f"{len(group)} x: {names}"
    shapes = {site.weight for site in group}
    weight = " x ".join(map(str, first.weight)) if len(shapes) == 1 else "several"
    return sites, first.kind, weight, _done(group) if first.done else _left(group)


def _done(group: Sequence[SitePlan]) -> str:
    first = group[0]
    bits = f", {first.bits} bits" if first.bits is not None else ""
    kernel = f" in {first.kernel.rpartition(':')[2]}" if first.kernel else ""
    return f"{first.done}{bits}{kernel}: {size(sum(site.saving for site in group))} saved"


def _left(group: Sequence[SitePlan]) -> str:
    first = group[0]
    more = len({site.sentence for site in group}) - 1
    others = f" (and {more} other reasons)" if more else ""
    return f"left as it is, {first.code}: {first.sentence}{others}"


def _alternatives(outlooks: Sequence[Outlook]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("alternatives", "size", "time", "sites", "why"):
        table.add_column(name, overflow="fold")
    for outlook in outlooks:
        time = outlook.time
        speed = "unknown" if time.ratio is None else f"{time.ratio:.2f}x, {time.basis}"
        ratio = size_ratio(outlook.size)
        cells = (outlook.pipeline, ratio, speed, str(len(outlook.taken)), outlook.reason)
        table.add_row(*map(Text, cells))
    return table
