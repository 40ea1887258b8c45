"""``planish test-pass``: a pass or a pipeline over suites, files and generated graphs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..compiler.conduct import Conduct, conducting
from ..compiler.harness.authored import Asked, asked, default_cases, untried
from ..compiler.harness.case import Case, Suite
from ..compiler.harness.check import Outcome
from ..compiler.harness.feedfile import read_feeds
from ..compiler.harness.report import document, headline, screen
from ..compiler.harness.run import Report, Run
from ..compiler.harness.shrink import DEFAULT_BUDGET
from ..compiler.harness.subject import DEFAULT_TARGET, Subject
from ..compiler.progress import progress_on
from ..compiler.userpasses import using
from ..ir.errors import UsageError, near
from ..terminal import JsonOption, Terminal, VerboseOption, terminal_of
from .options import TRIED_TIMEOUT, PassFileOption, PassTimeoutOption, pass_files

BROKEN, UNTRIED = 9, 7
"""Exit codes: a promise was broken; a pass found nothing to edit, so that nothing is known."""
DEFAULT_SUITE = "onnx-models"


def pass_test_command(
    ctx: typer.Context,
    pipeline: Annotated[
        str,
        typer.Argument(
            metavar="PASS",
            help="A file of your own with passes, one of them as file.py:name, or a pipeline: "
            "canonicalize,quantize.",
        ),
    ],
    pass_file: PassFileOption = None,
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
    pass_timeout: PassTimeoutOption = TRIED_TIMEOUT,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> int:
    """Test a pass: run it over many models and check everything it promises.

    A file stands for each of its passes, behind canonicalize. Without --suite, --model and
    --generated they meet small stored models and generated graphs; a pipeline the former alone.
    """
    terminal = terminal_of(ctx)
    files = pass_files(pass_file, terminal, project=True)
    wanted = asked(pipeline, files, target, exact)
    chosen = partial(_chosen, case or [])
    with using(wanted.files), conducting(Conduct.checked("stop", pass_timeout)):
        for subject in wanted.subjects:
            subject.passes(), subject.load_target()
        own = pipeline not in {subject.pipeline for subject in wanted.subjects}
        ask = partial(_cases, suite or [], model or [], feeds, generated, seed, own)
        results = [
            _tested(each, wanted, chosen(ask()), keep, budget, terminal) for each in wanted.subjects
        ]
        if not any(report.seen for report, _ in results):
            none = f"no case is called {', '.join(case or [])}"
            raise UsageError(none, hint="run with -v for names")
        _show(results, terminal)
    if any(report.failures for report, _ in results):
        return BROKEN
    return UNTRIED if any(idle for _, idle in results) else 0


Result = tuple[Report, list[str]]
"""What was found, and the passes that edited nothing though they should have."""


def _tested(
    subject: Subject,
    wanted: Asked,
    cases: Iterator[Case],
    keep: Path | None,
    budget: int,
    terminal: Terminal,
) -> Result:
    console = terminal.stderr()
    with progress_on(console, live=console.is_terminal, verbose=terminal.verbose) as progress:

        def advance(case: Case, outcome: Outcome) -> None:
            if terminal.verbose or outcome.failures:
                progress.note(f"{case.name}: {_said(outcome)}")
            progress.advance()

        many = len(wanted.subjects) > 1
        folder = keep / subject.pipeline.rpartition(",")[2] if keep and many else keep
        run = Run(subject, folder, budget, advance, files=tuple(f.path for f in wanted.files))
        progress.phase(f"checking {subject.pipeline}" if many else "checking")
        report = run.over(cases)
    return report, untried(report, wanted.mine)


def _show(results: Sequence[Result], terminal: Terminal) -> None:
    if not terminal.json:
        for report, idle in results:
            screen(report, terminal.stdout(), idle)
        return
    documents = [document(report, idle) for report, idle in results]
    terminal.document(documents[0] if len(documents) == 1 else {"passes": documents})
    for report, _ in results:
        if report.failures:
            terminal.stderr().print(headline(report), markup=False)


def _said(outcome: Outcome) -> str:
    return "; ".join(map(str, outcome.failures)) or outcome.skipped or "ok"


def _cases(
    suites: list[str],
    models: list[Path],
    feeds: Path | None,
    generated: int,
    seed: int,
    own: bool,
) -> Iterator[Case]:
    """own: passes of the user's are tested, for which some graphs are always made."""
    if feeds is not None and not models:
        raise UsageError("--feeds goes with --model", hint="name the model that it feeds")
    parts = [suite.cases() for suite in _suites(suites, bool(models) or generated > 0)]
    parts += [_model_cases(path, feeds) for path in models]
    parts += [_generated(generated, seed)] if generated else []
    if own and not (suites or models or generated):
        parts.append(default_cases())
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
