"""The command line: commands, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from rich.text import Text

from . import __version__
from .commands import (
    bench,
    bisect,
    check,
    diff,
    doctor,
    explain_match,
    inspect,
    new,
    passes,
    plan,
    reduce,
    report,
    targets,
    test_pass,
    verify,
)
from .commands import compile as compile_
from .ir.errors import PlanishError, UsageError
from .terminal import Terminal

INTERRUPTED = 130
UNREAD = 141  # what a shell says of a program that SIGPIPE ended
TERMINATED = 143
INTERNAL = "InternalError"

EXIT_CODES = {
    0: "ok",
    1: "internal error",
    2: "usage: a name, an option or a combination of arguments that does not exist",
    3: "bad input: a model, a data set or an evaluation function that cannot be used",
    4: "the target or its backend cannot do what was asked",
    5: "quality over budget",
    6: "slower than the original",
    7: "undecided: too few samples, the message says how many would do; test-pass: a pass found "
    "nothing to edit",
    8: "no gain in speed: unless a pipeline was given, the lossless model is handed over",
    test_pass.BROKEN: "test-pass: a pass broke a promise",
    check.BROKEN: "targets check, doctor: the model holds errors or layers that are slow on the "
    "target",
    11: "compiled, but not run on the target: its speed is predicted at most",
    diff.DIFFERENT: "diff: the models differ in a way that --exit-code or --fail-on names",
    INTERRUPTED: "interrupted, nothing was written",
    UNREAD: "whoever read the output stopped reading, such as head",
}


class _Terminated(BaseException):
    """SIGTERM arrived. Not an Exception: a user's code must not swallow it."""


app = typer.Typer(
    name="planish",
    help="Compile trained neural networks for a named hardware target: never slower, "
    "never silently worse.",
    epilog="Exit codes: " + "; ".join(f"{code} {text}" for code, text in EXIT_CODES.items()) + ".",
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("compile")(compile_.compile_command)
app.command("plan")(plan.plan_command)
app.command("inspect")(inspect.inspect_command)
app.command("diff")(diff.diff_command)
app.command("doctor")(doctor.doctor_command)
app.command("report")(report.report_command)
app.command("verify")(verify.verify_command)
app.command("bench")(bench.bench_command)
app.command("explain-match")(explain_match.explain_match_command)
app.command("test-pass")(test_pass.pass_test_command)
app.command("reduce")(reduce.reduce_command)
app.command("bisect")(bisect.bisect_command)
app.add_typer(new.app, name="new")
app.add_typer(passes.app, name="passes")
app.add_typer(targets.app, name="targets")


def _show_version(value: bool) -> None:
    if value:
        print(f"planish {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
        raise typer.Exit(UsageError.exit_code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (default: that of the process); its exit code, see ``EXIT_CODES``."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _answered(words, Terminal())
        sys.stdout.flush()
    except BrokenPipeError:
        _close_quietly()
        return UNREAD
    except OSError:  # the disk is full, as was said on stderr
        _close_quietly()
        return PlanishError.exit_code
    return status


def _answered(words: list[str], terminal: Terminal) -> int:
    """The exit code of a command line. Raises BrokenPipeError where nobody reads what it says."""
    try:
        with _cleaning_up_when_terminated():
            return _run(words, terminal)
    except _Terminated:
        return TERMINATED
    except KeyboardInterrupt:
        terminal.json |= "--json" in words
        return _say(terminal, "interrupted, nothing was written", INTERRUPTED)
    except BrokenPipeError:
        raise
    except Exception as error:
        terminal.json |= "--json" in words
        return _fail(terminal, error)


def _close_quietly() -> None:
    """Write the rest to nowhere: Python would complain once more at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _run(words: list[str], terminal: Terminal) -> int:
    # Not command.main(): that one answers an interrupt itself, and differently by version.
    command = typer.main.get_command(app)
    try:
        with command.make_context("planish", words, obj=terminal) as ctx:
            status = command.invoke(ctx)
    except typer.Exit as done:
        status = done.exit_code
    except typer.Abort:
        raise KeyboardInterrupt from None
    sys.stdout.flush()
    return status if isinstance(status, int) else 0


def _fail(terminal: Terminal, error: Exception) -> int:
    known = _as_planish(error)
    if terminal.verbose and (known is None or error.__cause__ is not None):
        traceback.print_exception(error)
    if known is None:
        return _say(terminal, _internal(error), 1, kind=INTERNAL)
    return _say(terminal, known, known.exit_code)


def _as_planish(error: Exception) -> PlanishError | None:
    """The error as one of ours; None where it is a defect of planish."""
    if isinstance(error, PlanishError):
        return error
    if isinstance(error, MemoryError):
        hint = "close other programs, use a larger machine, or give smaller data"
        return PlanishError("there is not enough memory for this; nothing was written", hint=hint)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        hint = "free some space, or send the output elsewhere"
        return PlanishError("the disk is full: not all could be written", hint=hint)
    # typer brings its own copy of click's errors in some versions: know them by what they do.
    message = getattr(error, "format_message", None)
    if not callable(message):
        return None
    ctx: Any = getattr(error, "ctx", None)
    command = ctx.command_path if ctx is not None else "planish"
    return UsageError(str(message()).strip(), hint=f"{command} --help")


def _internal(error: Exception) -> PlanishError:
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    summary = " ".join(f"{type(error).__name__}: {error}".split())
    return PlanishError(
        f"internal error: {summary[:500]}",
        where=place,
        hint="run again with -v for the traceback, and report it together with the command "
        f"(planish {__version__}); nothing was written",
    )


def _say(terminal: Terminal, error: PlanishError | str, code: int, kind: str = "") -> int:
    plain = isinstance(error, str) or kind == INTERNAL
    message = Text.assemble(("" if plain else "error: ", "bold red"), str(error))
    terminal.stderr().print(message, soft_wrap=True)
    if terminal.json:
        terminal.document({"error": _described(error, kind), "exit_code": code})
    return code


def _described(error: PlanishError | str, kind: str) -> dict[str, str]:
    if isinstance(error, str):
        return {"kind": "Interrupted", "what": error, "where": "", "hint": ""}
    name = kind or type(error).__name__
    return {"kind": name, "what": error.what, "where": error.where, "hint": error.hint}


@contextlib.contextmanager
def _cleaning_up_when_terminated() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that no temporary folder stays."""
    try:
        before = signal.signal(signal.SIGTERM, _terminate)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise _Terminated
