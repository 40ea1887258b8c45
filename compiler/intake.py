"""What a compile and a plan take in alike: the model at a usable opset, feeds, the token mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from ..ir.errors import InputError
from ..ir.finding.index_limits import index_limits
from ..ir.graph import dims, opset
from ..ir.opset import raised
from ..ir.provenance import Remark
from ..ir.signature import Signature
from ..targets.schema import Target
from .backends.table import backend_or_none
from .calibration.observers import Masking
from .data.feeds import FeedSet, load_feeds, split, synthetic, token_mask
from .policy import QDQ_OPSET
from .workload import Workload, portions

SYNTHETIC_FEEDS = 4
TIMING_FEEDS = 8
"""Feeds that are timed, and that are generated where workloads are stated."""
SHAPES_SEEN = 64
"""Held-out feeds whose shapes are looked at where no workload is stated."""


def raised_for_integers(
    model: ir.Model, versions: Sequence[int] = (QDQ_OPSET,)
) -> tuple[ir.Model, list[Remark]]:
    """The model at an opset that can be quantized; as it is where an op cannot be converted.

    versions: tried in order, the last of them is the least that will do.
    """
    try:
        newer = raised(model, versions[0])
    except InputError as error:
        if len(versions) > 1:
            return raised_for_integers(model, versions[1:])
        sentence = f"{error.what}; nothing is quantized"
        return model, [Remark("note", "import", "model", "opset-kept", sentence)]
    if newer is model:
        return model, []
    sentence = (
        f"opset raised from {opset(model)} to {opset(newer)}, so that layers can be quantized; it "
        "computes the same"
    )
    return newer, [Remark("note", "import", "model", "opset-raised", sentence)]


def opsets_for(target: Target) -> tuple[int, ...]:
    """Opsets that the target's backend wants, the best first; where there is none, Q/DQ's."""
    backend = backend_or_none(target)
    return (QDQ_OPSET,) if backend is None else backend.opsets


def feeds_for(
    model: ir.Model,
    signature: Signature,
    calibration: Any,
    holdout: Any,
    workloads: Sequence[Workload],
    seed: int,
) -> tuple[FeedSet | None, FeedSet]:
    """Calibration feeds (None without data) and held-out ones.

    Without data these are generated, of the shapes that the workloads state. Raises InputError
    for data that do not fit the model.
    """
    held = None if holdout is None else load_feeds(holdout, signature)
    if calibration is None:
        return None, held or _generated(model, signature, workloads, seed)
    given = load_feeds(calibration, signature)
    return (given, held) if held is not None else split(given, seed=seed)


def masking_of(
    model: ir.Model, signature: Signature, feeds: FeedSet, wanted: str | None
) -> tuple[Masking | None, tuple[Remark, ...]]:
    """The input that is 0 at padding (``wanted``, else as found), and what is said of it."""
    found = token_mask(model, signature, feeds, wanted)
    if found.name is None:
        return None, found.remarks
    value = next(v for v in model.graph.inputs if v.name == found.name)
    return Masking(found.name, dims(value) or (None, None)), found.remarks


def _generated(
    model: ir.Model, signature: Signature, workloads: Sequence[Workload], seed: int
) -> FeedSet:
    bindings = [
        workload.bindings
        for workload, count in zip(workloads, portions(workloads, TIMING_FEEDS), strict=True)
        for _ in range(count)
    ] or [{}] * SYNTHETIC_FEEDS
    return synthetic(signature, len(bindings), seed, bindings, limits=index_limits(model))
