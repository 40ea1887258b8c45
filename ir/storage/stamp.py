"""Which state of a file was read, so that a file that changes meanwhile is noticed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError


@dataclass(frozen=True)
class Stamp:
    """A file as it was: which one (links followed), how long, and when it was last touched."""

    path: Path
    device: int
    inode: int
    size: int
    modified: int
    touched: int

    @classmethod
    def of(cls, path: Path, found: os.stat_result) -> Stamp:
        """The stamp of a file from what the system says of it; times in nanoseconds."""
        times = found.st_mtime_ns, found.st_ctime_ns
        return cls(path, found.st_dev, found.st_ino, found.st_size, *times)


def stamp(path: Path) -> Stamp:
    """The present state of a file. Raises ``InputError`` where it is gone."""
    try:
        return Stamp.of(path, path.stat())
    except OSError as error:
        raise changed(path) from error


def check_unchanged(stamps: Iterable[Stamp]) -> None:
    """Raise ``InputError`` naming the first file that is not as it was."""
    for known in stamps:
        if stamp(known.path) != known:
            raise changed(known.path)


def changed(path: Path) -> InputError:
    """The error for a file that was written to, replaced or deleted while it was in use."""
    return InputError(
        "the file changed while planish was working with it",
        where=str(path),
        hint="wait until it is written completely, then start again",
    )
