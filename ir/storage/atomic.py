"""Files that take their names together or not at all, whoever else writes beside them."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

Write = Callable[[IO[bytes]], None]


def write_together(files: Mapping[Path, Write]) -> None:
    """Write all files under temporary names, then give each its own.

    On any exception, KeyboardInterrupt included, all files are as they were and nothing is left.
    Of two processes that write the same files, one ends with all of its own. Raises OSError.
    """
    token = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary = {path: path.with_name(f".{path.name}.{token}.tmp") for path in files}
    try:
        for path, write in files.items():
            with temporary[path].open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
        with contextlib.ExitStack() as turns:
            for folder in sorted({path.parent for path in files}):
                turns.enter_context(alone_in(folder))
            _rename(temporary, token)
    finally:
        for leftover in temporary.values():
            leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """While open, other processes that ask the same of this folder wait; nothing is left in it.

    Where the system has no such locks (Windows, some network folders) nobody waits.
    """
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _rename(temporary: Mapping[Path, Path], token: str) -> None:
    if len(temporary) == 1:  # one rename cannot be done by half
        for path, finished in temporary.items():
            finished.replace(path)
        return
    new = [path for path in temporary if not path.exists()]
    old = {path: path.with_name(f".{path.name}.{token}.old") for path in temporary}
    try:
        for path, kept in old.items():
            if path not in new:
                # A file system without links: an end in between may leave one old, one new.
                with contextlib.suppress(OSError):
                    os.link(path, kept, follow_symlinks=False)
        for path, finished in temporary.items():
            finished.replace(path)
    except BaseException:
        for path, kept in old.items():
            if path in new and not temporary[path].exists():
                path.unlink(missing_ok=True)
            elif kept.exists():
                kept.replace(path)
        raise
    finally:
        for kept in old.values():
            kept.unlink(missing_ok=True)
