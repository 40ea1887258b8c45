"""Recognise spelled-out attention exactly, and write it as ``com.microsoft.MultiHeadAttention``.

The pattern, with the last axis of q, k and v split into heads::

    heads(x)  = Transpose(Reshape(x, [.., H, D]), [0, 2, 1, 3])
    scores    = MatMul(heads(q) * a, transposed(heads(k)) * b) (* c)
    weights   = Softmax(scores (+ mask)), NaN of wholly masked rows replaced by zero or not
    output    = Reshape(Transpose(MatMul(weights, heads(v)), [0, 2, 1, 3]), [.., H * D])

Anything else is left alone. Rows whose every key is masked keep their zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ...ir.graph import (
    attribute,
    constant_array,
    consumers,
    dims,
    opset,
    producer,
    scalar,
    single_consumer,
)
from ...ir.rewriter import Rewriter

LOWEST = -1e30
"""Instead of minus infinity: its exponential is as exactly zero beside any real score."""
AXES_AS_INPUT = 18
"""ReduceMax takes its axes as an input from this opset on."""


@dataclass(frozen=True)
class SpelledAttention:
    """What the fused operator needs. query, key, value: [batch, tokens, heads * width].

    mask: additive, [batch or 1, heads or 1, queries, keys]. guarded: wholly masked rows give
    zeros. output: the value that the fused operator replaces.
    """

    query: ir.Value
    key: ir.Value
    value: ir.Value
    mask: ir.Value | None
    heads: int
    scale: float
    guarded: bool
    output: ir.Value


def find_attention(softmax: ir.Node) -> SpelledAttention | None:
    """The attention around a Softmax; None where the graph is not exactly that pattern."""
    if softmax.op_type != "Softmax" or attribute(softmax, "axis", -1) not in (-1, 3):
        return None
    weights, guarded = _weights(softmax)
    product = None if weights is None else _only_reader(weights, "MatMul")
    if product is None or product.inputs[0] is not weights:
        return None
    scores, mask = _masked(softmax.inputs[0])
    before = None if scores is None else _scores(scores)
    value = _heads(product.inputs[1])
    output = _merged(product.outputs[0])
    if before is None or value is None or output is None:
        return None
    query, key, scale = before
    if not query[1:] == key[1:] == value[1:] or query[0].dtype != ir.DataType.FLOAT:
        return None
    guarded = guarded and mask is not None
    if not _joins(output, query) or not _mask_fits(mask, scores, query[1], guarded):
        return None
    return SpelledAttention(query[0], key[0], value[0], mask, query[1], scale, guarded, output)


def fuse_attention(rewriter: Rewriter) -> int:
    """Write every attention that is recognised as one operator; how many were."""
    count, guards = 0, dict[ir.Value, _Guard]()
    for node in list(rewriter.graph):
        found = find_attention(node) if node.graph is not None else None
        if found is not None:
            rewriter.require_opset("com.microsoft", 1)
            _replace(found, rewriter, guards)
            count += 1
    return count


@dataclass(frozen=True)
class _Guard:
    """A mask without infinities, and float [batch, queries, 1]: 0 for wholly masked queries."""

    mask: ir.Value
    alive: ir.Value


def _replace(found: SpelledAttention, rewriter: Rewriter, guards: dict[ir.Value, _Guard]) -> None:
    last = found.output.producer()
    assert last is not None
    guard = _guard(found, rewriter, guards)
    mask = found.mask if guard is None else guard.mask
    inputs = [found.query, found.key, found.value, None, None, mask]
    fused = rewriter.insert(
        "MultiHeadAttention",
        inputs[: 6 if mask is not None else 3],
        before=last,
        domain="com.microsoft",
        name=f"{last.name}_attention",
        origins=[last],
        attributes={"num_heads": found.heads, "scale": found.scale},
    )
    result = fused.outputs[0]
    rewriter.set_type(result, ir.DataType.FLOAT, found.query.shape)
    if guard is not None:
        result = rewriter.insert(
            "Mul", [result, guard.alive], after=fused, name=f"{last.name}_guarded", origins=[last]
        ).outputs[0]
    dead = list(last.inputs)
    rewriter.take_over(found.output, result)
    rewriter.remove(last)
    rewriter.sweep(dead)


def _guard(
    found: SpelledAttention, rewriter: Rewriter, guards: dict[ir.Value, _Guard]
) -> _Guard | None:
    """Made once for each mask: with finite numbers the operator makes no NaN to begin with."""
    mask = found.mask
    if not found.guarded or mask is None:
        return None
    if mask not in guards:
        guards[mask] = _Guard(*_finite_and_alive(mask, rewriter))
    return guards[mask]


def _finite_and_alive(mask: ir.Value, rewriter: Rewriter) -> tuple[ir.Value, ir.Value]:
    made = mask.producer()

    def insert(op: str, inputs: list[ir.Value], **attributes: Any) -> ir.Value:
        nonlocal made
        made = rewriter.insert(op, inputs, after=made, attributes=attributes, name="attended")
        return made.outputs[0]

    heads = rewriter.initializer("attended_heads", np.array([1], np.int64))
    infinite = rewriter.initializer("attended_never", np.array(-np.inf, np.float32))
    lowest = rewriter.initializer("attended_lowest", np.array(LOWEST, np.float32))
    if opset(rewriter.model) < AXES_AS_INPUT:
        best = insert("ReduceMax", [mask], axes=[-1], keepdims=1)
    else:
        axis = rewriter.initializer("attended_axis", np.array([-1], np.int64))
        best = insert("ReduceMax", [mask, axis], keepdims=1)
    some = insert("Greater", [best, infinite])
    alive = insert("Cast", [insert("Squeeze", [some, heads])], to=int(ir.DataType.FLOAT))
    return insert("Max", [mask, lowest]), alive


Heads = tuple[ir.Value, int, int]


def _heads(value: ir.Value | None) -> Heads | None:
    """(x, H, D) of Transpose(Reshape(x, [.., H, D]), [0, 2, 1, 3])."""
    node = producer(value, "Transpose")
    if node is None or tuple(attribute(node, "perm", ())) != (0, 2, 1, 3):
        return None
    return _split(node.inputs[0])


def _split(value: ir.Value | None) -> Heads | None:
    """(x, H, D) of Reshape(x [.., .., H * D], [.., .., H, D])."""
    node, shape = producer(value, "Reshape"), dims(value)
    source = None if node is None else node.inputs[0]
    flat = dims(source)
    if source is None or shape is None or flat is None or len(shape) != 4 or len(flat) != 3:
        return None
    heads, width = shape[2], shape[3]
    if any(_differ(a, b) for a, b in zip(shape[:2], flat[:2], strict=True)):
        return None
    if not isinstance(heads, int) or not isinstance(width, int) or flat[2] != heads * width:
        return None
    return source, heads, width


def _differ(a: int | str | None, b: int | str | None) -> bool:
    return isinstance(a, int) and isinstance(b, int) and a != b


def _transposed_heads(value: ir.Value | None) -> Heads | None:
    """(x, H, D) of k brought to [batch, heads, width, tokens], in the exporters' three ways."""
    node = producer(value)
    if node is None:
        return None
    if node.op_type == "Transpose":
        order = tuple(attribute(node, "perm", ()))
        if order == (0, 2, 3, 1):
            return _split(node.inputs[0])
        return _heads(node.inputs[0]) if order == (0, 1, 3, 2) else None
    inner = producer(node.inputs[0], "Transpose") if node.op_type == "Reshape" else None
    if inner is None or tuple(attribute(inner, "perm", ())) != (0, 2, 1):
        return None
    flat = producer(inner.inputs[0], "Reshape")
    found = None if flat is None else _heads(flat.inputs[0])
    if flat is None or found is None:
        return None
    kept = len(dims(flat.outputs[0]) or ()) == 3 and len(dims(value) or ()) == 4
    return found if kept and (dims(flat.outputs[0]) or ())[-1] == found[2] else None


