"""``planish bisect``: the edit with which a model went over its bound."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from ..compiler.bisecting import Found, Step, bisect
from ..compiler.conduct import Conduct, conducting
from ..compiler.pipeline import parse
from ..compiler.prepare import Request
from ..compiler.progress import progress_on
from ..compiler.reporting.manifest import plan_from
from ..compiler.result import Plan
from ..compiler.userpasses import using
from ..compiler.workshop import instantiate
from ..ir.errors import UsageError
from ..targets.loader import load_target
from ..terminal import JsonOption, Terminal, VerboseOption, terminal_of
from .options import (
    TRIED_TIMEOUT,
    CalibrationOption,
    EvaluateOption,
    HoldoutOption,
    MaxDriftOption,
    MaxDropOption,
    MaxMemoryOption,
    ModelArgument,
    PassFileOption,
    PassTimeoutOption,
    SeedOption,
    TargetOption,
    ThreadsOption,
    TokenMaskOption,
    check_model,
    pass_files,
)


def bisect_command(
    ctx: typer.Context,
    model: ModelArgument,
    target: TargetOption = "host",
    passes: Annotated[
        str | None,
        typer.Option(metavar="PIPELINE", help="The passes that broke it: canonicalize,quantize."),
    ] = None,
    pass_file: PassFileOption = None,
    pass_timeout: PassTimeoutOption = TRIED_TIMEOUT,
    plan: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A manifest.json, a plan or an artifact that broke."),
    ] = None,
    calibration: CalibrationOption = None,
    holdout: HoldoutOption = None,
    token_mask: TokenMaskOption = None,
    evaluate: EvaluateOption = None,
    max_drop: MaxDropOption = None,
    max_drift: MaxDriftOption = None,
    threads: ThreadsOption = 0,
    max_memory: MaxMemoryOption = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Find the edit with which a metric, or the outputs' drift, goes over a bound.

    The first edits of a pipeline are applied, as many as bisection asks for, and what comes out is
    measured; some other numbers of edits are tried, too, to see whether the search may be trusted.
    Nothing is written.
    """
    terminal = terminal_of(ctx)
    if (passes is None) == (plan is None):
        raise UsageError(
            "a pipeline is missing" if passes is None else "--passes and --plan cannot be combined",
            hint="give the pipeline that broke it with --passes, or the artifact with --plan",
        )
    if (max_drop is None) != (evaluate is None):
        raise UsageError(
            "--evaluate and --max-drop belong together",
            hint="the metric, and the drop from which on it is broken; or --max-drift without both",
        )
    files = pass_files(pass_file, terminal, project=True)
    console = terminal.stderr()
    with (
        using(files),
        conducting(Conduct.checked("stop", pass_timeout)),
        progress_on(console, live=console.is_terminal, verbose=verbose) as progress,
    ):
        chosen = Plan(passes or "", {}, ()) if plan is None else plan_from(plan)
        instantiate(parse(chosen.pipeline))
        settings: dict[str, Any] = {
            "calibration": calibration, "holdout": holdout, "token_mask": token_mask,
            "evaluate": evaluate, "max_drop": max_drop, "max_drift": max_drift,
            "threads": threads, "seed": seed, "max_memory": max_memory,
        }  # fmt: skip
        request = Request(
            source=check_model(model), target=load_target(target), example_inputs=None,
            dynamic_shapes="auto", goal="latency", pipeline=chosen.pipeline,
            keep_overridable=False, bisect_limit=None, snapshots=None, output=Path("bisect"),
            command=shlex.join(["planish", *sys.argv[1:]]), **settings,
        )  # fmt: skip
        found = bisect(request, chosen.given_back, progress)
    if terminal.json:
        terminal.document(_document(found))
    else:
        _show(found, terminal)


def _show(found: Found, terminal: Terminal) -> None:
    console = terminal.stdout()
    for line in _lines(found):
        console.print(Text(line), soft_wrap=True)


def _lines(found: Found) -> list[str]:
    edit, total = found.culprit, found.whole.edits
    if edit is None or found.before is None or found.after is None:
        return [
            f"no edit is to blame: the model is over the bound ({found.gate}) without any",
            f"  {found.start.sentence}",
            "  next: look at the import, the opset and the runtime: planish verify, planish diff",
        ]
    loss = "" if edit.loss is None else f", declared loss {edit.loss:.3g}"
    lines = [
        f"edit {found.after.edits} of {total} goes over the bound ({found.gate}): "
        f"{edit.pass_name} at {edit.site}, {edit.setting}{loss}",
        f"  without it  {_said(found.before, found)}",
        f"  with it     {_said(found.after, found)}",
        f"  all edits   {_said(found.whole, found)}",
    ]
    if found.rest is not None:
        word = "holds the bound" if found.alone else "is still over the bound"
        lines.append(f"  all others  {word}: {_said(found.rest, found)}")
    for step in found.odd:
        word = "over the bound" if step.broken else "within it"
        lines.append(f"  not in order: with the first {step.edits} edits it is {word}")
    if found.odd or not found.alone:
        lines.append(
            "  several edits make it up together: this one is where it goes over, not all that is "
            "wrong"
        )
    return [*lines, f"  next: leave it out: {edit.pass_name}{{exclude={edit.site}}}"]


def _said(step: Step, found: Found) -> str:
    if step.metric is None or found.original is None:
        return step.sentence
    return f"{step.metric:.6g} (original {found.original:.6g})"


def _document(found: Found) -> dict[str, Any]:
    edit = found.culprit
    return {
        "pipeline": found.pipeline, "gate": found.gate, "edits": found.whole.edits,
        "original": found.original,
        "culprit": None if edit is None else edit.to_json(),
        "number": None if found.after is None else found.after.edits,
        "without": None if found.before is None else asdict(found.before),
        "with": None if found.after is None else asdict(found.after),
        "all": asdict(found.whole), "none": asdict(found.start),
        "all but it": None if found.rest is None else asdict(found.rest),
        "alone": found.alone, "not in order": [asdict(step) for step in found.odd],
        "steps": [asdict(step) for step in found.steps],
    }  # fmt: skip
