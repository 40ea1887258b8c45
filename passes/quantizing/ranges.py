"""Ranges of activations that are chosen for small errors of the model's outputs.

The range of least error of a tensor is not always the best one. Where few numbers are far larger
than all others, and little hangs on them, as in sentence encoders, a narrower range keeps more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...ir.sites import Site
from ..api import MOVED, Context, FakeQuant, Perturbation

FACTORS = (0.35, 0.5, 0.7, 0.85, 1.2)
"""Of the calibrated range."""
BETTER = 0.9
"""Another range is taken where it leaves so much of the error, or less."""
SILENT = 1e-4
"""Relative squared error of the outputs (40 dB) that all values left as calibrated may make
together: each range that is tried takes a run. A share of the error of all would not do: the
loudest layers are given back in the end, and then those matter that were quiet beside them."""

Ranges = Mapping[str, FakeQuant]


def fitted_ranges(readers: Mapping[str, Sequence[Site]], ranges: Ranges, ctx: Context) -> Ranges:
    """For each value the range, of some times the calibrated one, that moves the outputs least.

    readers: by the name of a value the layers that read it rounded, all with one range. The ranges
    themselves where the compile does not weigh what edits do to the outputs.
    """

    known = {n: error for n, error in _moved(readers, ranges, ctx).items() if error is not None}
    if len(known) < len(ranges):
        return ranges
    found, best = dict(ranges), {name: BETTER * error for name, error in known.items()}
    loud = [name for name in ranges if known[name] * len(ranges) > SILENT]
    for factor in FACTORS:
        tried = {name: _scaled(ranges[name], factor) for name in loud}
        for name, error in _moved(readers, tried, ctx).items():
            if error is not None and error < best[name]:
                found[name], best[name] = tried[name], error
    return found


def are_weighed(readers: Mapping[str, Sequence[Site]], ranges: Ranges, ctx: Context) -> bool:
    """Whether the compile weighs what edits do to the outputs; a run of the model tells."""
    one = dict(list(ranges.items())[:1])
    return any(error is not None for error in _moved(readers, one, ctx).values())


def _moved(
    readers: Mapping[str, Sequence[Site]], tried: Ranges, ctx: Context
) -> dict[str, float | None]:
    alone = tuple(_alone(name, readers[name], quant) for name, quant in tried.items())
    errors: tuple[float | None, ...] = ctx.analysis(MOVED, alone)
    return dict(zip(tried, errors, strict=True))


def _alone(name: str, sites: Sequence[Site], quant: FakeQuant) -> Perturbation:
    outputs = tuple(str(use.output.name) for site in sites for use in site.uses)
    return Perturbation((name,), outputs, fake_quants={name: quant})


def _scaled(quant: FakeQuant, factor: float) -> FakeQuant:
    assert quant.scale is not None
    return replace(quant, scale=float(np.float32(max(quant.scale * factor, 1e-30))))
