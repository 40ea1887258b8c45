"""The largest magnitude of every float value of a model, over feeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from ...ir.graph import is_constant
from ...ir.region import with_outputs
from ...ir.rewriter import Rewriter
from ..execution import running


def peaks(
    model: ir.Model,
    names: Iterable[str],
    feeds: Iterable[Mapping[str, np.ndarray]],
    threads: int = 0,
) -> dict[str, float]:
    """max |x| of float values of the main graph by name, padding included; NaN where any is.

    The reductions run inside the runtime. A value without elements counts as 0.
    """
    wanted = list(names)
    if not wanted:
        return {}
    found = dict.fromkeys(wanted, 0.0)
    with running(_reduced(model, wanted), threads=threads, optimize="none") as session:
        for feed in feeds:
            for name, peak in zip(wanted, session.run(feed), strict=True):
                largest = float(np.max(peak, initial=0.0))
                found[name] = float(np.maximum(found[name], largest))  # keeps NaN
    return found


def float_values(model: ir.Model) -> list[str]:
    """Names of the float32 values of the main graph that are computed or fed."""
    made = [v for node in model.graph for v in node.outputs]
    values = [v for v in (*model.graph.inputs, *made) if v.dtype == ir.DataType.FLOAT]
    return [str(v.name) for v in values if v.name and not is_constant(v)]


def _reduced(model: ir.Model, names: list[str]) -> ir.Model:
    copy = with_outputs(model, names)
    rewriter = Rewriter(copy)
    outputs = []
    for value in list(copy.graph.outputs):
        size = rewriter.insert("Abs", [value], name="peak").outputs[0]
        node = rewriter.insert("ReduceMax", [size], attributes={"keepdims": 0}, name="peak")
        outputs.append(node.outputs[0])
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(outputs)
    return copy
