"""Rows of activations that a linear layer meets in one run of a workload.

That number decides what pays: with few rows the time goes into reading weights, with many into
multiplying.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import onnx_ir as ir

from ..ir.graph import constant_tensor
from ..ir.sites import Site
from ..ir.types.bound import Dims, Shapes, axis_size, bound_shapes
from .workload import Workload

MOST_INFERRED = 3
"""Workloads, the heaviest, for which shapes are inferred anew where symbols do not tell: that
takes an inference of the whole graph each."""


def rows_of(
    model: ir.Model, sites: Sequence[Site], bindings: Mapping[str, int], *, infer: bool = True
) -> dict[str, int]:
    """Rows by the name of a linear site; those that the sizes of the inputs do not fix are missing.

    infer: infer the shapes of the whole graph where the names of axes do not tell.
    """
    linear = [site for site in sites if site.kind == "linear" and site.input is not None]
    found = {site.name: _rows(site, _symbolic(site, bindings)) for site in linear}
    if infer and any(rows is None for rows in found.values()):
        shapes = bound_shapes(model, bindings)
        found = {site.name: _rows(site, _bound(site, shapes)) for site in linear}
    return {name: rows for name, rows in found.items() if rows is not None}


def few_rows(
    model: ir.Model, sites: Sequence[Site], workloads: Sequence[Workload], most: int
) -> float | None:
    """Share of the linear weights that meet at most ``most`` rows, over all runs.

    None where no workload tells, or there is no linear layer.
    """
    weights = {site.name: _elements(site) for site in sites if site.kind == "linear"}
    few = known = 0.0
    ordered = sorted(workloads, key=lambda workload: -workload.weight)
    for index, workload in enumerate(ordered):
        rows = rows_of(model, sites, workload.bindings, infer=index < MOST_INFERRED)
        known += workload.weight * sum(weights[name] for name in rows)
        few += workload.weight * sum(weights[name] for name, n in rows.items() if n <= most)
    return few / known if known else None


def _symbolic(site: Site, bindings: Mapping[str, int]) -> Dims | None:
    value = site.input
    if value is None or value.shape is None:
        return None
    return tuple(axis_size(size, bindings) for size in value.shape)


def _bound(site: Site, shapes: Shapes) -> Dims | None:
    return None if site.input is None else shapes.get(str(site.input.name))


def _rows(site: Site, shape: Dims | None) -> int | None:
    """Of all its uses together is not known here: a shared layer counts as its first use."""
    if shape is None or not shape:
        return None
    rows = [size for size in shape[:-1] if isinstance(size, int)]
    return prod(rows) if len(rows) == len(shape) - 1 else None


def _elements(site: Site) -> int:
    tensor = constant_tensor(site.weight)
    return 0 if tensor is None else int(tensor.size)
