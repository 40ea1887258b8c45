"""Activation functions that a model spells out, as one kernel.

Exporters write GELU as five to nine elementwise operators, in any order. ONNX Runtime fuses the
orders that PyTorch writes. Here the arithmetic decides, not the order: what stands between x and
tanh (or erf), and behind it, is multiplied out, and compared with the definition
(Hendrycks and Gimpel, Gaussian Error Linear Units, 2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from ...ir.graph import is_constant, operator, producer, scalar, single_consumer
from ...ir.rewriter import Rewriter

Polynomial = Mapping[tuple[int, int], float]
"""Coefficients by the powers of x and of t, the value of tanh or erf."""
Known = Mapping[ir.Value, Polynomial]

X: Polynomial = {(1, 0): 1.0}
T: Polynomial = {(0, 1): 1.0}
GELU: Polynomial = {(1, 0): 0.5, (1, 1): 0.5}
"""x (1 + t) / 2"""
INNER: Mapping[str, tuple[str, Polynomial]] = {
    "Tanh": ("FastGelu", {(1, 0): math.sqrt(2 / math.pi),
                          (3, 0): 0.044715 * math.sqrt(2 / math.pi)}),
    "Erf": ("Gelu", {(1, 0): math.sqrt(0.5)}),
}  # fmt: skip
"""Function -> the operator of com.microsoft, and what the function is taken of."""
NEAR = 1e-4
"""Relative; constants are stored in float32, some exporters keep six digits."""
DEEP = 8
"""Operators between x and the function, or behind it, at most."""
HIGHEST = 4
"""Power at most: what grows beyond is no activation function."""


@dataclass(frozen=True)
class Found:
    """x, the output of the spelled-out function, and the operator that computes it."""

    x: ir.Value
    output: ir.Value
    op: str


def fuse_activations(rewriter: Rewriter) -> int:
    """Write spelled-out GELUs as FastGelu or Gelu of com.microsoft; how many were."""
    found = [each for node in rewriter.graph if (each := _gelu(node)) is not None]
    for each in found:
        _fuse(rewriter, each)
    return len(found)


def _fuse(rewriter: Rewriter, found: Found) -> None:
    last = found.output.producer()
    assert last is not None
    rewriter.require_opset("com.microsoft", 1)
    made = rewriter.insert(
        found.op, [found.x], before=last, domain="com.microsoft",
        name=f"{last.name}_gelu", origins=[last],
    )  # fmt: skip
    read = list(last.inputs)
    rewriter.take_over(found.output, made.outputs[0])
    rewriter.remove(last)
    rewriter.sweep(read)


def _gelu(node: ir.Node) -> Found | None:
    if node.domain or node.op_type not in INNER:
        return None
    op, wanted = INNER[node.op_type]
    argument, t = node.inputs[0], node.outputs[0]
    if argument is None or argument.dtype != ir.DataType.FLOAT:
        return None
    for x in _cone(argument):
        if _same(_expanded(argument, {x: X}), wanted):
            output = _behind(t, {x: X, t: T})
            return None if output is None else Found(x, output, op)
    return None


def _cone(value: ir.Value) -> Iterator[ir.Value]:
    """The value and what it is computed from, nearest first, each once."""
    level, seen = [value], {value}
    for _ in range(DEEP):
        yield from level
        nodes = [made for v in level if (made := producer(v)) is not None]
        read = [v for node in nodes for v in node.inputs if v is not None and not is_constant(v)]
        level = [v for v in dict.fromkeys(read) if v not in seen]
        seen.update(level)


def _behind(t: ir.Value, known: Known) -> ir.Value | None:
    """The first value behind t that is x (1 + t) / 2."""
    value: ir.Value | None = t
    for _ in range(DEEP):
        reader = None if value is None else single_consumer(value)
        if reader is None or value is None or value.is_graph_output() or not reader.outputs:
            return None
        value = reader.outputs[0]
        expanded = _expanded(value, known)
        if expanded is None:
            return None
        if _same(expanded, GELU):
            return value
    return None


# -- arithmetic ------------------------------------------------------------------------


def _expanded(value: ir.Value | None, known: Known, depth: int = DEEP) -> Polynomial | None:
    """The value as a polynomial in what is known; None where it is none, or too large a one."""
    if value is None or depth < 0:
        return None
    if value in known:
        return known[value]
    if is_constant(value):
        number = scalar(value)
        return None if number is None else {(0, 0): number}
    node = producer(value)
    if node is None or operator(node) not in _RULES:
        return None
    read = [_expanded(v, known, depth - 1) for v in node.inputs]
    parts = [part for part in read if part is not None]
    return _RULES[operator(node)](*parts) if len(parts) == len(read) else None


def _sum(a: Polynomial, b: Polynomial) -> Polynomial:
    return {power: a.get(power, 0.0) + b.get(power, 0.0) for power in {*a, *b}}


def _product(a: Polynomial, b: Polynomial) -> Polynomial | None:
    made: dict[tuple[int, int], float] = {}
    for (i, j), left in a.items():
        for (k, m), right in b.items():
            made[i + k, j + m] = made.get((i + k, j + m), 0.0) + left * right
    return made if max(map(sum, made)) <= HIGHEST else None


def _quotient(a: Polynomial, b: Polynomial) -> Polynomial | None:
    divisor = _number(b)
    return None if not divisor else {power: value / divisor for power, value in a.items()}


def _power(a: Polynomial, b: Polynomial) -> Polynomial | None:
    exponent, made = _number(b), None
    if exponent not in (1.0, 2.0, 3.0):
        return None
    for _ in range(int(exponent)):
        made = a if made is None else _product(made, a)
        if made is None:
            return None
    return made


def _number(a: Polynomial) -> float | None:
    return a[0, 0] if set(a) == {(0, 0)} else None


_RULES: Mapping[tuple[str, str], Callable[..., Polynomial | None]] = {
    ("", "Add"): _sum,
    ("", "Sum"): lambda a, b=None: a if b is None else _sum(a, b),
    ("", "Sub"): lambda a, b: _sum(a, {power: -value for power, value in b.items()}),
    ("", "Mul"): _product,
    ("", "Div"): _quotient,
    ("", "Pow"): _power,
    ("", "Neg"): lambda a: {power: -value for power, value in a.items()},
    ("", "Identity"): lambda a: a,
}


def _same(found: Polynomial | None, wanted: Polynomial) -> bool:
    if found is None:
        return False
    return all(
        math.isclose(found.get(p, 0.0), wanted.get(p, 0.0), rel_tol=NEAR, abs_tol=NEAR * 0.01)
        for p in {*found, *wanted}
    )
