"""A suite of the user's own: every model below a folder, with feeds made from its signature."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

from ....ir.errors import InputError, PlanishError, UsageError
from ....ir.finding.index_limits import index_limits
from ....ir.importing.read import PROTOBUF_LIMIT, read_proto
from ....ir.load import Imported, load_model
from ...data.feeds import synthetic
from ..case import Case, Feed
from .wheels import SEED

FEEDS = 2
"""Feeds a model: open axes are drawn anew for each, so that two lengths are seen."""


def folder_cases(folder: Path) -> Iterator[Case]:
    """Every ``*.onnx`` below a folder, named by its path in it; models are read one at a time."""
    paths = sorted(folder.rglob("*.onnx")) if folder.is_dir() else []
    if not paths:
        reason = "holds no *.onnx" if folder.is_dir() else "is no folder"
        raise UsageError(f"{folder} {reason}", hint="name a folder with models")
    return (file_case(path, str(path.relative_to(folder))) for path in paths)


def file_case(path: Path, name: str, feeds: tuple[Feed, ...] | None = None) -> Case:
    """One model, with generated feeds where none are given; without any where import refuses it.

    Raises InputError where the file is no model, its weights do not fit into memory as one
    message, or its inputs cannot be generated.
    """
    proto, _ = read_proto(path)
    try:
        imported = load_model(path)
    except PlanishError:
        return Case(name, proto, feeds or ())  # whether that is right is for the check to say
    _hold(proto, path)
    return Case(name, proto, _feeds(imported) if feeds is None else feeds)


def _hold(proto: onnx.ModelProto, path: Path) -> None:
    """Read the weights that lie beside the model; import has checked where they are."""
    onnx.load_external_data_for_model(proto, str(path.parent))
    if proto.ByteSize() > PROTOBUF_LIMIT:
        hint = "test the pass on a smaller model of the same shape"
        raise InputError("a model above two gigabytes cannot be held", where=str(path), hint=hint)


def _feeds(imported: Imported) -> tuple[Feed, ...]:
    limits = index_limits(imported.model)
    feeds = synthetic(imported.signature, FEEDS, SEED, limits=limits)
    return tuple(feeds[i] for i in range(FEEDS))
