"""PyTorch's exporter without its chatter, and its failures in one sentence with the user's line."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ..errors import InputError, PlanishError, UsageError

if TYPE_CHECKING:
    import torch

INSTALL = "pip install 'planish[torch]'"
EXPORT_YOURSELF = "export it yourself with torch.onnx.export and compile the ONNX file"
_LONGEST = 300  # characters of a message
_HINTS = (
    ("data-dependent", "replace Python's if on tensor values by torch.where or torch.cond"),
    ("No ONNX function", "write the operator in others; or " + EXPORT_YOURSELF),
    ("No decompositions registered", "write the operator in others; or " + EXPORT_YOURSELF),
    ("dynamic_shapes", "compare dynamic_shapes with the arguments; see torch.export.export"),
    ("Constraints violated", "free fewer axes in dynamic_shapes"),
    ("static shape", "free fewer axes in dynamic_shapes"),
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep prints, warnings and logs of what runs inside from the user's screen."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def explained(module: torch.nn.Module, what: str, hint: str = "") -> Iterator[None]:
    """Turn what torch raises into an InputError: what failed, the cause, the user's line.

    Raises UsageError instead where a package is missing that the exporter needs.
    """
    try:
        yield
    except PlanishError:
        raise
    except Exception as error:
        cause = root_cause(error)
        if isinstance(cause, ModuleNotFoundError):
            raise UsageError(f"{what}: {cause}", hint=INSTALL) from error
        reason = f"{type(cause).__name__}: {first_sentence(str(cause))}"
        raise InputError(
            f"{what}: {reason}", where=_place(cause, module), hint=hint or _hint(str(cause))
        ) from error


def root_cause(error: BaseException) -> BaseException:
    """The error that the others were raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def first_sentence(text: str) -> str:
    """The first line that says something: no heading that ends in a colon and goes on below."""
    lines = [" ".join(line.split()).removeprefix("- ") for line in text.splitlines()]
    lines = [line for line in lines if re.search(r"\w", line)]
    if not lines:
        return "no reason given"
    said = next((line for line in lines if not line.endswith(":")), lines[0])
    return said if len(said) <= _LONGEST else said[: _LONGEST - 2] + " …"


def _hint(text: str) -> str:
    return next((hint for sign, hint in _HINTS if sign in text), EXPORT_YOURSELF)


def _place(error: BaseException, module: torch.nn.Module) -> str:
    """The module's class, and ``file:line`` of the innermost code that is not torch's or ours."""
    import torch

    ours = (Path(torch.__file__).parent, Path(__file__).parent.parent)
    frames = [f for f in _frames(error) if not _inside(f.filename, ours)]
    name = type(module).__name__
    return f"{name}, {frames[-1].filename}:{frames[-1].lineno}" if frames else name


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    trace: TracebackType | None = error.__traceback__
    return [f for f in traceback.extract_tb(trace) if not f.filename.startswith("<")]


def _inside(file: str, folders: tuple[Path, ...]) -> bool:
    return any(folder in Path(file).parents for folder in folders)
