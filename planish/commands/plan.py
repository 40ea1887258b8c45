"""``planish plan``: what a compile would do, and what that is predicted to give."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..api import plan as make_plan
from ..terminal import JsonOption, VerboseOption, terminal_of
from .options import (
    CalibrationOption,
    Goal,
    GoalOption,
    MaxMemoryOption,
    ModelArgument,
    PassesOption,
    PassFileOption,
    TargetOption,
    ThreadsOption,
    TokenMaskOption,
    WorkloadOption,
    check_model,
    pass_files,
)
from .plan_screen import show


def plan_command(
    ctx: typer.Context,
    model: ModelArgument,
    target: TargetOption = "host",
    goal: GoalOption = Goal.latency,
    workload: WorkloadOption = None,
    calibration: CalibrationOption = None,
    token_mask: TokenMaskOption = None,
    passes: PassesOption = None,
    pass_file: PassFileOption = None,
    threads: ThreadsOption = 0,
    max_memory: MaxMemoryOption = None,
    every: Annotated[
        bool, typer.Option("--all", help="One line a site, not one a group of equal ones.")
    ] = False,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Say what a compile would do where, and why; change nothing.

    The pipelines that would be tried, what becomes of each site or why it is refused, size and
    time before and after as predicted. Works for every target, also for those that planish
    cannot compile for yet.
    """
    terminal = terminal_of(ctx)
    found = make_plan(
        check_model(model),
        target,
        goal=goal.value,
        workload=workload,
        calibration=calibration,
        token_mask=token_mask,
        pipeline=passes,
        pass_files=pass_files(pass_file, terminal, project=passes is not None),
        threads=threads,
        max_memory=max_memory,
        progress=sys.stderr.isatty(),
    )
    if terminal.json:
        terminal.document(found.to_json())
    else:
        show(found, terminal.stdout(), every=every)
