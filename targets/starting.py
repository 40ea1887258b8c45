"""The first draft of a target file: what the target it extends says, to be overwritten."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..ir.errors import UsageError
from .loader import load_target
from .schema import HOST, LIMITS, Target
from .tomlfile import catalog_names

_HEAD = """\
# A target of your own. Every line that starts with "# " and holds a figure shows what is inherited
# from {base}: remove the "# " and write what is true of your machine.
# What stays commented out is inherited, with its source. A figure that is not known is left out,
# never 0; cores, clock, memory and rates are examples where the extended target knows none.
# Figures that are set here should have their source below, in [sources].
#   planish targets check-file FILE            says whether the file holds
#   planish targets diff {extends_name} FILE   says what it changes

name = {name}
summary = {summary}
kind = "machine"
extends = {extends}
"""

_EXAMPLES = {
    "cores": "16",
    "clock_ghz": "3.2",
    "memory.capacity_gb": "64",
    "memory.bandwidth_gbs": "100.0",
    "rates.fp32": "1.5",
    "rates.int8": "6.0",
}
"""How figures are written that a class does not know."""


def write_starting_file(name: str, extends: str, output: str) -> Path:
    """Write a file for a new target that extends another; the path that was written.

    ``extends``: a name, an alias, a TOML file, or "host", which stands for the class it is found
    to be. Raises UsageError for a name that is taken or no name, for a file that exists, and for
    a folder that does not; TargetError or UsageError for what cannot be extended.
    """
    _check_name(name)
    path = Path(output)
    if path.suffix != ".toml":
        raise UsageError(f"{output!r} is no name of a target file", hint="end it in .toml")
    base = load_target(extends)
    if base.resolved is not None:  # nothing extends the host: tomorrow it is another machine
        extends, base = base.resolved, load_target(base.resolved)
    text = starting_file(name, base, _reference(extends, path))
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        hint = "choose another one with -o; nothing is overwritten"
        raise UsageError("the file exists already", where=str(path), hint=hint) from None
    except OSError as error:
        raise UsageError(f"cannot write: {error.strerror}", where=str(path)) from error
    return path


def _check_name(name: str) -> None:
    holds, wanted = LIMITS["name"]
    if not holds(name):
        raise UsageError(f"{name!r} is no name for a target", hint=f"use {wanted}")
    if name == HOST or name in catalog_names():
        raise UsageError(f"there is a target {name!r} already", hint="choose another name")


def _reference(extends: str, path: Path) -> str:
    """How the new file names the target that it extends."""
    if extends in catalog_names():
        return extends
    return os.path.relpath(extends, path.parent)


def starting_file(name: str, base: Target, extends: str) -> str:
    """TOML that extends ``extends`` and holds what ``base`` says, commented out."""
    summary = f"My machine, otherwise as {base.name}"
    head = _HEAD.format(
        base=base.name,
        extends_name=extends,
        name=_toml(name),
        summary=_toml(summary),
        extends=_toml(extends),
    )
    return head + "\n" + "\n".join(_lines(base)) + "\n"


def _lines(base: Target) -> Iterable[str]:
    known = {figure.path: _toml(figure.value) for figure in base.figures()}
    rows = _EXAMPLES | known
    table = ""
    for path in sorted(rows, key=lambda path: (path.rpartition(".")[0], path not in known)):
        inner, _, key = path.rpartition(".")
        if inner != table:
            yield f"\n[{inner}]"
            table = inner
        yield f"# {key} = {rows[path]}"
    yield "\n[sources]"
    yield '# "cores" = "the vendor\'s sheet, or `measured: how and with what`, or `estimated: why`"'


def _toml(value: Any) -> str:
    """A value as TOML writes it; texts, numbers, truths and flat lists are as in JSON."""
    plain = list(value) if isinstance(value, tuple) else value
    return json.dumps(plain, ensure_ascii=False)
