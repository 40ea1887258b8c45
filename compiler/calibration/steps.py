"""What passes do at single layers while two versions of a graph run side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ...ir.rewriter import Rewriter
from ...passes.api import Gram, Looked, Makes, Paired, Patches, Reads
from ...passes.math.moments import channel_moments, matching
from ..execution import running
from .observers import rows_of
from .stepwise import HELD, stepwise

Arrays = Mapping[str, np.ndarray]
Values = Sequence[np.ndarray]
_OPSET = 20


def take_steps(
    before: ir.Model,
    after: ir.Model,
    steps: Sequence[Reads | Makes],
    feeds: Sequence[Arrays],
    *,
    threads: int = 0,
    held: int = HELD,
) -> None:
    """What ``passes.api.STEPPED`` does. ``after`` is changed."""

    def visit(name: str, first: Values, second: Values) -> Values:
        for make in (s for s in steps if isinstance(s, Makes) and s.value == name):
            factor, summand = matching(channel_moments(first), channel_moments(second))
            make.take(factor, summand)
            second = [_affine(array, factor, summand) for array in second]
        for read in (s for s in steps if isinstance(s, Reads) and s.looked[0] == name):
            made = read.fit(pair(read.looked, first, second, threads))
            for tensor, array in made.items():
                after.graph.initializers[tensor].const_value = ir.tensor(array)
        return second

    places = {str(o.name): i for i, node in enumerate(before.graph) for o in node.outputs}
    names = {s.value if isinstance(s, Makes) else s.looked[0] for s in steps}
    stops = sorted(names, key=places.__getitem__)
    stepwise(before, after, stops, feeds, visit, threads=threads, held=held)


def _affine(array: np.ndarray, factor: np.ndarray, summand: np.ndarray) -> np.ndarray:
    """In the array's own dtype, channels along axis 1."""
    shape = (-1, *[1] * (array.ndim - 2))
    scaled = array * factor.reshape(shape).astype(array.dtype)
    return np.asarray(scaled + summand.reshape(shape).astype(array.dtype))


def pair(looked: Looked, first: Values, second: Values, threads: int = 0) -> Paired:
    """Sums over the rows of two versions of one value; products run inside the runtime."""
    found: list[list[np.ndarray]] = []
    with running(_pair_graph(looked, second[0]), threads=threads, optimize="none") as session:
        for x, now in zip(first, second, strict=True):
            sums = dict(zip(session.output_names, session.run({"x": x, "now": now}), strict=True))
            found.append([sums[name].astype(np.float64) for name in _SUMS])
    matrix, across, before, total, count = (
        np.sum(parts, axis=0) for parts in zip(*found, strict=True)
    )
    return Paired(Gram(matrix, total, float(count[0])), across, before)


_SUMS = ("matrix", "across", "before", "total", "count")


def _pair_graph(looked: Looked, like: np.ndarray) -> ir.Model:
    dtype = ir.DataType.from_numpy(like.dtype)
    inputs = [
        ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape([None] * like.ndim))
        for name in ("x", "now")
    ]
    graph = ir.Graph(inputs, [], nodes=[], opset_imports={"": _OPSET}, name="pair")
    model = ir.Model(graph, ir_version=10)
    rewriter, window = Rewriter(model), looked.window if isinstance(looked, Patches) else None
    x, now = (rows_of(rewriter, value, looked[1], window) for value in inputs)
    turned = rewriter.insert("Transpose", [now], attributes={"perm": [1, 0]}).outputs[0]
    first = rewriter.initializer("first", np.array([0], np.int64))
    made = [
        rewriter.insert("MatMul", [turned, now]),
        rewriter.insert("MatMul", [turned, x]),
        rewriter.insert("ReduceSum", [x, first], attributes={"keepdims": 0}),
        rewriter.insert("ReduceSum", [now, first], attributes={"keepdims": 0}),
        rewriter.insert("Shape", [now], attributes={"end": 1}),
    ]
    for node, name in zip(made, _SUMS, strict=True):
        node.outputs[0].name = name
        graph.outputs.append(node.outputs[0])
    return model
