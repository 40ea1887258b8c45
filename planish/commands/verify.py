"""``planish verify``: check an artifact without running any code that it brings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..compiler.reporting.artifact import Artifact
from ..compiler.reporting.selftest import BrokenArtifactError, Outcome, RunModel, check
from ..ir.errors import InputError
from ..ir.shown import printable
from ..targets.runtime import open_session
from ..terminal import JsonOption, VerboseOption, terminal_of


def verify_command(
    ctx: typer.Context,
    artifact: Annotated[
        Path, typer.Argument(help="The folder that compile wrote.", metavar="ARTIFACT")
    ],
    original: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="The model that was compiled, to compare with."),
    ] = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> int:
    """Check an artifact: files, answers, speed.

    It must be whole and answer here as it did where it was compiled. The checks are those of
    its verify.py, but none of its code is run. Exit code 3 where it fails.
    """
    terminal = terminal_of(ctx)
    outcome = checked(artifact, original)
    if terminal.json:
        terminal.document(as_json(artifact, outcome))
    else:
        print(printable(outcome.text()))
    return 0 if outcome.passed else InputError.exit_code


def checked(folder: Path, original: Path | None = None) -> Outcome:
    """The outcome of the self-test. Raises InputError for what is no artifact."""
    Artifact.open(folder)
    if original is not None and not original.is_file():
        raise InputError(
            "there is no such model", where=str(original), hint="give the file that was compiled"
        )
    try:
        return check(folder, open_model, original)
    except BrokenArtifactError as error:
        raise InputError(str(error), where=str(folder), hint="compile the model again") from error


def open_model(path: Path) -> RunModel:
    session = open_session(path)
    return lambda feeds: dict(zip(session.output_names, session.run(feeds), strict=True))


def as_json(folder: Path, outcome: Outcome) -> dict[str, object]:
    return {
        "artifact": str(folder),
        "passed": outcome.passed,
        "failures": outcome.failures,
        "samples": outcome.samples,
        "worst_in_tolerances": outcome.worst,
        "fidelity": outcome.fidelity,
        "milliseconds": outcome.milliseconds,
    }
