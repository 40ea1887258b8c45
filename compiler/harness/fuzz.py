"""Many generated graphs through every pass: ``python -m planish.compiler.harness.fuzz``.

Pipelines take the same graphs together, some hundreds at a time, until all have taken ``--count``:
one import serves all, and the steps that they have in common are taken once. What was done is kept
in the file ``progress.json`` of the folder, and gone on from; a graph that takes the process with
it (the runtime may abort) is named in the file ``now``. A pass that edited nothing counts as
broken: nothing was tried of it.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from .case import Case
from .fuzzlog import Done, Log
from .generator import TOWERS, generated
from .memory import Memory
from .plans import PLANS, Plan
from .report import counted, screen
from .run import Report, Run

CHUNK = 40
"""Graphs before other pipelines have their turn, and progress is written down."""
ALONE = 8
"""On one graph of so many each pipeline goes its whole way alone, as in a compile, and twice."""
FEW = 100
"""Graphs, from which on each pass must have found something to edit."""
RARELY = 50_000, 20, 100
"""Objects more than before, until garbage is looked for; see ``gc.set_threshold``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz the pipelines in turn; 1 where anything broke, or was never tried."""
    options = _options(arguments)
    options.keep.mkdir(parents=True, exist_ok=True)
    log, console, plans = (
        Log.read(options.keep, options.seed, options.start),
        Console(),
        _plans(options),
    )
    end = time.monotonic() + 60 * options.minutes
    gc.freeze()  # a seventh of the time goes into looking through what is imported for garbage
    gc.set_threshold(*RARELY)
    try:
        for turn, seen, count in _turns(plans, log, options.count, end):
            _chunk(turn, seen, count, log, options, console, end)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here", markup=False)
    return _summary(plans, log, options, console)


def untried(plan: Plan, done: Done) -> list[str]:
    """Steps of the pipeline that edited nothing in all of the graphs; none where those are few."""
    if done.seen < FEW:
        return []
    steps = [str(step) for step, _ in plan.subject().passes()]
    return [step for step in steps if not done.edits.get(step)]


def _turns(
    plans: Sequence[Plan], log: Log, count: int, end: float
) -> Iterator[tuple[Sequence[Plan], int, int]]:
    """The pipelines that are farthest behind and see the same graphs, how many each took, and how
    many are next; until all are done or the time is up."""
    while time.monotonic() < end:
        seen = {plan: log.of(plan).seen for plan in plans}
        last = min(plans, key=lambda each: seen[each])
        if seen[last] >= count:
            return
        same = [p for p in plans if p.tower == last.tower]
        ahead = min((seen[p] for p in same if seen[p] > seen[last]), default=count)
        turn = [p for p in same if seen[p] == seen[last]]
        yield turn, seen[last], min(CHUNK, ahead - seen[last], count - seen[last])


def _chunk(
    plans: Sequence[Plan],
    seen: int,
    count: int,
    log: Log,
    options: argparse.Namespace,
    console: Console,
    end: float,
) -> None:
    """The next graphs, each through all of the pipelines: they share what they have in common."""
    number = options.start + seen
    runs = [Timed(Run(plan.subject(), _folder(options, plan, number))) for plan in plans]
    for case in generated(count, options.seed, start=number, tower=plans[0].tower):
        alone = number % ALONE == 0
        memory = Memory(prefixes=not alone, twice=alone)
        for plan, run in zip(plans, runs, strict=True):
            again = f"--seed {options.seed} --start {number} --count 1 '{plan.pipeline}'"
            (options.keep / "now").write_text(f"{again}\n", encoding="utf8")
            run.one(case, memory)
        number += 1
        if time.monotonic() > end:
            break
    for plan, run in zip(plans, runs, strict=True):
        report = run.run.report()
        if report.failures:
            screen(report, console)
        done = log.of(plan).and_more(report, run.seconds)
        log.write(plan, done)
        console.print(_line(plan, done, report), markup=False, soft_wrap=True)


@dataclass
class Timed:
    """A run, and the seconds that it took; what is shared counts for who needs it first."""

    run: Run
    seconds: float = 0.0

    def one(self, case: Case, memory: Memory) -> None:
        """Check one case."""
        begun = time.perf_counter()
        self.run.one(case, memory)
        self.seconds += time.perf_counter() - begun


def _folder(options: argparse.Namespace, plan: Plan, number: int) -> Path:
    name = "".join(c if c.isalnum() else "-" for c in plan.pipeline)
    return Path(options.keep) / name / str(number)


def _line(plan: Plan, done: Done, report: Report) -> str:
    each = 1000 * done.seconds / max(done.seen, 1)
    failed = f", {report.failing_cases} FAILED" if report.failing_cases else ""
    return f"{plan.pipeline}: {done.seen} graphs, {each:.0f} ms each{failed}"


def _summary(plans: Sequence[Plan], log: Log, options: argparse.Namespace, console: Console) -> int:
    broken = 0
    for plan in plans:
        done, idle = log.of(plan), untried(plan, log.of(plan))
        broken += done.failing + len(idle)
        console.print(_of_plan(plan, done, options), markup=False, soft_wrap=True)
        for step in idle:
            console.print(f"  {step} edited nothing: it was not tried", markup=False)
    return 1 if broken else 0


def _of_plan(plan: Plan, done: Done, options: argparse.Namespace) -> str:
    first, last = options.start, options.start + done.seen - 1
    lines = [
        f"{plan.subject()}" + (f", behind a {plan.tower}" if plan.tower else ""),
        f"  seed {options.seed}, numbers {first} to {last}: {counted(done.seen, 'graph')}, "
        f"{done.skipped} skipped, {done.failing} failed, {done.seconds:.0f} s",
    ]
    lines += [f"  {step}: {counted(n, 'edit')}" for step, n in done.edits.items()]
    return "\n".join(lines + [f"  FAILED {failure}" for failure in done.failures])


def _plans(options: argparse.Namespace) -> Sequence[Plan]:
    """All of ours, or those asked for: with their target and tower where they are among ours."""
    known = {plan.pipeline: plan for plan in PLANS}
    wanted = [known.get(p, Plan(p)) for p in options.pipelines] or list(PLANS)
    return [plan.on(options.target, options.tower) for plan in wanted]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description="Generated graphs through passes.")
    parser.add_argument("pipelines", nargs="*", metavar="PIPELINE", help="default: all of ours")
    parser.add_argument("--count", type=int, default=10_000, help="graphs for each pipeline")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first graph")
    parser.add_argument("--minutes", type=float, default=24 * 60.0, help="for all of it, at most")
    parser.add_argument("--target", help="default: the pipeline's own")
    parser.add_argument("--tower", choices=["", *TOWERS], help="default: the pipeline's own")
    parser.add_argument(
        "--keep", type=Path, default=Path("build/fuzz"), help="for reproducers and progress"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
