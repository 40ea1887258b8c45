"""Observers: statistics of activations as reductions inside the graph.

Activations never leave the runtime; only per-channel sums and one histogram per value do.
Two passes over the feeds: the first finds ranges, the second fills histograms in them.
Padding is left out: rows whose token mask is zero are compressed away before any reduction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from ...ir.errors import PassError
from ...ir.graph import dims, opset
from ...ir.region import with_outputs
from ...ir.rewriter import Rewriter
from ...passes.api import Window

BINS = 2048
MINIMUM_OPSET = 18
"""ReduceMin and its kin take axes as an input from 18; ScatterElements adds from 16."""


@dataclass(frozen=True)
class Request:
    """One value to observe. axis: its channel axis, counted from the front."""

    value: str
    axis: int


@dataclass(frozen=True)
class Columns:
    """A value whose Gram matrix is observed along an axis, and which columns [start, stop) of it
    (None: all). window: of patches instead of single positions."""

    value: str
    axis: int
    columns: tuple[int, int] | None = None
    window: Window | None = None


@dataclass(frozen=True)
class Masking:
    """The input that says which tokens are real (integer or bool [batch, sequence])."""

    input: str
    dims: tuple[int | str | None, ...]


MOMENTS = ("min", "max", "sum", "squares", "count")
_MARK = "//observed:"
"""In no name that an exporter writes, while "scope/sum" may well be a value beside "scope"."""


def observed_value(output: str) -> str:
    """The value that an output of an observing graph is about."""
    return output.rpartition(_MARK)[0]


def output_name(value: str, what: str) -> str:
    """Under what name an observing graph reports a moment, a histogram or a sum of a value."""
    return f"{value}{_MARK}{what}"


def moment_graph(
    model: ir.Model, requests: Sequence[Request], masking: Masking | None
) -> tuple[ir.Model, dict[str, bool]]:
    """A copy whose outputs are min, max, sum, sum of squares (each [channels]) and count.

    Outputs are called as ``output_name`` says. Also returns which values were masked.
    Raises PassError below opset 18 or where a value has no known rank.
    """
    copy, rewriter, _, rows = _prepare(model, requests, masking)
    outputs: list[ir.Value] = []
    for request in requests:
        x, axes, _ = rows[request.value]
        outputs.extend(_moments(rewriter, request, x, axes))
    _set_outputs(copy, outputs)
    return copy, {name: masked for name, (_, _, masked) in rows.items()}


def histogram_graph(
    model: ir.Model,
    requests: Sequence[Request],
    masking: Masking | None,
    ranges: Mapping[str, tuple[float, float]],
) -> ir.Model:
    """A copy whose outputs ("histogram") are float32 [BINS] counts within ``ranges``."""
    copy, rewriter, _, rows = _prepare(model, requests, masking)
    outputs = [
        _histogram(rewriter, r, rows[r.value][0], *ranges[r.value])
        for r in requests
        if r.value in ranges
    ]
    _set_outputs(copy, outputs)
    return copy


def outside_graph(
    model: ir.Model,
    requests: Sequence[Request],
    masking: Masking | None,
    ranges: Mapping[str, tuple[float, float]],
) -> ir.Model:
    """A copy whose outputs ("outside") are the share of elements beyond ``ranges``."""
    copy, rewriter, _, rows = _prepare(model, requests, masking)
    outputs = [_outside(rewriter, r, rows[r.value][0], *ranges[r.value]) for r in requests]
    _set_outputs(copy, outputs)
    return copy


def _outside(
    rewriter: Rewriter, request: Request, x: ir.Value, low: float, high: float
) -> ir.Value:
    below = _apply(rewriter, "Less", [x, _float(rewriter, low)])
    above = _apply(rewriter, "Greater", [x, _float(rewriter, high)])
    beyond = _apply(rewriter, "Or", [below, above])
    share = _apply(
        rewriter,
        "ReduceMean",
        [_apply(rewriter, "Cast", [beyond], to=int(ir.DataType.FLOAT))],
        keepdims=0,
    )
    share.name = output_name(request.value, "outside")
    return share


def gram_graph(model: ir.Model, requests: Sequence[Columns], masking: Masking | None) -> ir.Model:
    """A copy whose outputs are "gram" float32 [K, columns], "total" float32 [K] and "count"
    int64 [1] of each value: sums of x xᵀ and of x over rows x, and how many rows.
    """
    observed = [Request(c.value, c.axis) for c in requests]
    copy, rewriter, _, rows = _prepare(model, observed, masking)
    outputs: list[ir.Value] = []
    for request in requests:
        x, others, _ = rows[request.value]
        if request.window is not None:
            x = _patches(rewriter, x, request.window)
        outputs.extend(_products(rewriter, request, _channels_last(rewriter, x, others)))
    _set_outputs(copy, outputs)
    return copy


def rows_of(rewriter: Rewriter, x: ir.Value, axis: int, window: Window | None = None) -> ir.Value:
    """[rows, channels] of a value of known rank, or of its patches, float32."""
    others = tuple(i for i in range(len(x.shape or ())) if i != axis)
    x = _as_float(rewriter, x)
    if window is not None:
        x = _patches(rewriter, x, window)
    return _flat(rewriter, _channels_last(rewriter, x, others))


def _flat(rewriter: Rewriter, x: ir.Value) -> ir.Value:
    width = _apply(rewriter, "Shape", [x], start=-1)
    target = _apply(rewriter, "Concat", [_ints(rewriter, [-1]), width], axis=0)
    return _apply(rewriter, "Reshape", [x, target])


def _patches(rewriter: Rewriter, x: ir.Value, window: Window) -> ir.Value:
    """[n, channels * taps, …]: each channel as every tap of the kernel meets it, by one-hot
    kernels that slide as the convolution does."""
    taps = prod(window.kernel)
    kernels = np.tile(np.eye(taps, dtype=np.float32), (window.channels, 1))
    first = len(kernels) if window.operator == "Conv" else window.channels
    weight = rewriter.initializer("taps", kernels.reshape(first, -1, *window.kernel))
    settings = dict(window.settings) | {"group": window.channels}
    return _apply(rewriter, window.operator, [x, weight], **settings)


def _channels_last(rewriter: Rewriter, x: ir.Value, others: tuple[int, ...]) -> ir.Value:
    """The value with the axis that is none of ``others`` at the end."""
    last = len(others)
    axis = next(i for i in range(last + 1) if i not in others)
    return x if axis == last else _apply(rewriter, "Transpose", [x], perm=[*others, axis])


def _products(rewriter: Rewriter, request: Columns, x: ir.Value) -> list[ir.Value]:
    flat = _flat(rewriter, x)
    part = flat
    if request.columns is not None:
        start, stop = (_ints(rewriter, [edge]) for edge in request.columns)
        part = _apply(rewriter, "Slice", [flat, start, stop, _ints(rewriter, [1])])
    results = [
        _apply(rewriter, "MatMul", [_apply(rewriter, "Transpose", [flat], perm=[1, 0]), part]),
        _apply(rewriter, "ReduceSum", [flat, _ints(rewriter, [0])], keepdims=0),
        _apply(rewriter, "Shape", [flat], end=1),
    ]
    for value, name in zip(results, ("gram", "total", "count"), strict=True):
        value.name = output_name(request.value, name)
    return results


Rows = dict[str, tuple[ir.Value, tuple[int, ...], bool]]


def _prepare(
    model: ir.Model, requests: Sequence[Request], masking: Masking | None
) -> tuple[ir.Model, Rewriter, dict[str, ir.Value], Rows]:
    if opset(model) < MINIMUM_OPSET:
        raise PassError(f"observers need opset {MINIMUM_OPSET}, the model has {opset(model)}")
    copy = with_outputs(model, [r.value for r in requests])
    rewriter = Rewriter(copy)
    values = {str(v.name): v for v in copy.graph.outputs}
    keep = None
    if masking is not None:
        keep = _mask_vector(rewriter, copy, masking)
    rows: Rows = {}
    for request in requests:
        rows[request.value] = _rows(rewriter, values[request.value], request.axis, keep, masking)
    return copy, rewriter, values, rows


def _mask_vector(rewriter: Rewriter, model: ir.Model, masking: Masking) -> ir.Value:
    mask = next(v for v in model.graph.inputs if v.name == masking.input)
    flat = _apply(rewriter, "Reshape", [mask, _ints(rewriter, [-1])])
    return _apply(rewriter, "Cast", [flat], to=int(ir.DataType.BOOL))


def _rows(
    rewriter: Rewriter, x: ir.Value, axis: int, keep: ir.Value | None, masking: Masking | None
) -> tuple[ir.Value, tuple[int, ...], bool]:
    """The value with padding removed, and the axes to reduce (all but the channel's)."""
    shape = dims(x)
    if shape is None:
        raise PassError("the rank of the value is unknown", where=str(x.name))
    x = _as_float(rewriter, x)
    if masking is None or keep is None or not _is_tokens(shape, axis, masking):
        return x, tuple(i for i in range(len(shape)) if i != axis), False
    width = _apply(rewriter, "Shape", [x], start=len(shape) - 1)
    target = _apply(rewriter, "Concat", [_ints(rewriter, [-1]), width], axis=0)
    flat = _apply(rewriter, "Reshape", [x, target])
    return _apply(rewriter, "Compress", [flat, keep], axis=0), (0,), True


def _is_tokens(shape: tuple[int | str | None, ...], axis: int, masking: Masking) -> bool:
    """Whether the value is [batch, sequence, channels] with the mask's batch and sequence.

    An unknown batch or sequence (None) is taken for the mask's; a different name is not.
    """
    if len(shape) != 3 or axis != 2:
        return False
    pairs = zip(shape[:2], masking.dims, strict=True)
    return all(a == b or a is None or b is None or _derived(a) for a, b in pairs)


def _derived(dim: int | str | None) -> bool:
    """A symbol that shape inference made up stands for an unknown size."""
    return isinstance(dim, str) and dim.startswith("unk__")


def _moments(
    rewriter: Rewriter, request: Request, x: ir.Value, axes: tuple[int, ...]
) -> list[ir.Value]:
    over = _ints(rewriter, list(axes))
    results = [
        _apply(rewriter, op, [x, over], keepdims=0)
        for op in ("ReduceMin", "ReduceMax", "ReduceSum", "ReduceSumSquare")
    ]
    shape = _apply(rewriter, "Shape", [x])
    results.append(_apply(rewriter, "Cast", [shape], to=int(ir.DataType.INT64)))
    for value, moment in zip(results, MOMENTS, strict=True):
        value.name = output_name(request.value, moment)
    return results


def _histogram(
    rewriter: Rewriter, request: Request, x: ir.Value, low: float, high: float
) -> ir.Value:
    width = max((high - low) / BINS, float(np.finfo(np.float32).tiny))
    flat = _apply(rewriter, "Reshape", [x, _ints(rewriter, [-1])])
    shifted = _apply(rewriter, "Sub", [flat, _float(rewriter, low)])
    scaled = _apply(rewriter, "Mul", [shifted, _float(rewriter, 1.0 / width)])
    bounded = _apply(rewriter, "Clip", [scaled, _float(rewriter, 0.0), _float(rewriter, BINS - 1)])
    index = _apply(rewriter, "Cast", [bounded], to=int(ir.DataType.INT64))
    ones = _apply(
        rewriter,
        "Expand",
        [_float(rewriter, 1.0), _apply(rewriter, "Shape", [flat])],
    )
    zeros = rewriter.initializer("zeros", np.zeros(BINS, np.float32))
    counts = _apply(rewriter, "ScatterElements", [zeros, index, ones], axis=0, reduction="add")
    counts.name = output_name(request.value, "histogram")
    return counts


def _as_float(rewriter: Rewriter, x: ir.Value) -> ir.Value:
    if x.dtype == ir.DataType.FLOAT:
        return x
    return _apply(rewriter, "Cast", [x], to=int(ir.DataType.FLOAT))


def _apply(rewriter: Rewriter, op: str, inputs: list[ir.Value], **attributes: Any) -> ir.Value:
    return rewriter.insert(op, inputs, attributes=attributes, name="observe").outputs[0]


def _ints(rewriter: Rewriter, numbers: list[int]) -> ir.Value:
    return rewriter.initializer("ints", np.array(numbers, np.int64))


def _float(rewriter: Rewriter, number: float) -> ir.Value:
    return rewriter.initializer("float", np.array(number, np.float32))


def _set_outputs(model: ir.Model, outputs: Sequence[ir.Value]) -> None:
    model.graph.outputs.clear()
    model.graph.outputs.extend(outputs)