def _scores(value: ir.Value) -> tuple[Heads, Heads, float] | None:
    value, scale = _unscaled(value)
    node = producer(value, "MatMul")
    if node is None or node.inputs[0] is None or node.inputs[1] is None:
        return None
    left, a = _unscaled(node.inputs[0])
    right, b = _unscaled(node.inputs[1])
    query, key = _heads(left), _transposed_heads(right)
    return None if query is None or key is None else (query, key, scale * a * b)


def _unscaled(value: ir.Value) -> tuple[ir.Value, float]:
    """Look through multiplications and divisions by a constant number."""
    factor = 1.0
    while (node := producer(value)) is not None and node.op_type in ("Mul", "Div"):
        number = scalar(node.inputs[1])
        if number is None or number == 0.0 or node.inputs[0] is None:
            break
        factor = factor * number if node.op_type == "Mul" else factor / number
        value = node.inputs[0]
    return value, factor


def _masked(value: ir.Value | None) -> tuple[ir.Value | None, ir.Value | None]:
    """(scores, mask) of scores + mask; the mask None where nothing is added."""
    node = producer(value, "Add")
    if node is None:
        return value, None
    for scores, mask in (node.inputs, reversed(node.inputs)):
        if scores is not None and producer(_unscaled(scores)[0], "MatMul") is not None:
            return scores, mask
    return None, None


