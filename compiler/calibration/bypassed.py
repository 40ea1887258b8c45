"""How much a model's outputs change when blocks of it are left out, or weights are others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ..execution import running

Arrays = Mapping[str, np.ndarray]
Bypasses = Sequence[tuple[str, str]]
"""Names of values, each with that of the earlier value that all its readers get instead."""


def outputs(model: ir.Model, feeds: Sequence[Arrays], threads: int) -> list[list[np.ndarray]]:
    """By feed, the outputs in order, with the runtime's optimisations off."""
    with running(model, threads=threads, optimize="none") as session:
        return [session.run(feed) for feed in feeds]


def bypassed(model: ir.Model, bypasses: Bypasses) -> ir.Model:
    """A copy without what leads to the values; tensors are shared."""
    copy = model.clone()
    values = {str(v.name): v for v in copy.graph.inputs}
    values.update({str(o.name): o for node in copy.graph for o in node.outputs})
    for gone, instead in bypasses:
        _replace(copy.graph, values[gone], values[instead])
    return copy


def replaced(model: ir.Model, tensors: Mapping[str, np.ndarray]) -> ir.Model:
    """A copy with other contents of some stored tensors; the others are shared."""
    copy = model.clone()
    for name, array in tensors.items():
        copy.graph.initializers[name].const_value = ir.tensor(array)
    return copy


def change(before: Sequence[Sequence[np.ndarray]], after: Sequence[Sequence[np.ndarray]]) -> float:
    """Relative squared error over the floating-point outputs of all feeds; the worst of them.

    Outputs count alike, however large their values are. Infinity where one is not finite any more.
    """
    worst = 0.0
    for old, new in zip(zip(*before, strict=True), zip(*after, strict=True), strict=True):
        if not np.issubdtype(old[0].dtype, np.floating):
            continue
        noise = sum(_energy(b.astype(np.float64) - a) for a, b in zip(old, new, strict=True))
        signal = sum(map(_energy, old))
        share = noise / signal if signal > 0 else float(noise > 0)
        worst = max(worst, share if np.isfinite(share) else float("inf"))
    return worst


def _energy(array: np.ndarray) -> float:
    with np.errstate(over="ignore"):  # what overflows counts as no number any more
        return float(np.sum(array.astype(np.float64) ** 2))


def _replace(graph: ir.Graph, gone: ir.Value, instead: ir.Value) -> None:
    for user, index in list(gone.uses()):
        user.replace_input_with(index, instead)
    for index, output in enumerate(graph.outputs):
        if output is gone:
            graph.outputs[index] = instead
