"""Whether what a graph declares about its values is what the runtime computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ...ir.errors import PlanishError
from ...ir.region import with_outputs
from ...ir.save import to_bytes
from ...ir.signature import Dim, shape_of, shape_text, type_name
from .case import Feed
from .execute import run_all

FETCHABLE = frozenset(
    getattr(ir.DataType, name)
    for name in "BOOL DOUBLE FLOAT FLOAT16 INT8 INT16 INT32 INT64 STRING UINT8 UINT16 UINT32 "
    "UINT64".split()
)
"""What the runtime hands out as arrays of NumPy's own."""


Claim = tuple[str, tuple[Dim, ...] | None]
"""Dtype and shape, as in a ``TensorSpec``."""


@dataclass(frozen=True)
class Untrue:
    """A declaration that the runtime contradicts.

    name: of a value, or of a symbolic size. claim: dtype and shape as declared; None for a size.
    """

    name: str
    sentence: str
    claim: Claim | None = None


def untrue(model: ir.Model, feeds: Sequence[Feed]) -> list[Untrue]:
    """Values of the main graph whose declared dtype or shape is not what comes out.

    A symbolic size must be the same wherever it stands in one run. Empty where the graph, all its
    values made outputs, does not run: that is for other rules to say.
    """
    values = [v for node in model.graph for v in node.outputs if _fetchable(v)]
    inputs = [v for v in model.graph.inputs if _fetchable(v)]
    if not values:
        return []
    wide = with_outputs(model, [str(v.name) for v in values])
    for output in wide.graph.outputs:
        output.shape = None  # the declared one would be a bound for the runtime, too
    try:
        runs = run_all(to_bytes(wide), feeds)
    except PlanishError:
        return []
    found: dict[str, Untrue] = {}
    for feed, outputs in zip(feeds, runs, strict=True):
        for item in _contradictions([*inputs, *values], {**feed, **outputs}):
            found.setdefault(item.name, item)
    return list(found.values())


def claims(model: onnx.ModelProto) -> dict[str, Claim | None]:
    """What a file itself says of the tensors of its main graph, and the sizes that it names."""
    graph, found = model.graph, dict[str, Claim | None]()
    for info in (*graph.value_info, *graph.input, *graph.output):
        kind = info.type.tensor_type
        dims = tuple(_dim(d) for d in kind.shape.dim) if kind.HasField("shape") else None
        found[info.name] = onnx.TensorProto.DataType.Name(kind.elem_type), dims
        found.update(dict.fromkeys(d for d in dims or () if isinstance(d, str)))
    return found


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return dim.dim_value
    return dim.dim_param or None


def _fetchable(value: ir.Value) -> bool:
    return bool(value.name) and isinstance(value.type, ir.TensorType) and value.dtype in FETCHABLE


def _contradictions(values: Sequence[ir.Value], arrays: Mapping[str, Any]) -> Iterator[Untrue]:
    sizes: dict[str, tuple[int, str]] = {}
    for value in values:
        array = arrays.get(str(value.name))
        if not isinstance(array, np.ndarray):
            continue
        yield from _of_one(value, array)
        for symbol, size in _symbols(value, array):
            known, where = sizes.setdefault(symbol, (size, str(value.name)))
            if known != size:
                sentence = f"{symbol!r} is {known} in {where!r} and {size} in {str(value.name)!r}"
                yield Untrue(symbol, sentence)


def _of_one(value: ir.Value, array: np.ndarray) -> Iterator[Untrue]:
    name, shape = str(value.name), shape_of(value)
    assert value.dtype is not None
    claim = type_name(value.type), shape
    wanted = np.dtype(value.dtype.numpy())
    if array.dtype != wanted and {array.dtype.kind, wanted.kind} - set("OSU"):
        yield Untrue(name, f"{name!r} is declared {wanted.name} and is {array.dtype.name}", claim)
    if shape is None:
        return
    # The runtime's reductions give an empty tensor back as it is: its other sizes say nothing.
    fits = len(shape) == array.ndim and all(
        not isinstance(d, int) or d == size or not array.size
        for d, size in zip(shape, array.shape, strict=False)
    )
    if not fits:
        sentence = f"{name!r} is declared {shape_text(shape)} and is {list(array.shape)}"
        yield Untrue(name, sentence, claim)


def _symbols(value: ir.Value, array: np.ndarray) -> Iterator[tuple[str, int]]:
    shape = shape_of(value) or ()
    if len(shape) == array.ndim:
        pairs = zip(shape, array.shape, strict=True)
        yield from ((d, size) for d, size in pairs if isinstance(d, str))
