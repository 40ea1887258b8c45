"""Numbers in blocks that share a scale, spelled in standard operators that ONNX Runtime runs.

No runtime here has 4-bit floats, so a graph says what they do: a stored weight as codes of 8 bits
behind DequantizeLinear, a row for each block, and a rounded activation operator by operator. Both
are found again by their spelling; TensorRT's backend writes 4-bit codes and its own operators.

Sources: OCP Microscaling Formats 1.0 (E2M1); NVIDIA TensorRT, operators DynamicQuantize and
Dequantize (blocks of 16 with scales in E4M3 and a float32 scale for all of them).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .graph import (
    attribute,
    constant_array,
    constant_tensor,
    consumers,
    dims,
    given,
    is_constant,
    operator,
    producer,
    scalar,
)
from .rewriter import Rewriter

E4M3 = ir.DataType.FLOAT8E4M3FN
LARGEST_E2M1, LARGEST_E4M3 = 6.0, 448.0
TINY = float(np.finfo(np.float32).tiny)
_E2M1 = frozenset({0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0})
RANKS = (2, 3)
"""Axes of an activation whose last one stands in blocks; TensorRT takes no others."""

_STEPS = (
    ("parts", "Reshape", ("x", "split")),
    ("sizes", "Abs", ("parts",)),
    ("peak", "ReduceMax", ("sizes", "last")),
    ("wanted", "Div", ("peak", "reach")),
    ("coded", "Cast", ("wanted",)),
    ("known", "Cast", ("coded",)),
    ("step", "Mul", ("known", "scale")),
    ("divisor", "Max", ("step", "tiny")),
    ("units", "Div", ("parts", "divisor")),
    ("held", "Clip", ("units", "low", "high")),
    ("size", "Abs", ("held",)),
    ("wide", "GreaterOrEqual", ("size", "four")),
    ("middle", "GreaterOrEqual", ("size", "two")),
    ("inner", "Where", ("middle", "one", "half")),
    ("gap", "Where", ("wide", "two", "inner")),
    ("gaps", "Div", ("held", "gap")),
    ("whole", "Round", ("gaps",)),
    ("code", "Mul", ("whole", "gap")),
    ("rounded", "Mul", ("code", "step")),
    ("y", "Reshape", ("rounded", "join")),
)
"""What each value is made of, in order. ``gap``: between neighbouring codes of that size: 0.5 below
2, 1 below 4, then 2; a tie goes to the code of which the last bit is 0."""
_NUMBERS = {"tiny": TINY, "low": -LARGEST_E2M1, "high": LARGEST_E2M1, "four": 4.0, "two": 2.0,
            "one": 1.0, "half": 0.5}  # fmt: skip
_CASTS = {"coded": E4M3, "known": ir.DataType.FLOAT}


@dataclass(frozen=True, eq=False)
class Rounded:
    """An activation rounded to E2M1 in blocks along its last axis, with a scale from each block.

    x, y: before and after. scale: the scalar that block scales, in E4M3, are multiples of.
    nodes: all that stands between.
    """

    x: ir.Value
    y: ir.Value
    scale: ir.Value
    block: int
    nodes: tuple[ir.Node, ...]


@dataclass(frozen=True, eq=False)
class BlockedWeight:
    """A stored weight [N, K] in blocks along K, read as [K, N].

    y: what layers read. codes: [N * K / block, block], E4M3 codes of which each is one of E2M1, or
    int8 codes from -8 to 7. scales: one for each row of codes; of floats in E4M3, behind the
    DequantizeLinear ``inner`` with one float32 scale, else float32 (inner is None).
    """

    y: ir.Value
    codes: ir.Value
    scales: ir.Value
    inner: ir.Node | None
    nodes: tuple[ir.Node, ...]
    sizes: tuple[int, int]
    block: int

    @property
    def scale_name(self) -> str:
        """The name of what holds its scales."""
        return str(self.scales.name)


# -- activations -------------------------------------------------------------------------


def rounded_view(rewriter: Rewriter, x: ir.Value, scale: float, block: int) -> ir.Value:
    """The value rounded in blocks along its last axis; shared by all who ask alike.

    x: float32 with 2 or 3 axes, the last of a size that ``block`` divides.
    """
    for reader in consumers(x):
        found = _rounded_from(reader)
        if found is not None and found.block == block and scalar(found.scale) == np.float32(scale):
            return found.y
    values = _constants(rewriter, x, scale, block)
    made = x.producer()
    first = next(iter(rewriter.graph), None) if made is None else None
    before, after = (first, None) if made is None else (None, made)
    for label, op, operands in _STEPS:
        node = rewriter.insert(
            op, [values[name] for name in operands], before=before, after=after,
            attributes=_attributes(label, op), name=f"{x.name}_{label}",
            origins=[] if made is None else [made],
        )  # fmt: skip
        values[label], before, after = node.outputs[0], None, node
    return values["y"]


def _constants(rewriter: Rewriter, x: ir.Value, scale: float, block: int) -> dict[str, ir.Value]:
    shape = dims(x)
    assert shape is not None and len(shape) in RANKS
    leading = [0] * (len(shape) - 1)
    one = np.float32(scale)
    arrays = {name: np.asarray(number, np.float32) for name, number in _NUMBERS.items()} | {
        "scale": np.asarray(one),
        "reach": np.asarray(one * np.float32(LARGEST_E2M1)),
        "split": np.array([*leading, -1, block], np.int64),
        "join": np.array([*leading, -1], np.int64),
        "last": np.array([-1], np.int64),
    }
    made = {n: rewriter.initializer(f"{x.name}_{n}", a) for n, a in arrays.items()}
    return {"x": x, **made}


def _attributes(label: str, op: str) -> dict[str, int]:
    if label in _CASTS:
        return {"to": int(_CASTS[label])}
    return {"keepdims": 1} if op == "ReduceMax" else {}


def rounded_values(model: ir.Model) -> Iterator[Rounded]:
    """Every activation of the main graph that is rounded so, in order of the graph."""
    for node in model.graph:
        found = _rounded_from(node)
        if found is not None:
            yield found


def _rounded_from(first: ir.Node) -> Rounded | None:
    """What starts with a Reshape into blocks; None where that is all that it is."""
    if operator(first) != ("", "Reshape"):
        return None
    value: ir.Value | None = first.outputs[0]
    for op in ("Div", "Clip", "Div", "Round", "Mul", "Mul", "Reshape"):
        value = _next(value, op)
    return None if value is None else _bound(value, first)


def _next(value: ir.Value | None, op: str) -> ir.Value | None:
    """What the one reader of that kind makes of a value."""
    readers = [] if value is None else [n for n in consumers(value) if operator(n) == ("", op)]
    return readers[0].outputs[0] if len(readers) == 1 else None


def _bound(y: ir.Value, first: ir.Node) -> Rounded | None:
    """The value with all that it is made of, where every operator and constant is as spelled."""
    values, nodes = {"y": y}, []
    for label, op, operands in reversed(_STEPS):
        node = producer(values.get(label), op)
        if node is None or len(node.inputs) != len(operands) or not _alike(node, label, op):
            return None
        for name, value in zip(operands, node.inputs, strict=True):
            if value is None or values.setdefault(name, value) is not value:
                return None
        nodes.append(node)
    if nodes[-1] is not first or not _spelled(values):
        return None
    split = constant_array(values["split"])
    assert split is not None
    return Rounded(values["x"], y, values["scale"], int(split[-1]), tuple(reversed(nodes)))


def _alike(node: ir.Node, label: str, op: str) -> bool:
    wanted = _attributes(label, op)
    return not node.domain and all(attribute(node, k, 1) == v for k, v in wanted.items())


def _spelled(values: dict[str, ir.Value]) -> bool:
    """Whether the constants are those of such a rounding."""
    scale, reach = scalar(values["scale"]), scalar(values["reach"])
    split, join = (constant_array(values[name]) for name in ("split", "join"))
    last = constant_array(values["last"])
    if scale is None or reach is None or split is None or join is None or last is None:
        return False
    numbers = all(scalar(values[n]) == np.float32(x) for n, x in _NUMBERS.items())
    rank, leading = len(join), [0] * (len(join) - 1)
    whole = rank in RANKS and join.tolist() == [*leading, -1]
    whole = whole and split.tolist() == [*leading, -1, split[-1]] and bool(split[-1] > 0)
    reached = np.float32(scale) * np.float32(LARGEST_E2M1) == np.float32(reach)
    return numbers and whole and bool(reached) and last.tolist() in ([-1], [rank])


# -- weights -----------------------------------------------------------------------------


def blocked_weight(
    rewriter: Rewriter,
    before: ir.Node,
    hint: str,
    codes: np.ndarray,
    scales: np.ndarray,
    tensor_scale: float | None = None,
) -> ir.Value:
    """A weight [K, N] out of codes [N, K] with scales [N, K / block], in front of its layer.

    codes: E4M3 or int8. scales: float32, or E4M3 multiples of ``tensor_scale``.
    """
    outputs, inputs = codes.shape
    block = inputs // scales.shape[1]
    rows = rewriter.initializer(f"{hint}_codes", codes.reshape(-1, block))
    steps = rewriter.initializer(f"{hint}_scale", scales.reshape(-1))
    if tensor_scale is not None:
        one = rewriter.initializer(f"{hint}_tensor_scale", np.asarray(tensor_scale, np.float32))
        steps = _inserted(rewriter, before, hint, "DequantizeLinear", steps, one)
    wide = _inserted(rewriter, before, hint, "DequantizeLinear", rows, steps, axis=0)
    shape = rewriter.initializer(f"{hint}_shape", np.array([outputs, inputs], np.int64))
    whole = _inserted(rewriter, before, hint, "Reshape", wide, shape)
    return _inserted(rewriter, before, hint, "Transpose", whole, perm=(1, 0))


def _inserted(
    rewriter: Rewriter, before: ir.Node, hint: str, op: str, *inputs: ir.Value, **attributes: object
) -> ir.Value:
    made = rewriter.insert(
        op, inputs, before=before, attributes=attributes, name=f"{hint}_{op.lower()}",
        origins=[before],
    )  # fmt: skip
    return made.outputs[0]


def blocked_weights(model: ir.Model) -> Iterator[BlockedWeight]:
    """Every weight of the main graph that is stored so."""
    for node in model.graph:
        found = _weight_at(node) if operator(node) == ("", "Transpose") else None
        if found is not None:
            yield found


def _weight_at(turn: ir.Node) -> BlockedWeight | None:
    fold = producer(turn.inputs[0], "Reshape")
    wide = producer(fold.inputs[0], "DequantizeLinear") if fold is not None else None
    if fold is None or wide is None or given(wide, 2) is not None:
        return None
    codes, scale = wide.inputs[0], wide.inputs[1]
    tensor, shape = constant_tensor(codes), constant_array(fold.inputs[1])
    if codes is None or scale is None or tensor is None or shape is None:
        return None
    rows = tensor.shape.numpy()
    if len(rows) != 2 or len(shape) != 2 or attribute(wide, "axis", 1) != 0:
        return None
    outputs, inputs = (int(size) for size in shape)
    inner = producer(scale, "DequantizeLinear")
    floats = tensor.dtype == E4M3 and inner is not None and is_constant(inner.inputs[0])
    if not floats and not (tensor.dtype == ir.DataType.INT8 and is_constant(scale)):
        return None
    if outputs < 1 or inputs % rows[1] or rows[0] * rows[1] != outputs * inputs:
        return None
    if not _in_four_bits(codes, tensor.dtype):
        return None
    if tuple(attribute(turn, "perm", (1, 0))) != (1, 0):
        return None
    scales = inner.inputs[0] if floats and inner is not None else scale
    assert scales is not None
    nodes = (*([inner] if floats and inner is not None else []), wide, fold, turn)
    return BlockedWeight(
        turn.outputs[0], codes, scales, inner if floats else None, nodes, (outputs, inputs), rows[1]
    )


def _in_four_bits(codes: ir.Value, dtype: ir.DataType) -> bool:
    """Whether each stored number is one of E2M1, or an integer of 4 bits."""
    array = constant_array(codes)
    assert array is not None
    if dtype == ir.DataType.INT8:
        return bool(array.size and array.min() >= -8 and array.max() <= 7)
    counts = np.bincount(array.view(np.uint8).reshape(-1), minlength=256)
    found = np.flatnonzero(counts).astype(np.uint8).view(dtype.numpy())
    return set(np.abs(found.astype(np.float32)).tolist()) <= _E2M1
