"""Options that several commands share, declared once."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from ..compiler.conduct import TIMEOUT
from ..compiler.userpasses import PassFile, loaded
from ..ir.errors import UsageError
from ..terminal import Terminal

DATA, QUALITY, CHOICES, TOOLS = "Data", "Quality", "What is done", "For people who write passes"


class Goal(enum.StrEnum):
    """What is traded for what; the driver takes the value."""

    latency = "latency"
    size = "size"
    balanced = "balanced"


class OnFailure(enum.StrEnum):
    """What becomes of a compile when a pass fails."""

    stop = "stop"
    skip = "skip"


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="An ONNX file, or file.py:function returning "
        "(module, example_inputs[, dynamic_shapes]).",
    ),
]
TargetOption = Annotated[
    str,
    typer.Option("--target", "-t", metavar="TARGET", help="A target's name, or a TOML file."),
]
GoalOption = Annotated[Goal, typer.Option(help="What to optimise.", rich_help_panel=CHOICES)]
PassesOption = Annotated[
    str | None,
    typer.Option(
        metavar="PIPELINE",
        rich_help_panel=CHOICES,
        help="Passes to run, such as canonicalize,quantize{scheme=static}; "
        "default: the policy's choice.",
    ),
]
PassFileOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--pass-file",
        metavar="FILE",
        rich_help_panel=CHOICES,
        help="A Python file with passes of your own; repeatable. It is run.",
    ),
]
CalibrationOption = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        rich_help_panel=DATA,
        help="An .npz (arrays named as the inputs, samples on axis 0), a folder of them "
        "(one feed each), or file.py:function yielding feeds.",
    ),
]
HoldoutOption = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        rich_help_panel=DATA,
        help="Data to measure on; default: a random 20 % of the calibration data.",
    ),
]
EvaluateOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.PY:FUNCTION",
        rich_help_panel=QUALITY,
        help="Your metric: gets run(feeds) -> outputs; returns a number, one number a "
        "sample, or planish.Scores.",
    ),
]
MaxDropOption = Annotated[
    str | None,
    typer.Option(
        metavar="DROP",
        rich_help_panel=QUALITY,
        help="What the metric may lose: in its units (0.5), or relative to float (0.5%).",
    ),
]
MaxDriftOption = Annotated[
    str | None,
    typer.Option(
        metavar="BOUND",
        rich_help_panel=QUALITY,
        help="What the outputs must keep where there is no metric, such as cosine=0.98, "
        "sqnr=20 (dB) or top1=99 (percent).",
    ),
]
SeedOption = Annotated[int, typer.Option(metavar="N", help="Of every random choice.")]
TokenMaskOption = Annotated[
    str | None,
    typer.Option(
        metavar="INPUT",
        rich_help_panel=DATA,
        help="The input that is 0 at padding, where it is not found by itself.",
    ),
]
WorkloadOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="AXES",
        rich_help_panel=DATA,
        help="Sizes of open axes, batch=1,seq=128; repeatable, with a share of the runs: "
        "batch=1,seq=1*0.9. Default: the shapes of the held-out or generated data.",
    ),
]
ThreadsOption = Annotated[
    int,
    typer.Option(metavar="N", min=0, max=4096, help="Threads of the runtime; 0: one per core."),
]
MaxMemoryOption = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        metavar="SIZE",
        help="What the process may grow to: 1500MB, 1.5GB, 2GiB; default: 80 % of what is "
        "free. A model that cannot be run within it is compiled without running it.",
    ),
]
OnFailureOption = Annotated[
    OnFailure,
    typer.Option(
        "--on-pass-failure",
        rich_help_panel=TOOLS,
        help="What to do when a pass fails: stop, or go on without it.",
    ),
]
PassTimeoutOption = Annotated[
    float,
    typer.Option(
        "--pass-timeout",
        metavar="SECONDS",
        min=0,
        rich_help_panel=TOOLS,
        help="What one call into a pass of your own may take; 0: any time.",
    ),
]
DEFAULT_TIMEOUT = TIMEOUT
TRIED_TIMEOUT = 20.0
"""The same of commands that run a pass on many cases, or build it many times."""


def check_model(text: str) -> str:
    """The argument MODEL. Raises UsageError for a Python file without a function."""
    if text.endswith(".py"):
        raise UsageError(
            "a Python file is no model", where=text, hint=f"name a function in it: {text}:function"
        )
    return text


def pass_files(
    given: list[Path] | None, terminal: Terminal, *, project: bool
) -> tuple[PassFile, ...]:
    """The files of ``--pass-file``; project: those too that the project in the working folder
    names, which is said on stderr, as nobody named them in the command. Without, no pipeline is
    given, and those of planish hold no pass of a user: that is said, too."""
    found = loaded(given or (), project=project)
    for file in found:
        if not project:
            names = ",".join(cls.name for cls in file.passes)
            verb, them = ("are", "them") if len(file.passes) > 1 else ("is", "it")
            said = f"{names} of {file.path.name} {verb} in no pipeline: name {them} with --passes "
            terminal.stderr().print(f"{said}canonicalize,{names}", markup=False, soft_wrap=True)
        if file.named_by is not None:
            terminal.stderr().print(f"loaded {file}", markup=False, soft_wrap=True)
    return found
