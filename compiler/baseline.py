"""The original as it runs: what every candidate is compared with, and on which feeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..ir.errors import InputError, PlanishError, TargetError
from ..ir.graph import opset
from ..ir.provenance import Remark
from ..ir.save import save_model
from ..ir.storage.external import external_tensors
from ..targets.runtime import Session, open_session
from ..targets.schema import Target
from .context import head
from .data.feedset import FeedSet
from .source import Source

CUT = 2
"""Samples that the model is tried on, to learn whether feeds can be cut."""


def open_baseline(source: Source, threads: int, scratch: Path) -> tuple[Session, list[Remark]]:
    """A session on the user's file, untouched; where the runtime refuses it, on what was imported.

    Import mends faults that runtimes refuse (two nodes of one name, say), and a remark tells so.
    Raises TargetError where the runtime refuses the imported model, too.
    """
    try:
        return open_session(source.baseline, threads=threads), []
    except TargetError as error:
        path = scratch / "mended.onnx"
        save_model(source.imported.model, path)
        try:
            session = open_session(path, threads=threads)
        except TargetError:
            raise error from None
        sentence = f"{error.what}; it is compared as import mended it"
        return session, [Remark("note", "import", "model", "baseline-mended", sentence)]


def own_file(source: Source, target: Target) -> Path | None:
    """The user's file where it can be handed over as it is: whole, and not too new for the target.

    None for what was exported or written here, and where weights lie in other files.
    """
    imported, runtime = source.imported, target.runtime
    if source.written or imported.path is None or external_tensors(imported.model):
        return None
    fits = (imported.model.ir_version or 0) <= runtime.max_ir_version
    fits = fits and opset(imported.model) <= runtime.max_opset
    return imported.path if fits else None


def check_generated(original: Session, feeds: FeedSet) -> None:
    """Say whose feeds they were where the model refuses generated ones."""
    if not feeds.synthetic:
        return
    try:
        for feed in feeds:
            original.run(feed)
    except PlanishError as error:
        raise InputError(
            f"no data was given, and the model cannot run on generated feeds: {error.what}",
            where=error.where,
            hint="give --calibration (or --holdout) with data that the model was made for",
        ) from error


def undivided(original: Session, feeds: FeedSet) -> FeedSet:
    """The feeds, never to be cut where the model cannot run on a part: axis 0 is no batch then."""
    try:
        original.run(head(feeds, 0, CUT))
    except PlanishError:
        return replace(feeds, divisible=False)
    return feeds
