"""Graphs inside graphs: branches, loops, scans, functions and sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
from onnx import helper

from . import layers
from .constants import store
from .scope import Scope, Wire, typed
from .weights import content

_DEPTH = 2


def _depth(scope: Scope) -> int:
    return 0 if scope.outer is None else 1 + _depth(scope.outer)


def _body(scope: Scope, x: Wire) -> Wire:
    """A few nodes that keep the shape; x may belong to the graph around."""
    y = x
    for _ in range(scope.draws.integer(1, 3)):
        y = scope.draws.weighted(_BODY_STEPS)(scope, y)
    return y


def _unary(scope: Scope, x: Wire) -> Wire:
    return scope.one(scope.draws.pick(["Relu", "Tanh", "Neg", "Abs", "Identity"]), [x])


def _constant(scope: Scope, x: Wire) -> Wire:
    shape = (x.shape[-1],) if x.rank and isinstance(x.shape[-1], int) else ()
    w = scope.weight(shape, x.dtype, "vector")
    return scope.one("Add", scope.draws.pick([[x, w], [w, x]]), x.shape, peak=x.peak + w.peak)


def _layer(scope: Scope, x: Wire) -> Wire:
    size = scope.sized(x, -1)
    if x.rank < 2 or size is None:
        return _unary(scope, x)
    return replace(layers.project(scope, scope.tame(x), size, plain=True), shape=x.shape)


def _captured(scope: Scope, x: Wire) -> Wire:
    """Something from the graph around, of the same shape."""
    other = scope.find(lambda w: (w.dtype, w.shape) == (x.dtype, x.shape) and w.peak < 1e3)
    if other is None:
        return _unary(scope, x)
    return scope.one("Mul", [scope.tame(x), scope.tame(other)], x.shape, peak=x.peak * 4)


def _folded(scope: Scope, x: Wire) -> Wire:
    """Constants computed inside."""
    two = scope.one("Mul", [scope.constant(2), scope.constant(1)], (), exact=True)
    scope.wires.remove(two)
    real = scope.one(
        "Cast", [two], dtype=x.dtype, to=helper.np_dtype_to_tensor_dtype(np.dtype(x.dtype))
    )
    scope.wires.remove(real)
    return scope.one("Mul", [x, real], x.shape, peak=2 * x.peak)


def _nested(scope: Scope, x: Wire) -> Wire:
    return _branch(scope, x) if _depth(scope) < _DEPTH else _unary(scope, x)


_BodyStep = Callable[[Scope, Wire], Wire]
_BODY_STEPS: list[tuple[int, _BodyStep]] = [
    (3, _unary), (3, _constant), (3, _layer), (2, _captured), (1, _folded), (1, _nested)
]  # fmt: skip


def _input(scope: Scope) -> Wire | None:
    return scope.activation(
        lambda w: (
            w.dtype in ("float32", "float64") and w.rank > 0 and w.peak <= 1e3 and scope.filled(w)
        )
    )


def branch(scope: Scope) -> None:
    """If: captures, constants and layers inside; a branch that returns an outer value or its own
    initializer."""
    x = _input(scope)
    if x is not None:
        _branch(scope, x)


def _branch(scope: Scope, x: Wire) -> Wire:
    condition = scope.find(lambda w: w.dtype == "bool" and w.shape == () and w.exact)
    if condition is None or scope.draws.chance(30):
        condition = scope.constant(scope.draws.chance(50), "bool")
    graphs: list[onnx.GraphProto] = []
    arms = [partial(_add_arm, graphs, scope, x, label) for label in ("then", "else")]
    scope.world.names.siblings(arms)
    made = Wire("", x.dtype, x.shape, False, x.peak * 8)
    return scope.emit("If", [condition], [made], then_branch=graphs[0], else_branch=graphs[1])[0]


def _add_arm(graphs: list[onnx.GraphProto], scope: Scope, x: Wire, label: str) -> None:
    graphs.append(_arm(scope, x, label))


def _arm(outer: Scope, x: Wire, label: str) -> onnx.GraphProto:
    scope = Scope(outer.world, outer)
    way = scope.draws.integer(0, 9)
    numbers = all(isinstance(d, int) for d in x.shape)
    if way == 8 and numbers and not scope.bare:
        shape = tuple(d for d in x.shape if isinstance(d, int))
        y = store(scope, content(scope.draws, shape, x.dtype), "held")
    elif way in (7, 9):
        y = scope.one("Identity", [x])  # the runtime takes no outer value as it is
    else:
        y = _body(scope, x)
    return _graph(scope, label, [], [y])


def _graph(
    scope: Scope, label: str, inputs: Sequence[Wire], outputs: Sequence[Wire]
) -> onnx.GraphProto:
    own = {n for node in scope.nodes for n in node.output} | {t.name for t in scope.initializers}
    own |= {w.name for w in inputs} | {t.values.name for t in scope.sparse}
    kept = [w if w.name in own else scope.one("Identity", [w]) for w in outputs]
    return helper.make_graph(
        scope.nodes, label, [typed(w) for w in inputs], [typed(w) for w in kept], scope.initializers
    )


def loop(scope: Scope) -> None:
    """A carried value and one that is stacked; trip count or condition left out."""
    x = _input(scope)
    if x is None:
        return
    body, draws = Scope(scope.world, scope), scope.draws
    number = Wire(scope.world.names.value("i"), "int64", ())
    going = Wire(scope.world.names.value("going"), "bool", ())
    state = replace(x, name=scope.world.names.value("state"), exact=False, constant=False)
    body.wires += [state]
    y = _body(body, body.one("Tanh", [state], peak=1.0))
    more = body.one("Identity", [going])
    extra = [body.one("Neg", [y])] if draws.chance(40) else []
    graph = _graph(body, "body", [number, going, state], [more, y, *extra])
    trips = draws.integer(1, 3)
    always = scope.constant(True, "bool") if draws.chance(50) else None
    made = replace(x, name="", exact=False, constant=False, peak=x.peak + 64)
    stacked = [replace(made, shape=(trips, *made.shape)) for _ in extra]
    scope.emit("Loop", [scope.constant(trips), always, x], [made, *stacked], body=graph)


def scan(scope: Scope) -> None:
    """Over the first axis, with a running state where its shape is known."""
    if scope.opset < 9:
        return
    x = scope.activation(
        lambda w: w.dtype == "float32" and w.rank > 1 and w.peak <= 64 and scope.filled(w)
    )
    if x is None:
        return
    _scan(scope, x)


def _scan(scope: Scope, x: Wire) -> None:
    body = Scope(scope.world, scope)
    row = Wire(scope.world.names.value("row"), x.dtype, x.shape[1:], False, x.peak)
    body.wires.append(row)
    known = tuple(d for d in x.shape[1:] if isinstance(d, int))
    states, inputs, outputs = [], [row], []
    if len(known) == x.rank - 1:
        states = [scope.constant(content(scope.draws, known, x.dtype), x.dtype)]
        state = replace(row, name=scope.world.names.value("state"))
        inputs = [state, row]
        outputs = [body.one("Add", [body.one("Tanh", [state], peak=1.0), row])]
    y = _body(body, row)
    graph = _graph(body, "scan", inputs, [*outputs, y])
    made = [replace(w, name="", constant=False, exact=False, peak=500.0) for w in states]
    stacked = replace(x, name="", exact=False, constant=False, peak=x.peak * 8)
    scope.emit("Scan", [*states, x], [*made, stacked], body=graph, num_scan_inputs=1)


def call(scope: Scope) -> None:
    """A local function: a layer, an activation with an attribute, or one that calls both."""
    x = scope.activation(lambda w: w.dtype == "float32" and w.rank > 1 and bool(scope.sized(w, -1)))
    if x is None or scope.opset < 13 or scope.world.ir_version < 8:
        return
    _define(scope)
    x, size = scope.tame(x), scope.sized(x, -1) or 1
    scope.world.domains["local"] = 1
    if scope.draws.chance(40):
        scope.one("Act", [x], domain="local", alpha=0.2 if scope.draws.chance(50) else 0.3)
        return
    columns = layers.width(scope)
    w = scope.weight((size, columns), x.dtype, "matrix")
    bias = scope.weight((columns,), x.dtype, "vector")
    name = scope.draws.pick(["Linear", "Mlp"])
    scope.one(name, [x, w, bias], (*x.shape[:-1], columns), exact=False, domain="local",
              peak=3 * x.peak * max(w.peak, 0.1) + bias.peak)  # fmt: skip


def _define(scope: Scope) -> None:
    if scope.world.functions:
        return
    imports = [helper.make_opsetid("", scope.opset), helper.make_opsetid("local", 1)]
    act = helper.make_node("LeakyRelu", ["x"], ["y"])
    act.attribute.add(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT)
    linear = [
        helper.make_node("MatMul", ["x", "w"], ["t"]),
        helper.make_node("Add", ["t", "b"], ["y"]),
    ]
    mlp = [
        helper.make_node("Linear", ["x", "w", "b"], ["t"], domain="local"),
        helper.make_node("Act", ["t"], ["y"], domain="local", alpha=0.1),
    ]
    scope.world.functions += [
        helper.make_function("local", "Act", ["x"], ["y"], [act], imports, ["alpha"]),
        helper.make_function("local", "Linear", ["x", "w", "b"], ["y"], linear, imports),
        helper.make_function("local", "Mlp", ["x", "w", "b"], ["y"], mlp, imports),
    ]


def sequence(scope: Scope) -> None:
    """Values put into a sequence and taken out again."""
    x = scope.activation(lambda w: w.dtype == "float32")
    if x is None or scope.opset < 11:
        return
    other = scope.find(lambda w: (w.dtype, w.shape) == (x.dtype, x.shape)) or x
    held = scope.emit("SequenceConstruct", [x, other], [replace(x, name="", dtype="sequence")])[0]
    scope.wires.remove(held)
    place = scope.constant(scope.draws.pick([0, 1, -1]))
    scope.one("SequenceAt", [held, place], x.shape, "float32", peak=max(x.peak, other.peak),
              exact=x.exact and other.exact)  # fmt: skip
