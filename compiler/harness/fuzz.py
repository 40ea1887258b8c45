"""Many generated graphs through every pass: ``python -m planish.compiler.harness.fuzz``.

Prints for each pipeline how many graphs it took, how fast, and what broke, made small. A graph
that takes the process with it (the runtime may abort) is named in the file ``now`` of the folder.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from .case import Case
from .generator import generated
from .report import screen
from .run import Report, Run
from .subject import Subject

PIPELINES = (
    "canonicalize",
    "canonicalize{rules=exact}",
    "equalize",
    "canonicalize,equalize",
    "quantize",
    "canonicalize,quantize",
    "canonicalize,quantize{scheme=static}",
    "canonicalize,equalize,quantize{scheme=static calibrator=percentile bias_correction=false}",
    "weight-only",
    "canonicalize,weight-only{bits=2 block=16 symmetric=true}",
    "canonicalize,weight-only{layers=false},quantize",
)
TARGET = "x86-avx512-vnni"
"""The one with the lowest break-evens: there most layers are worth an edit."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz the pipelines one after the other; 1 where anything broke."""
    options = _options(arguments)
    options.keep.mkdir(parents=True, exist_ok=True)
    console, failed = Console(), 0
    for pipeline in options.pipelines or PIPELINES:
        begun = time.perf_counter()
        report = _fuzz(pipeline, options)
        screen(report, console)
        console.print(_pace(report, options, time.perf_counter() - begun), markup=False)
        failed += report.failing_cases
    return 1 if failed else 0


def _fuzz(pipeline: str, options: argparse.Namespace) -> Report:
    folder = options.keep / "".join(c if c.isalnum() else "-" for c in pipeline)
    cases = generated(options.count, options.seed, start=options.start)
    return Run(Subject(pipeline, options.target), folder).over(_noted(pipeline, cases, options))


def _noted(pipeline: str, cases: Iterator[Case], options: argparse.Namespace) -> Iterator[Case]:
    """The cases for a while; the one at work is written down before it begins."""
    end = time.perf_counter() + 60 * options.minutes
    for number, case in enumerate(cases, options.start):
        if time.perf_counter() > end:
            return
        again = f"--seed {options.seed} --start {number} --count 1 '{pipeline}'"
        (options.keep / "now").write_text(f"{again}\n", encoding="utf8")
        yield case


def _pace(report: Report, options: argparse.Namespace, seconds: float) -> str:
    first, last = options.start, options.start + report.seen - 1
    each = 1000 * seconds / max(report.seen, 1)
    return f"  seed {options.seed}, numbers {first} to {last}, {seconds:.0f} s, {each:.0f} ms each"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description="Generated graphs through passes.")
    parser.add_argument("pipelines", nargs="*", metavar="PIPELINE", help="default: all of ours")
    parser.add_argument("--count", type=int, default=10_000, help="graphs for each pipeline")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first graph")
    parser.add_argument("--minutes", type=float, default=60.0, help="for each pipeline, at most")
    parser.add_argument("--target", default=TARGET)
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="for reproducers")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
