"""A run of the harness on one screen, and as a document for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from .authored import next_steps
from .check import RULES
from .reproduce import model_text
from .run import Report, Shrunk

MOST_LINES = 14
"""Of a model's text; so that the first failures fit a screen."""
MOST_SKIPS = 3
IDLE = (
    "next: give --model FILE with a graph that it is for; explain-match says why one does not fit"
)


def screen(report: Report, console: Console, idle: Sequence[str] = ()) -> None:
    """Print the verdict, the failures by rule, and the smallest case of each kind.

    idle: passes that edited nothing though they should have.
    """
    style = "bold red" if report.failures else "bold yellow" if idle else "bold green"
    console.print(Text(headline(report, idle), style=style), soft_wrap=True)
    for step, count in report.by_step.items() if len(report.by_step) > 1 else ():
        console.print(Text(f"  {step}: {counted(count, 'edit')}"), soft_wrap=True)
    for name in idle:
        console.print(Text(f"  {name} edited nothing, so nothing of it was tested"), style="yellow")
        console.print(Text(f"  {IDLE}"), soft_wrap=True)
    for reason, count in report.skipped.most_common(MOST_SKIPS):
        console.print(Text(f"  skipped {count}: {reason}"), soft_wrap=True)
    for line in by_rule(report):
        console.print(Text(line), soft_wrap=True)
    for shrunk in report.shrunk:
        console.print()
        for line in lines_of(shrunk):
            console.print(Text(line), soft_wrap=True)


def headline(report: Report, idle: Sequence[str] = ()) -> str:
    """What was checked and what came of it, one sentence. idle: see ``screen``."""
    skipped = report.skipped.total()
    cases = counted(report.checked, "case")
    checked = f"{cases} checked" + (f", {skipped} skipped" if skipped else "")
    found = f"{report.failing_cases} failed" if report.failures else "no failure"
    found = "not tested" if idle and not report.failures else found
    return f"{found}: {report.subject}, {checked}, {counted(report.edits, 'edit')}"


def by_rule(report: Report) -> list[str]:
    """For each broken rule how many cases break it, and what it demands."""
    broken: dict[str, set[str]] = {}
    for failure in report.failures:
        broken.setdefault(failure.rule, set()).add(failure.case)
    return [
        f"  {rule.name}: {_some(broken[rule.name])}: {rule.summary}"
        for rule in RULES
        if rule.name in broken
    ]


def _some(cases: set[str]) -> str:
    shown = ", ".join(sorted(cases)[:3])
    return f"{len(cases)} ({shown}{', …' if len(cases) > 3 else ''})"


def lines_of(shrunk: Shrunk) -> list[str]:
    """The failure, the model that shows it, and the command."""
    count = len(shrunk.case.model.graph.node)
    lines = [str(shrunk.failure), f"  {shrunk.failure.case}: {_sizes(shrunk.nodes_before, count)}"]
    text = (model_text(shrunk.case.model) or "").splitlines()
    lines += [f"    {line[:110]}" for line in text[:MOST_LINES]]
    lines += [f"    … {len(text) - MOST_LINES} lines more"] if len(text) > MOST_LINES else []
    lines += next_steps(shrunk.failure)
    return lines + ([f"  again: {shrunk.command}"] if shrunk.command else [])


def document(report: Report, idle: Sequence[str] = ()) -> Mapping[str, Any]:
    """All of it for ``--json``. idle: see ``screen``."""
    return {
        "pipeline": report.subject.pipeline,
        "target": report.subject.target,
        "checked": report.checked,
        "edits": report.edits,
        "edits by step": dict(report.by_step),
        "edited nothing": list(idle),
        "skipped": dict(report.skipped),
        "failures": [
            {"rule": f.rule, "case": f.case, "stage": f.stage, "sentence": f.sentence}
            for f in report.failures
        ],
        "shrunk": [
            {
                "rule": s.failure.rule,
                "case": s.failure.case,
                "sentence": s.failure.sentence,
                "nodes": len(s.case.model.graph.node),
                "model": model_text(s.case.model),
                "command": s.command,
                "next": [line.strip() for line in next_steps(s.failure)],
            }
            for s in report.shrunk
        ],
    }


def counted(count: int, noun: str) -> str:
    """``1 case``, ``2 cases``."""
    return f"{count} {noun}" + ("s" if count != 1 else "")


def _sizes(before: int, after: int) -> str:
    return counted(after, "node") + (f", shrunk from {before}" if before != after else "")
