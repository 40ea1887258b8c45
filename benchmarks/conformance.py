"""Every lossless pass over every suite: one row a suite and subject, and what failed.

    .venv/bin/python benchmarks/conformance.py                        # all; or: make conformance
    .venv/bin/python benchmarks/conformance.py onnx-node onnx-light --keep out/reproducers

Takes about half an hour on one core and nine gigabytes of memory (the largest transformer).
Ends with status 1 where a promise was broken or a case was skipped.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from planish.compiler.harness.case import Case, Suite
from planish.compiler.harness.check import Failure, check
from planish.compiler.harness.lossless import cpu_targets, lossless_subjects
from planish.compiler.harness.reproduce import command_for, write_reproducer
from planish.compiler.harness.subject import DEFAULT_TARGET, Subject
from planish.compiler.harness.suites import SUITES

ONE_TARGET = frozenset({"onnx-node", "onnx-node-constants"})
"""Suites of single operators: no lossless pass asks the target about these."""
WIDTH = 110
COLUMNS = ("suite", "pipeline", "target", "cases", "edits", "failures", "skipped", "seconds")


@dataclass
class Row:
    """One subject over one suite. seconds: of this process's CPU time, making cases left out."""

    suite: str
    subject: Subject
    cases: int = 0
    edits: int = 0
    skipped: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    def cells(self) -> tuple[str, ...]:
        """As the table shows it."""
        counts = (self.cases, self.edits, len(self.failures), self.skipped)
        names = (self.suite, self.subject.pipeline, self.subject.target)
        return (*names, *(f"{n:,}" for n in counts), f"{self.seconds:.0f}")


def run(suite: Suite, keep: Path | None, say: Callable[[str], None]) -> list[Row]:
    """All subjects over one suite; a case is made once and dropped before the next."""
    targets = (DEFAULT_TARGET,) if suite.name in ONE_TARGET else cpu_targets()
    rows = [Row(suite.name, subject) for subject in lossless_subjects(targets)]
    for case in suite.cases():
        for row in rows:
            _add(row, case, keep, say)
        gc.collect()
    return rows


def _add(row: Row, case: Case, keep: Path | None, say: Callable[[str], None]) -> None:
    start = time.process_time()
    outcome = check(row.subject, case)
    row.seconds += time.process_time() - start
    row.cases += 1
    row.edits += outcome.edits
    row.skipped += bool(outcome.skipped)
    row.failures += outcome.failures
    if outcome.skipped:
        say(f"{row.suite}, {row.subject}, {case.name}: skipped, {outcome.skipped}")
    for failure in outcome.failures:
        say(f"{row.suite}, {row.subject}, {case.name}: {failure}")
    if outcome.failures and keep is not None:
        folder = keep / f"{row.suite}-{case.name.replace('/', '-')}"
        write_reproducer(folder, case, outcome.failures[0], command_for(row.subject, folder))


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the table."""
    table = Table()
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in COLUMNS[:3] else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row.cells())
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """The script; returns its exit status."""
    parser = argparse.ArgumentParser(description="Every lossless pass over every suite.")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write failures there")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.suites if name not in SUITES]
    if unknown:
        parser.error(f"no suite {unknown[0]!r}; there are {', '.join(SUITES)}")
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    rows: list[Row] = []
    for name in options.suites or SUITES:
        found = run(
            SUITES[name],
            options.keep,
            lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
        )
        show(found, console)
        rows += found
    return int(any(row.failures or row.skipped for row in rows))


if __name__ == "__main__":
    sys.exit(main())
