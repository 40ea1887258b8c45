"""Pages as files: written whole or not at all, and never at the cost of a compile."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ....ir.errors import InputError, UsageError
from ....ir.provenance import Remark
from ...result import CompileResult
from .. import manifest as manifests
from ..selftest import file_digest as sha256
from .compiled import compiled
from .page import render

PAGE = "report.html"
NO_PAGE = "no-page"
"""Code of the remark that says why an artifact has no page."""


def checked_output(path: Path, option: str = "--html") -> Path:
    """A place for a page that an option names.

    Raises UsageError for a folder, for what is no file, and where its folder is not there.
    """
    if path.is_dir():
        raise UsageError(
            f"{str(path)!r} is a folder", hint=f"name a file: {option} {str(path / PAGE)!r}"
        )
    if path.exists() and not path.is_file():
        raise UsageError(f"{str(path)!r} is no file", hint=f"name one: {option} {PAGE}")
    if not path.absolute().parent.is_dir():
        raise UsageError(
            f"there is no folder {str(path.absolute().parent)!r}", hint="make it first"
        )
    return path


def write_page(document: Mapping[str, Any], path: Path, option: str = "--html") -> None:
    """Write the page of a document. Raises InputError where the file cannot be written."""
    try:
        _replace(path, render(document))
    except OSError as error:
        raise InputError(
            f"the page cannot be written: {error.strerror}", where=str(path),
            hint=f"give another place with {option}",
        ) from error  # fmt: skip


def write_report(folder: Path, original: Path | None = None) -> Path:
    """Make the page of the artifact in a folder anew, and note it in the manifest.

    original: the model that was compiled, where it is still there. Raises InputError.
    """
    manifest = manifests.read(folder)
    path = folder / PAGE
    write_page(compiled(folder, manifest, original), path, "-o")
    row = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    files = dict(sorted({**manifest.get("files", {}), PAGE: row}.items()))
    _write_manifest(folder, {**manifest, "files": files})
    return path


def with_page(result: CompileResult, folder: Path, original: Path | None) -> CompileResult:
    """Put the page into a written artifact; where that fails, the result says why instead.

    Nothing about a page may cost a compile that is done: whatever goes wrong becomes a remark.
    """
    try:
        write_report(folder, original)
    except Exception as error:
        (folder / PAGE).unlink(missing_ok=True)
        told = f"{PAGE} could not be made: {type(error).__name__}: {error}"
        remark = Remark("note", "report", "", NO_PAGE, told)
        result = replace(result, remarks=(*result.remarks, remark))
        manifest = manifests.read(folder)
        remarks = [*manifest.get("remarks", ()), remark.to_json()]
        with contextlib.suppress(InputError):  # a full disk: the screen says it at least
            _write_manifest(folder, {**manifest, "remarks": remarks})
    return result


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    path = folder / manifests.MANIFEST
    try:
        _replace(path, manifests.dumps(manifest))
    except OSError as error:
        what = f"the manifest cannot be written: {error.strerror}"
        raise InputError(what, where=str(path)) from error


def _replace(path: Path, text: str) -> None:
    """Put a text in the place of a file, whole or not at all. Raises OSError."""
    path = path.resolve()  # what a link leads to, not the link
    number, name = tempfile.mkstemp(dir=path.parent, prefix=".planish-")
    made = Path(name)
    try:
        with os.fdopen(number, "w", encoding="utf8", newline="\n") as file:
            file.write(text)
        made.chmod(0o644)
        made.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            made.unlink()
        raise
