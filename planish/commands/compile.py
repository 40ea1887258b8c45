"""``planish compile``: the main job."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..api import build
from ..compiler.data.usercode import is_function_reference
from ..compiler.reporting.artifact import Artifact
from ..compiler.reporting.screen import screen
from ..ir.errors import UsageError
from ..terminal import JsonOption, VerboseOption, terminal_of
from .options import (
    CHOICES,
    DATA,
    DEFAULT_TIMEOUT,
    TOOLS,
    CalibrationOption,
    EvaluateOption,
    Goal,
    GoalOption,
    HoldoutOption,
    MaxDriftOption,
    MaxDropOption,
    MaxMemoryOption,
    ModelArgument,
    OnFailure,
    OnFailureOption,
    PassesOption,
    PassFileOption,
    PassTimeoutOption,
    SeedOption,
    TargetOption,
    ThreadsOption,
    TokenMaskOption,
    WorkloadOption,
    check_model,
    pass_files,
)


def compile_command(
    ctx: typer.Context,
    model: ModelArgument,
    target: TargetOption = "host",
    goal: GoalOption = Goal.latency,
    passes: PassesOption = None,
    pass_file: PassFileOption = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=CHOICES,
            help="Replay the choices of a manifest.json, a plan file or an artifact.",
        ),
    ] = None,
    calibration: CalibrationOption = None,
    holdout: HoldoutOption = None,
    token_mask: TokenMaskOption = None,
    evaluate: EvaluateOption = None,
    max_drop: MaxDropOption = None,
    max_drift: MaxDriftOption = None,
    workload: WorkloadOption = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="AXES",
            rich_help_panel=DATA,
            help="For TensorRT: least, usual and largest sizes of open axes, batch=1:8:32,"
            "seq=16:128:256; numbers of an input that decide a shape: size=1x64:4x128:8x256. "
            "Default: those seen in the data.",
        ),
    ] = None,
    threads: ThreadsOption = 0,
    max_memory: MaxMemoryOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Default: MODEL-TARGET, here."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the output folder if it is there.")
    ] = False,
    keep_overridable: Annotated[
        bool,
        typer.Option(
            "--keep-overridable", help="Keep initializers that are also inputs overridable."
        ),
    ] = False,
    seed: SeedOption = 0,
    snapshots: Annotated[
        Path | None,
        typer.Option(metavar="DIR", rich_help_panel=TOOLS, help="Save the model after each pass."),
    ] = None,
    keep_stages: Annotated[
        bool,
        typer.Option(
            "--keep-stages",
            rich_help_panel=TOOLS,
            help="Keep the graph after each pass in the artifact with its weights; without them "
            "it is kept anyway, for planish diff.",
        ),
    ] = False,
    bisect_limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, rich_help_panel=TOOLS, help="Apply only the first N edits."
        ),
    ] = None,
    on_pass_failure: OnFailureOption = OnFailure.stop,
    pass_timeout: PassTimeoutOption = DEFAULT_TIMEOUT,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> int:
    """Compile a model for a target, with proof.

    The output folder holds the model, its proof (manifest.json, report.md), samples with
    expected outputs, and verify.py. It is written whole or not at all.
    """
    if passes is not None and plan is not None:
        raise UsageError(
            "--passes and --plan cannot be combined",
            hint="a plan holds its pipeline: edit it there, or leave --plan out",
        )
    terminal = terminal_of(ctx)
    settings: dict[str, Any] = {
        "goal": goal.value, "pipeline": passes, "plan": plan, "calibration": calibration,
        "holdout": holdout, "token_mask": token_mask, "evaluate": evaluate,
        "max_drop": max_drop, "max_drift": max_drift, "threads": threads, "force": force,
        "keep_overridable": keep_overridable, "seed": seed, "bisect_limit": bisect_limit,
        "snapshots": snapshots, "max_memory": max_memory, "workload": workload,
        "profile": profile, "keep_stages": keep_stages,
        "on_pass_failure": on_pass_failure.value, "pass_timeout": pass_timeout,
        "pass_files": pass_files(
            pass_file, terminal, project=passes is not None or plan is not None
        ),
        "command": shlex.join(["planish", *sys.argv[1:]]),
    }  # fmt: skip
    folder = output or Path(default_output(model, target))
    built = build(
        check_model(model),
        target,
        folder,
        shown=sys.stderr.isatty(),
        verbose=verbose,
        settings=settings,
    )
    if terminal.json:
        artifact = Artifact.open(built.folder)
        terminal.document({"artifact": str(artifact.path), **artifact.manifest})
    else:
        screen(built.result, terminal.stdout(), folder)
    return built.result.exit_code


def default_output(model: str, target: str) -> str:
    """``minilm.onnx`` for ``host`` -> ``minilm-host``; a function gives its own name."""
    name = model.rpartition(":")[2] if is_function_reference(model) else model
    return (
        f"{Path(name).stem or 'model'}-{Path(target).stem if target.endswith('.toml') else target}"
    )
