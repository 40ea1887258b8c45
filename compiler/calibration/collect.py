"""Stream calibration feeds through observers and merge what they report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ...ir.errors import InputError
from ...passes.api import ValueStats
from ...passes.math.histogram import Histogram
from ..execution import running
from .observers import (
    BINS,
    Masking,
    Request,
    histogram_graph,
    moment_graph,
    observed_value,
    output_name,
)

Feeds = Mapping[str, np.ndarray]


@dataclass
class _Moments:
    """Running moments of one value, float64 [channels]."""

    minimum: np.ndarray
    maximum: np.ndarray
    total: np.ndarray
    squares: np.ndarray
    count: float = 0.0
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(BINS))


def collect(
    model: ir.Model,
    requests: Sequence[Request],
    feeds: Iterable[Feeds],
    masking: Masking | None,
    *,
    threads: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, ValueStats]:
    """Statistics of the requested values over all feeds (iterated twice).

    The runtime's optimisations are off: what it fuses depends on what is observed, and the
    statistics of a value must not depend on what else was asked for (plans replay to the same
    bytes). Memory holds one feed's activations at a time, inside the runtime. Raises InputError
    where an activation is not finite, naming the value.
    """
    if not requests:
        return {}
    graph, masked = moment_graph(model, requests, masking)
    merged: dict[str, _Moments] = {}
    with running(graph, threads=threads, optimize="none") as session:
        for feed in feeds:
            reported = dict(zip(session.output_names, session.run(feed), strict=True))
            for request in requests:
                _merge(merged, request, reported)
            advance()
    ranges = {name: _range(name, m) for name, m in merged.items()}
    if not ranges:  # nothing but padding
        return {}
    graph = histogram_graph(model, requests, masking, ranges)
    with running(graph, threads=threads, optimize="none") as session:
        for feed in feeds:
            for name, counts in zip(session.output_names, session.run(feed), strict=True):
                merged[observed_value(name)].histogram += counts
            advance()
    axes = {r.value: r.axis for r in requests}
    return {
        name: _stats(name, axes[name], m, masked[name], ranges[name]) for name, m in merged.items()
    }


def _merge(
    merged: dict[str, _Moments], request: Request, reported: Mapping[str, np.ndarray]
) -> None:
    name = request.value
    low, high, total, squares = (
        np.atleast_1d(reported[output_name(name, m)]).astype(np.float64)
        for m in ("min", "max", "sum", "squares")
    )
    elements = float(np.prod(reported[output_name(name, "count")].astype(np.float64)))
    if elements == 0:
        return
    known = merged.get(name)
    if known is None:
        known = merged[name] = _Moments(low, high, np.zeros_like(total), np.zeros_like(squares))
    if known.minimum.shape != low.shape:
        raise InputError(
            "the number of channels of an activation changes from feed to feed", where=name
        )
    known.minimum, known.maximum = np.minimum(known.minimum, low), np.maximum(known.maximum, high)
    known.total += total
    known.squares += squares
    known.count += elements / len(low)


def _range(name: str, moments: _Moments) -> tuple[float, float]:
    low, high = float(moments.minimum.min()), float(moments.maximum.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(
            "an activation is not finite on the calibration data",
            where=f"value {name!r}",
            hint="look for NaN, infinity or values far out of range in the calibration data",
        )
    return low, high


def _stats(
    name: str, axis: int, moments: _Moments, masked: bool, bounds: tuple[float, float]
) -> ValueStats:
    return ValueStats(
        name=name,
        axis=axis,
        minimum=moments.minimum,
        maximum=moments.maximum,
        mean=moments.total / moments.count,
        mean_square=moments.squares / moments.count,
        histogram=Histogram(*bounds, moments.histogram, *bounds),
        count=moments.count,
        masked=masked,
    )
