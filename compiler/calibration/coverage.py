"""How much of the held-out data falls outside the calibrated ranges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from ...ir.graph import all_nodes, constant_array, dims, opset, scalar
from ...ir.opset import raised
from ..execution import running
from .observers import MINIMUM_OPSET, Masking, Request, observed_value, outside_graph

Ranges = dict[str, tuple[float, float]]


def static_ranges(model: ir.Model) -> Ranges:
    """What every QuantizeLinear with constant parameters can represent, by the value it reads."""
    ranges: Ranges = {}
    for node in all_nodes(model):
        if node.op_type != "QuantizeLinear" or len(node.inputs) < 3 or node.inputs[0] is None:
            continue
        scale, zero = scalar(node.inputs[1]), constant_array(node.inputs[2])
        if scale is None or zero is None or zero.dtype.kind not in "iu":
            continue
        limits = np.iinfo(zero.dtype)
        offset = float(zero.reshape(-1)[0])
        ranges[str(node.inputs[0].name)] = (
            (limits.min - offset) * scale,
            (limits.max - offset) * scale,
        )
    return ranges


def coverage(
    floating: ir.Model,
    ranges: Ranges,
    feeds: Iterable[Mapping[str, np.ndarray]],
    masking: Masking | None,
    threads: int = 0,
) -> dict[str, float]:
    """Share of elements outside the range of each value over all feeds, padding left out.

    floating: the graph as it was before quantization, whose values the ranges were made for.
    """
    known = {str(o.name): o for node in floating.graph for o in node.outputs}
    known.update({str(v.name): v for v in floating.graph.inputs})
    requests = [
        Request(name, max(len(dims(known[name]) or (1,)) - 1, 0))
        for name in sorted(ranges)
        if name in known and dims(known[name]) is not None
    ]
    if not requests:
        return {}
    model = floating if opset(floating) >= MINIMUM_OPSET else raised(floating, MINIMUM_OPSET)
    totals: dict[str, list[float]] = {}
    with running(outside_graph(model, requests, masking, ranges), threads=threads) as session:
        for feed in feeds:
            for name, share in zip(session.output_names, session.run(feed), strict=True):
                totals.setdefault(observed_value(name), []).append(float(share))
    return {name: float(np.mean(shares)) for name, shares in totals.items()}
