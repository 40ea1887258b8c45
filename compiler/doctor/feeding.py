"""What a model is profiled on, and whether that is possible at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from ...ir.errors import InputError
from ...ir.finding.index_limits import index_limits
from ...ir.signature import Signature
from ...ir.types.bound import symbols
from ..available import limit_of
from ..data.feeds import load_feeds, synthetic
from ..data.feedset import FeedSet
from ..memory import FLOOR, SESSION, activation_bytes, bindings_of, weight_bytes
from ..reporting.headline import size
from ..workload import parse_workloads

GENERATED = 2
MOST_FEEDS = 8
"""More would only repeat the same shapes."""
TRACE = 200 << 20
"""Bytes that a trace takes at most, and feeds beside it."""
SIZES = {"batch": 1, "other": 64}
"""Of open axes in generated feeds, where neither data nor a workload says more."""


def feeds_for(
    model: ir.Model, calibration: Any, workload: str | Sequence[str] | None
) -> tuple[FeedSet, str]:
    """Feeds to profile on, and how messages call them.

    Raises InputError for data that does not fit, and where inputs cannot be generated; UsageError
    for a workload that binds nothing.
    """
    signature = Signature.of(model)
    if calibration is not None:
        found = load_feeds(calibration, signature)
        return found, found.source
    asked = parse_workloads(workload or (), symbols(model))
    given = [dict(work.bindings) for work in asked] or [{}]
    nominal = bindings_of(model, (), SIZES)
    turns = [nominal | given[index % len(given)] for index in range(GENERATED)]
    try:
        made = synthetic(signature, GENERATED, 0, turns, limits=index_limits(model))
    except InputError as error:
        hint = "give --calibration: an .npz with arrays named as the inputs"
        raise InputError(error.what, where=error.where, hint=hint) from error
    sizes = dict.fromkeys(f"{name}={size_}" for turn in turns for name, size_ in turn.items())
    return made, ", ".join(filter(None, ("generated numbers", *sizes)))


def too_large(model: ir.Model) -> str:
    """Why there is not the memory, or the disk, to profile a model; "" where there is."""
    limit, why = limit_of(None)
    weights = weight_bytes(model)
    wanted = int(FLOOR + SESSION * weights + 2 * activation_bytes(model, bindings_of(model, ())))
    if wanted > limit:
        room = f"{size(limit)} may be used ({why})"
        return f"running it would take about {size(wanted)} of memory, {room}"
    place = tempfile.gettempdir()
    free = shutil.disk_usage(place).free
    if weights + TRACE > free:
        return f"a profile may take {size(weights + TRACE)} in {place}, {size(free)} are free"
    return ""
