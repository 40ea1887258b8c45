"""``planish plan``: what a compile would do, and what that is predicted to give."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..api import plan as make_plan
from ..terminal import JsonOption, VerboseOption, terminal_of
from .compile import Goal, check_model
from .plan_screen import show


def plan_command(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="An ONNX file, or file.py:function returning "
            "(module, example_inputs[, dynamic_shapes]).",
        ),
    ],
    target: Annotated[
        str,
        typer.Option("--target", "-t", metavar="TARGET", help="A target's name, or a TOML file."),
    ] = "host",
    goal: Annotated[Goal, typer.Option(help="What to optimise.")] = Goal.latency,
    workload: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXES",
            help="Sizes of open axes, batch=1,seq=128; repeatable, with a share of the runs: "
            "batch=1,seq=1*0.9. Default: the shapes of the held-out or generated feeds.",
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="As of compile: static ranges need it."),
    ] = None,
    token_mask: Annotated[
        str | None,
        typer.Option(metavar="INPUT", help="The input that is 0 at padding."),
    ] = None,
    passes: Annotated[
        str | None,
        typer.Option(metavar="PIPELINE", help="Look at these passes instead of policy's."),
    ] = None,
    threads: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=4096, help="Threads of the runtime; 0: one per core."),
    ] = 0,
    max_memory: Annotated[
        str | None,
        typer.Option("--max-memory", metavar="SIZE", help="What the process may grow to."),
    ] = None,
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
        threads=threads,
        max_memory=max_memory,
        progress=sys.stderr.isatty(),
    )
    if terminal.json:
        terminal.document(found.to_json())
    else:
        show(found, terminal.stdout(), every=every)
