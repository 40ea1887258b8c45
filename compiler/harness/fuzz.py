"""Many generated graphs through every pass: ``python -m planish.compiler.harness.fuzz``.

Prints for each pipeline how many graphs it took, what each of its passes edited, how fast, and
what broke, made small. A pass that edited nothing counts as broken: nothing was tried of it. A
graph that takes the process with it (the runtime may abort) is named in the file ``now`` of the
folder.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from .case import Case
from .generator import TOWERS, generated
from .plans import PLANS, Plan
from .report import counted, screen
from .run import Report, Run

FEW = 100
"""Graphs, from which on each pass must have found something to edit."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz the pipelines one after the other; 1 where anything broke, or was never tried."""
    options = _options(arguments)
    options.keep.mkdir(parents=True, exist_ok=True)
    console, failed = Console(), 0
    for plan in _plans(options):
        begun = time.perf_counter()
        report = _fuzz(plan, options)
        screen(report, console)
        console.print(_pace(report, options, time.perf_counter() - begun), markup=False)
        idle = untried(report)
        for step in idle:
            console.print(f"  {step} edited nothing: it was not tried", markup=False)
        failed += report.failing_cases + len(idle)
    return 1 if failed else 0


def untried(report: Report) -> list[str]:
    """Steps of the pipeline that edited nothing in all of the graphs; none where those are few."""
    if report.seen < FEW:
        return []
    steps = [str(step) for step, _ in report.subject.passes()]
    return [step for step in steps if not report.by_step.get(step)]


def _plans(options: argparse.Namespace) -> Sequence[Plan]:
    """All of ours, or those asked for: with their target and tower where they are among ours."""
    known = {plan.pipeline: plan for plan in PLANS}
    wanted = [known.get(p, Plan(p)) for p in options.pipelines] or list(PLANS)
    return [plan.on(options.target, options.tower) for plan in wanted]


def _fuzz(plan: Plan, options: argparse.Namespace) -> Report:
    folder = options.keep / "".join(c if c.isalnum() else "-" for c in plan.pipeline)
    cases = generated(options.count, options.seed, start=options.start, tower=plan.tower)
    return Run(plan.subject(), folder).over(_noted(plan, cases, options))


def _noted(plan: Plan, cases: Iterator[Case], options: argparse.Namespace) -> Iterator[Case]:
    """The cases for a while; the one at work is written down before it begins."""
    end = time.perf_counter() + 60 * options.minutes
    for number, case in enumerate(cases, options.start):
        if time.perf_counter() > end:
            return
        again = f"--seed {options.seed} --start {number} --count 1 '{plan.pipeline}'"
        (options.keep / "now").write_text(f"{again}\n", encoding="utf8")
        yield case


def _pace(report: Report, options: argparse.Namespace, seconds: float) -> str:
    first, last = options.start, options.start + report.seen - 1
    each = 1000 * seconds / max(report.seen, 1)
    edits = "".join(f"\n    {step}: {counted(n, 'edit')}" for step, n in report.by_step.items())
    ran = f"  seed {options.seed}, numbers {first} to {last}, {seconds:.0f} s, {each:.0f} ms each"
    return ran + edits


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description="Generated graphs through passes.")
    parser.add_argument("pipelines", nargs="*", metavar="PIPELINE", help="default: all of ours")
    parser.add_argument("--count", type=int, default=10_000, help="graphs for each pipeline")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first graph")
    parser.add_argument("--minutes", type=float, default=60.0, help="for each pipeline, at most")
    parser.add_argument("--target", help="default: the pipeline's own")
    parser.add_argument("--tower", choices=["", *TOWERS], help="default: the pipeline's own")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="for reproducers")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