def _mask_fits(mask: ir.Value | None, scores: ir.Value | None, heads: int, guarded: bool) -> bool:
    """Whether the operator takes the mask: rank 4, no broadcast over queries or keys.

    A guard multiplies whole rows of the joined heads, so its mask must hold for all heads.
    """
    if mask is None:
        return True
    shape = dims(mask)
    if shape is None or len(shape) != 4 or mask.dtype != ir.DataType.FLOAT:
        return False
    if producer(mask) is None or shape[1] not in ((1,) if guarded else (1, heads)):
        return False
    beside = dims(scores) or (None,) * 4
    return all(_as_long(d, other) for d, other in zip(shape[2:], beside[2:], strict=True))


def _as_long(dim: int | str | None, other: int | str | None) -> bool:
    """Whether an axis of the mask surely has the size of the scores' and is not stretched."""
    return _known(dim) and dim != 1 and (dim == other or not _known(other))


def _known(dim: int | str | None) -> bool:
    """Symbols that shape inference makes up say nothing."""
    return isinstance(dim, int) or (dim is not None and not dim.startswith("unk__"))


def _weights(softmax: ir.Node) -> tuple[ir.Value | None, bool]:
    """The weights behind a guard Where(IsNaN(w), 0, w), and whether there is one."""
    raw = softmax.outputs[0]
    users = consumers(raw)
    if len(users) == 1:
        return raw, False
    guard = next((n for n in users if n.op_type == "Where"), None)
    test = next((n for n in users if n.op_type == "IsNaN"), None)
    if len(users) != 2 or guard is None or test is None:
        return None, False
    exact = guard.inputs[0] is test.outputs[0] and guard.inputs[2] is raw
    zero = constant_array(guard.inputs[1])
    if not exact or zero is None or zero.any():
        return None, False
    return guard.outputs[0], True


def _merged(value: ir.Value) -> ir.Value | None:
    """The Reshape behind Transpose(value, [0, 2, 1, 3]) that joins the heads again."""
    node = _only_reader(value, "Transpose")
    if node is None or tuple(attribute(node, "perm", ())) != (0, 2, 1, 3):
        return None
    join = _only_reader(node.outputs[0], "Reshape")
    if join is None or len(dims(join.outputs[0]) or ()) != 3:
        return None
    return join.outputs[0]


def _joins(output: ir.Value, query: Heads) -> bool:
    """Whether the last axis of the output holds all heads."""
    return (dims(output) or (None,))[-1] == query[1] * query[2]


def _only_reader(value: ir.Value, op_type: str) -> ir.Node | None:
    node = single_consumer(value)
    return node if node is not None and node.op_type == op_type else None
