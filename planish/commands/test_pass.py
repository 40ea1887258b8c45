"""``planish test-pass``: a pass or a pipeline over suites, files and generated graphs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ..compiler.harness.case import Case, Suite
from ..compiler.harness.check import Outcome
from ..compiler.harness.feedfile import read_feeds
from ..compiler.harness.report import document, headline, screen
from ..compiler.harness.run import Run
from ..compiler.harness.shrink import DEFAULT_BUDGET
from ..compiler.harness.subject import DEFAULT_TARGET, Subject
from ..compiler.progress import progress_on
from ..ir.errors import UsageError, near
from ..terminal import JsonOption, VerboseOption, terminal_of

BROKEN = 9
"""Exit code: a promise was broken."""
DEFAULT_SUITE = "onnx-models"


def pass_test_command(
    ctx: typer.Context,
    pipeline: Annotated[
        str, typer.Argument(metavar="PIPELINE", help="One pass or several: canonicalize,quantize.")
    ],
    suite: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A suite; repeatable, 'all' for every one."),
    ] = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE|DIR", help="A model, or a folder of models; repeatable."),
    ] = None,
    feeds: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An .npz to feed the --model files; else generated."),
    ] = None,
    case: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only these cases; repeatable.")
    ] = None,
    generated: Annotated[
        int, typer.Option(metavar="N", min=0, help="As many generated graphs.")
    ] = 0,
    seed: Annotated[int, typer.Option(metavar="S", help="Of the generated graphs.")] = 0,
    target: Annotated[
        str, typer.Option("-t", "--target", metavar="NAME|FILE", help="What to compile for.")
    ] = DEFAULT_TARGET,
    exact: Annotated[
        bool, typer.Option("--exact", help="Ask for equal bits, whatever the passes promise.")
    ] = False,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a reproducer of each kind of failure.")
    ] = None,
    budget: Annotated[
        int, typer.Option(metavar="N", min=0, help="Cases tried to make a failure small; 0: none.")
    ] = DEFAULT_BUDGET,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> int:
    """Test a pass: run it over many models and check everything it promises.

    Without --suite, --model and --generated the suite of small models with stored outputs is run.
    """
    terminal = terminal_of(ctx)
    subject = Subject(pipeline, target, exact)
    subject.passes(), subject.load_target()
    cases = _chosen(case or [], _cases(suite or [], model or [], feeds, generated, seed))

    console = terminal.stderr()
    with progress_on(console, live=console.is_terminal, verbose=terminal.verbose) as progress:

        def advance(case: Case, outcome: Outcome) -> None:
            if terminal.verbose or outcome.failures:
                progress.note(f"{case.name}: {_said(outcome)}")
            progress.advance()

        run = Run(subject, keep, budget, advance)
        progress.phase("checking")
        report = run.over(cases)
    if not report.seen:
        raise UsageError(f"no case is called {', '.join(case or [])}", hint="run with -v for names")
    if terminal.json:
        terminal.document(document(report))
    else:
        screen(report, terminal.stdout())
    if report.failures and terminal.json:
        terminal.stderr().print(headline(report), markup=False)
    return BROKEN if report.failures else 0


def _said(outcome: Outcome) -> str:
    return "; ".join(map(str, outcome.failures)) or outcome.skipped or "ok"


def _cases(
    suites: list[str], models: list[Path], feeds: Path | None, generated: int, seed: int
) -> Iterator[Case]:
    if feeds is not None and not models:
        raise UsageError("--feeds goes with --model", hint="name the model that it feeds")
    parts = [suite.cases() for suite in _suites(suites, bool(models) or generated > 0)]
    parts += [_model_cases(path, feeds) for path in models]
    parts += [_generated(generated, seed)] if generated else []
    return itertools.chain.from_iterable(parts)


def _suites(names: list[str], others: bool) -> list[Suite]:
    from ..compiler.harness.suites import SUITES

    wanted = names or ([] if others else [DEFAULT_SUITE])
    for name in wanted:
        if name not in SUITES and name != "all":
            raise UsageError(f"there is no suite {name!r}", hint=near(name, [*SUITES, "all"]))
    return list(SUITES.values()) if "all" in wanted else [SUITES[name] for name in wanted]


def _model_cases(path: Path, feeds: Path | None) -> Iterator[Case]:
    from ..compiler.harness.suites import folder_suite
    from ..compiler.harness.suites.folder import file_case

    if path.is_dir():
        yield from folder_suite(path).cases()
    else:
        yield file_case(path, path.name, None if feeds is None else read_feeds(feeds))


def _generated(count: int, seed: int) -> Iterator[Case]:
    from ..compiler.harness.generator import generated

    return generated(count, seed)


def _chosen(names: list[str], cases: Iterator[Case]) -> Iterator[Case]:
    return (case for case in cases if case.name in names) if names else cases
