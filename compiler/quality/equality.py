"""Whether two runs gave the same outputs: bit for bit, or as nearly as a reassociation may."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ...ir.graph import all_graphs, all_nodes, attribute, captured_values, given, scalar, subgraphs

WHOLE_GRAPH_TOLERANCE = 1e-4
"""Relative to the largest output, for passes that reassociate over the whole graph."""
COARSE_TOLERANCES = {ir.DataType.FLOAT16: 2.0**-6, ir.DataType.BFLOAT16: 2.0**-3}
"""The same where the graph computes in so few bits: 32 units in the last place."""
ROUNDING_TOLERANCE = 2.0**-5
"""The same behind quantizers, in which a difference in the last place may flip a rounding."""
QUANTIZERS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
FLIPPED_SHARE = 1e-3
"""Share of class numbers and flags that a reassociation may flip."""
MOVES = frozenset(
    "Cast Concat Constant ConstantOfShape Expand Flatten Gather If Identity Loop Reshape Scan "
    "Shape Slice Split Squeeze Tile Transpose Unsqueeze".split()
)
"""Operators that compute no new float."""
RANDOM_OPS = frozenset(
    "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split()
)
DROPOUTS = frozenset({"BiasDropout", "BitmaskDropout", "Dropout"})


def whole_graph_tolerance(model: ir.Model) -> float:
    """How far outputs may move, relative to the largest, where a pass reassociates."""
    nodes = list(all_nodes(model))
    dtypes = {output.dtype for node in nodes for output in node.outputs}
    found = [COARSE_TOLERANCES[d] for d in dtypes if d in COARSE_TOLERANCES]
    if any(node.op_type in QUANTIZERS for node in nodes):
        found.append(ROUNDING_TOLERANCE)
    return max(found, default=WHOLE_GRAPH_TOLERANCE)


def promised_tolerance(model: ir.Model, *, exact: bool) -> float | None:
    """How far outputs may move under a promise; None: not one bit.

    Where the runtime computes in float32 what is declared in half precision, it rounds between
    some operators and not between others (1.31): without the Identities in between the same graph
    gives other last bits. There bits cannot be asked for.
    """
    if not exact or any(map(_emulated, all_nodes(model))):
        return whole_graph_tolerance(model)
    return None


def _emulated(node: ir.Node) -> bool:
    values = [v for v in (*node.inputs, *node.outputs) if v is not None]
    return node.op_type not in MOVES and any(v.dtype in COARSE_TOLERANCES for v in values)


def difference(before: Any, after: Any, tolerance: float | None) -> str | None:
    """How ``after`` differs from ``before``, in words; None where it does not.

    Arrays, sequences and maps of them, and absent optionals (None). Without a tolerance bits must
    be equal: signs of zero and payloads of NaN count. tolerance: relative to the largest finite
    magnitude; of integers and flags a share of 0.1 % may differ.
    """
    if isinstance(before, np.ndarray) and isinstance(after, np.ndarray):
        return _array_difference(before, after, tolerance)
    if type(before) is not type(after):
        return f"it is {_kind(after)}, was {_kind(before)}"
    if isinstance(before, Mapping):
        if list(before) != list(after):
            return f"it holds the keys {list(after)[:5]}, held {list(before)[:5]}"
        return _first(before.values(), after.values(), tolerance)
    if isinstance(before, Sequence) and not isinstance(before, (str, bytes)):
        if len(before) != len(after):
            return f"it holds {len(after)} items, held {len(before)}"
        return _first(before, after, tolerance)
    if before is None or isinstance(before, (str, bytes)):
        return None if before == after else f"it is {after!r}, was {before!r}"
    return _array_difference(np.asarray(before), np.asarray(after), tolerance)


def random_outputs(model: ir.Model) -> frozenset[str]:
    """Names of outputs that depend on a random number: two runs need not agree on them."""
    tainted: set[ir.Value] = set()
    for node in model.graph:
        reads = [v for v in node.inputs if v is not None] + captured_values(node)
        if _draws(node) or any(v in tainted for v in reads):
            tainted.update(node.outputs)
    return frozenset(str(v.name) for v in model.graph.outputs if v in tainted)


def _draws(node: ir.Node) -> bool:
    inner = (n for held in subgraphs(node) for graph in all_graphs(held) for n in graph)
    return _is_random(node) or any(map(_is_random, inner))


def _is_random(node: ir.Node) -> bool:
    if attribute(node, "seed") is not None:
        return False
    if node.op_type in DROPOUTS:
        training = given(node, 4 if node.op_type == "BiasDropout" else 2)
        return training is not None and scalar(training) != 0.0
    return node.op_type in RANDOM_OPS


def _first(before: Any, after: Any, tolerance: float | None) -> str | None:
    pairs = enumerate(zip(before, after, strict=True))
    found = ((i, difference(b, a, tolerance)) for i, (b, a) in pairs)
    return next((f"item {i}: {what}" for i, what in found if what), None)


def _array_difference(before: np.ndarray, after: np.ndarray, tolerance: float | None) -> str | None:
    if before.dtype != after.dtype:
        return f"it is {after.dtype.name}, was {before.dtype.name}"
    if before.shape != after.shape:
        return f"it is {list(after.shape)}, was {list(before.shape)}"
    wrong = _unequal(before, after) if tolerance is None else _far(before, after, tolerance)
    return None if wrong is None else _described(before, after, wrong)


def _unequal(before: np.ndarray, after: np.ndarray) -> np.ndarray | None:
    """Where bits differ; None where none does."""
    if before.dtype.kind in "OSU":
        differs = np.asarray(before != after)
        return differs if differs.any() else None
    if before.tobytes() == after.tobytes():
        return None
    size = before.dtype.itemsize
    flat = (np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in (before, after))
    left, right = (a.reshape(-1, size) for a in flat)
    return np.asarray((left != right).any(axis=1).reshape(before.shape))


def _far(before: np.ndarray, after: np.ndarray, tolerance: float) -> np.ndarray | None:
    if before.size == 0:
        return None
    if _narrow_float(before.dtype):
        before, after = before.astype(np.float64), after.astype(np.float64)
    if before.dtype.kind != "f":
        differs = np.asarray(before != after)
        return differs if float(differs.mean()) > FLIPPED_SHARE else None
    finite = before[np.isfinite(before)]
    bound = tolerance * (float(np.abs(finite).max()) if finite.size else 0.0)
    close = np.isclose(after, before, rtol=0.0, atol=bound, equal_nan=True)
    return None if close.all() else ~close


def _narrow_float(dtype: np.dtype[Any]) -> bool:
    """Types of ``ml_dtypes`` such as bfloat16 and float8, which numpy does not take for floats."""
    return dtype.kind == "V" and ir.DataType.from_numpy(dtype).is_floating_point()


def _described(before: np.ndarray, after: np.ndarray, wrong: np.ndarray) -> str:
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    was, now = before[place], after[place]
    return (
        f"{int(np.count_nonzero(wrong))} of {before.size} elements differ, "
        f"the first at {list(place)}: {_shown(now)}, was {_shown(was)}"
    )


def _shown(value: Any) -> str:
    """A number as exactly as it is stored; NaN with its bits."""
    if isinstance(value, np.floating):
        if np.isnan(value):
            return f"NaN 0x{value.tobytes()[::-1].hex()}"
        return repr(value.item())
    return repr(value.item() if isinstance(value, np.generic) else value)


def _kind(value: Any) -> str:
    return "absent" if value is None else f"of type {type(value).__name__}"


def each_difference(
    before: Mapping[str, Any], after: Mapping[str, Any], tolerance: float | None
) -> Iterator[tuple[str, str]]:
    """Name and difference of each output of ``before`` that differs in ``after``."""
    for name, value in before.items():
        found = difference(value, after[name], tolerance) if name in after else "it is gone"
        if found is not None:
            yield name, found
