"""Activations rounded in blocks that share a scale, spelled in standard operators.

ONNX Runtime has no 4-bit floats, and neither form of rounding: a graph says operator by operator
what is computed, and it is found again by its spelling. TensorRT's backend writes its own
operators.

Sources: OCP Microscaling Formats 1.0 (E2M1, MXFP8); NVIDIA TensorRT, operator DynamicQuantize
(blocks of 16 with scales in E4M3 and a float32 scale for all of them).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import log

import numpy as np
import onnx_ir as ir

from .graph import attribute, constant_array, consumers, dims, operator, producer, scalar
from .rewriter import Rewriter

E4M3 = ir.DataType.FLOAT8E4M3FN
LARGEST_E2M1, LARGEST_E4M3 = 6.0, 448.0
TINY = float(np.finfo(np.float32).tiny)
RANKS = (2, 3)
"""Axes of an activation whose last one stands in blocks; TensorRT takes no others."""

Steps = tuple[tuple[str, str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Spelling:
    """How a rounding is spelled: what each value is made of, in order, and fixed numbers.

    chain: operators from the blocks to the result. scaled: whether there is a scale for all blocks.
    """

    steps: Steps
    numbers: Mapping[str, float]
    chain: tuple[str, ...]
    scaled: bool


FLOAT4 = Spelling(
    (
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
    ),
    {"tiny": TINY, "low": -LARGEST_E2M1, "high": LARGEST_E2M1, "four": 4.0, "two": 2.0,
     "one": 1.0, "half": 0.5},
    ("Div", "Clip", "Div", "Round", "Mul", "Mul", "Reshape"),
    scaled=True,
)  # fmt: skip
"""E2M1 with E4M3 scales of blocks, multiples of one float32 scale. ``gap``: between neighbouring
codes of that size: 0.5 below 2, 1 below 4, then 2; a tie goes to the code whose last bit is 0."""
MXFP8 = Spelling(
    (
        ("parts", "Reshape", ("x", "split")),
        ("sizes", "Abs", ("parts",)),
        ("peak", "ReduceMax", ("sizes", "last")),
        ("reached", "Div", ("peak", "most")),
        ("wanted", "Max", ("reached", "tiny")),
        ("log", "Log", ("wanted",)),
        ("octaves", "Mul", ("log", "per_octave")),
        ("exponent", "Ceil", ("octaves",)),
        ("guess", "Pow", ("two", "exponent")),
        ("short", "Less", ("guess", "wanted")),
        ("twice", "Mul", ("guess", "two")),
        ("enough", "Where", ("short", "twice", "guess")),
        ("halved", "Mul", ("enough", "half")),
        ("long", "GreaterOrEqual", ("halved", "wanted")),
        ("step", "Where", ("long", "halved", "enough")),
        ("units", "Div", ("parts", "step")),
        ("coded", "Cast", ("units",)),
        ("known", "Cast", ("coded",)),
        ("rounded", "Mul", ("known", "step")),
        ("y", "Reshape", ("rounded", "join")),
    ),
    {"tiny": TINY, "most": LARGEST_E4M3, "per_octave": 1 / log(2), "two": 2.0, "half": 0.5},
    ("Div", "Cast", "Cast", "Mul", "Reshape"),
    scaled=False,
)
"""E4M3 with powers of two as scales of blocks: the least that hold the largest number. Logarithms
are not exact: the guess may be a step off, and is put right."""
_CASTS = {"coded": E4M3, "known": ir.DataType.FLOAT}


@dataclass(frozen=True, eq=False)
class Rounded:
    """An activation rounded in blocks along its last axis, with a scale from each block.

    x, y: before and after. scale: of E2M1 the scalar that block scales, in E4M3, are multiples of;
    None for E4M3 with powers of two. nodes: all that stands between.
    """

    x: ir.Value
    y: ir.Value
    scale: ir.Value | None
    block: int
    nodes: tuple[ir.Node, ...]


def rounded_view(rewriter: Rewriter, x: ir.Value, scale: float | None, block: int) -> ir.Value:
    """The value rounded in blocks along its last axis; shared by all who ask alike.

    x: float32 with 2 or 3 axes, the last of a size that ``block`` divides. scale: of E2M1; None
    for E4M3 with powers of two.
    """
    wanted = None if scale is None else np.float32(scale)
    for reader in consumers(x):
        found = _rounded_from(reader)
        if found is not None and found.block == block and scalar(found.scale) == wanted:
            return found.y
    spelling = MXFP8 if scale is None else FLOAT4
    values = _constants(rewriter, x, spelling, scale, block)
    made = x.producer()
    first = next(iter(rewriter.graph), None) if made is None else None
    before, after = (first, None) if made is None else (None, made)
    for label, op, operands in spelling.steps:
        node = rewriter.insert(
            op, [values[name] for name in operands], before=before, after=after,
            attributes=_attributes(label, op), name=f"{x.name}_{label}",
            origins=[] if made is None else [made],
        )  # fmt: skip
        values[label], before, after = node.outputs[0], None, node
    return values["y"]


def _constants(
    rewriter: Rewriter, x: ir.Value, spelling: Spelling, scale: float | None, block: int
) -> dict[str, ir.Value]:
    shape = dims(x)
    assert shape is not None and len(shape) in RANKS
    leading, size = [0] * (len(shape) - 1), shape[-1]
    # In numbers where they are known: -1 says nothing where another axis is empty.
    count, whole = (size // block, size) if isinstance(size, int) else (-1, -1)
    arrays = {n: np.asarray(number, np.float32) for n, number in spelling.numbers.items()}
    if scale is not None:
        one = np.float32(scale)
        arrays |= {"scale": np.asarray(one), "reach": np.asarray(one * np.float32(LARGEST_E2M1))}
    arrays |= {
        "split": np.array([*leading, count, block], np.int64),
        "join": np.array([*leading, whole], np.int64),
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
    for spelling in (FLOAT4, MXFP8):
        value: ir.Value | None = first.outputs[0]
        for op in spelling.chain:
            value = _next(value, op)
        if value is not None:
            return _bound(value, first, spelling)
    return None


def _next(value: ir.Value | None, op: str) -> ir.Value | None:
    """What the one reader of that kind makes of a value."""
    readers = [] if value is None else [n for n in consumers(value) if operator(n) == ("", op)]
    return readers[0].outputs[0] if len(readers) == 1 else None


def _bound(y: ir.Value, first: ir.Node, spelling: Spelling) -> Rounded | None:
    """The value with all that it is made of, where every operator and constant is as spelled."""
    values, nodes = {"y": y}, []
    for label, op, operands in reversed(spelling.steps):
        node = producer(values.get(label), op)
        if node is None or len(node.inputs) != len(operands) or not _alike(node, label, op):
            return None
        for name, value in zip(operands, node.inputs, strict=True):
            if value is None or values.setdefault(name, value) is not value:
                return None
        nodes.append(node)
    if nodes[-1] is not first or not _spelled(values, spelling):
        return None
    split = constant_array(values["split"])
    assert split is not None
    return Rounded(values["x"], y, values.get("scale"), int(split[-1]), tuple(reversed(nodes)))


def _alike(node: ir.Node, label: str, op: str) -> bool:
    wanted = _attributes(label, op)
    return not node.domain and all(attribute(node, k, 1) == v for k, v in wanted.items())


def _spelled(values: dict[str, ir.Value], spelling: Spelling) -> bool:
    """Whether the constants are those of such a rounding."""
    split, join, last = (constant_array(values[name]) for name in ("split", "join", "last"))
    if split is None or join is None or last is None:
        return False
    numbers = all(scalar(values[n]) == np.float32(x) for n, x in spelling.numbers.items())
    rank, leading, size, block = len(join), [0] * (len(join) - 1), int(join[-1]), int(split[-1])
    whole = rank in RANKS and join.tolist() == [*leading, size] and block > 0
    count = -1 if size == -1 else size // max(block, 1)
    whole = whole and split.tolist() == [*leading, count, block]
    return numbers and whole and last.tolist() in ([-1], [rank]) and _reaches(values, spelling)


def _reaches(values: dict[str, ir.Value], spelling: Spelling) -> bool:
    """Whether the scale is one, and what it reaches is what it says."""
    if not spelling.scaled:
        return True
    scale, reach = scalar(values["scale"]), scalar(values["reach"])
    if scale is None or reach is None:
        return False
    return bool(np.float32(scale) * np.float32(LARGEST_E2M1) == np.float32(reach))
