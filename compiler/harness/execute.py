"""Run the models of a trial in the runtime, whatever kinds of values go in and come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...ir.signature import Signature
from ...targets.runtime import Optimize, open_session
from ..data.feedset import FeedSet, feed_set
from .case import Feed

Outputs = Mapping[str, Any]
SOURCE = "the case's feeds"


def run_all(
    model: bytes | Path, feeds: Sequence[Feed], optimize: Optimize = "none"
) -> tuple[Outputs, ...]:
    """The outputs by name of each feed, one thread. Raises InputError, TargetError."""
    session = open_session(model, threads=1, optimize=optimize)
    return tuple(
        dict(zip(session.output_names, session.run(_given(feed)), strict=True)) for feed in feeds
    )


def calibration(feeds: Sequence[Feed], signature: Signature) -> FeedSet:
    """The feeds as the data of a compile. Sequences, optionals and strings go in whole."""
    held = [dict(feed) for feed in feeds]
    plain = all(
        isinstance(v, np.ndarray) and v.dtype.kind not in "OSU" for f in held for v in f.values()
    )
    if plain and all(set(f) == {s.name for s in signature.inputs} for f in held):
        return feed_set(SOURCE, lambda i: dict(held[i]), len(held), signature)
    names = tuple(f"feed {index}" for index in range(len(held)))
    axes: dict[str, int | None] = {spec.name: None for spec in signature.inputs}
    return FeedSet(SOURCE, (1,) * len(held), names, axes, lambda i: dict(held[i]), divisible=False)


def _given(feed: Feed) -> dict[str, Any]:
    """Strings as the runtime wants them: objects."""
    return {
        name: value.astype(object)
        if isinstance(value, np.ndarray) and value.dtype.kind in "SU"
        else value
        for name, value in feed.items()
    }
