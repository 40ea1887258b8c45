"""Write a folder so that it is there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..ir.errors import PlanishError, UsageError
from ..ir.storage.atomic import alone_in

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextlib.contextmanager
def staging(output: Path, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``output`` that takes its place when the block ends well.

    The parents of ``output`` are created. On any exception, KeyboardInterrupt included, nothing
    of all this is left, and a folder that was to be replaced is as it was. Folders that a killed
    process left behind never matter: every name is fresh.

    Raises UsageError before the block where ``output`` is a file, the working directory, a mount
    point, cannot be written, or is a folder with something in it and ``force`` is not given;
    PlanishError where the disk is full.
    """
    place = output.resolve()
    _refuse(output, place, force)
    made = _make_parents(output, place.parent)
    try:
        temporary = _make_folder(output, place)
        try:
            yield temporary
            _put(temporary, output, place, force)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except BaseException as error:
        _remove_empty(made)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise _full(output, error) from error
        raise


def refuse_inputs_inside(output: Path, inputs: Iterable[Path]) -> None:
    """Raise UsageError where replacing ``output`` would delete something that is read."""
    place = output.resolve()
    for path in inputs:
        if path.resolve().is_relative_to(place):
            raise UsageError(
                f"the output folder would replace the folder that holds {path.name!r}",
                where=str(path),
                hint="choose another folder with -o",
            )


def _refuse(output: Path, place: Path, force: bool) -> None:
    if place.exists() and not place.is_dir():
        raise _refusal(output, "is a file", "choose a folder with -o")
    if Path.cwd().is_relative_to(place):
        raise _refusal(output, "holds the working directory", "choose a folder in it with -o")
    if place.is_mount():
        raise _refusal(output, "is a mount point and cannot be renamed", "choose a folder in it")
    if not force and _has_content(output, place):
        hint = "choose another with -o, or replace it with --force"
        raise _refusal(output, "is a folder with something in it", hint)


def _has_content(output: Path, place: Path) -> bool:
    try:
        return place.is_dir() and any(place.iterdir())
    except OSError as error:
        raise _unwritable(output, error) from error


def _make_parents(output: Path, parent: Path) -> list[Path]:
    """Create ``parent`` and what is missing above it; what was created, innermost first."""
    missing = [path for path in (parent, *parent.parents) if not path.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _remove_empty(missing)
        raise _unwritable(output, error) from error
    return missing


def _make_folder(output: Path, place: Path) -> Path:
    """A fresh hidden folder beside ``place`` with the usual permissions (mkdtemp's are private)."""
    temporary = _beside(place)
    try:
        temporary.mkdir()
    except OSError as error:
        raise _unwritable(output, error) from error
    return temporary


def _put(temporary: Path, output: Path, place: Path, force: bool) -> None:
    with alone_in(place.parent):  # of two compiles into one folder the later one sees the first
        if place.exists():
            _refuse(output, place, force)
            _exchange(temporary, place)
            return
        try:
            temporary.rename(place)
        except OSError as error:  # somebody who does not wait for turns was there first
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise _unwritable(output, error) from error
            raise


def _exchange(temporary: Path, place: Path) -> None:
    old = _beside(place)
    place.rename(old)
    try:
        temporary.rename(place)
    except BaseException:
        if not temporary.exists():
            place.rename(temporary)
        if not place.exists():
            old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _beside(place: Path) -> Path:
    return place.with_name(f".{place.name}.planish-{os.getpid()}-{secrets.token_hex(4)}")


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _refusal(output: Path, what: str, hint: str) -> UsageError:
    return UsageError(f"the output {str(output)!r} {what}", hint=hint)


def _unwritable(output: Path, error: OSError) -> UsageError:
    return UsageError(
        f"the output folder {str(output)!r} cannot be written: {error.strerror}",
        where=str(error.filename or output),
        hint="choose a folder that you may write to with -o",
    )


def _full(output: Path, error: OSError) -> PlanishError:
    return PlanishError(
        f"the artifact could not be written: {error.strerror}",
        where=str(error.filename or output),
        hint="free some space, or choose a folder on another disk with -o; nothing was left behind",
    )
