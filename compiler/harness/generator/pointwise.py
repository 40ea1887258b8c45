"""Operators that work on each element, or along one axis."""

from __future__ import annotations

from typing import Any

from onnx import TensorProto

from .scope import CLEAR, Scope, Wire

_ANY = ("float32", "float16", "float64")
_TWO = ("float32", "float16")
_UNARY: tuple[tuple[str, int, tuple[str, ...], dict[str, Any], float | None], ...] = (
    ("Relu", 7, _ANY, {}, None),
    ("Tanh", 7, _ANY, {}, 1.0),
    ("Sigmoid", 7, _ANY, {}, 1.0),
    ("Abs", 7, _ANY, {}, None),
    ("Neg", 7, _ANY, {}, None),
    ("LeakyRelu", 7, _TWO, {"alpha": 0.1}, None),
    ("Elu", 7, _TWO, {"alpha": 0.7}, None),
    ("Selu", 7, _TWO, {}, None),
    ("Softplus", 7, _TWO, {}, None),
    ("Softsign", 7, _TWO, {}, 1.0),
    ("HardSigmoid", 7, _TWO, {"beta": 0.4}, 1.0),
    ("Sin", 7, _ANY, {}, 1.0),
    ("Erf", 9, _TWO, {}, 1.0),
    ("HardSwish", 14, _TWO, {}, None),
    ("Mish", 18, _TWO, {}, None),
    ("Gelu", 20, _TWO, {}, None),
)
"""Operator, first opset, dtypes, attributes that may be given, bound of the result."""
_STEPS_OF_ROUNDING = (("Floor", 7), ("Ceil", 7), ("Round", 11), ("Sign", 9))


def unary(scope: Scope) -> None:
    """A function of each element."""
    wire = scope.activation()
    if wire is None:
        return
    known = [u for u in _UNARY if u[1] <= scope.opset and wire.dtype in u[2]]
    op_type, _, _, attributes, peak = scope.draws.pick(known)
    given = attributes if scope.draws.chance(60) else {}
    scope.one(op_type, [scope.tame(wire)], peak=peak, **given)


def clip(scope: Scope) -> None:
    """Bounds as attributes up to opset 10, then as inputs that may be left out."""
    wire = scope.activation(lambda w: w.dtype == "float32")
    if wire is None:
        return
    low, high = scope.draws.pick([(0.0, 6.0), (None, 1.0), (-1.0, None), (None, None)])
    if scope.opset < 11:
        scope.one("Clip", [wire], min=low, max=high)
        return
    bounds = [None if b is None else scope.constant(b, wire.dtype) for b in (low, high)]
    scope.one("Clip", [wire, *bounds], wire.shape)


def binary(scope: Scope) -> None:
    """Two values of one shape (a residual, say), or one and a constant that is broadcast."""
    wire = scope.activation(lambda w: w.peak <= 1e3)
    if wire is None:
        return
    other = scope.find(lambda w: (w.dtype, w.shape) == (wire.dtype, wire.shape) and w.peak <= 1e3)
    if other is None or scope.draws.chance(50):
        other = _broadcast(scope, wire)
    pair = [wire, other] if scope.draws.chance(60) else [other, wire]
    arithmetic(scope, pair, wire)


def arithmetic(scope: Scope, pair: list[Wire], like: Wire) -> None:
    """One of the four operators, a maximum or a sum of many."""
    a, b = (max(w.peak, 1e-3) for w in pair)
    options: list[tuple[int, tuple[str, float]]] = [
        (8, ("Add", a + b)),
        (3, ("Sub", a + b)),
        (5, ("Mul", a * b)),
        (2, ("Sum" if scope.opset >= 8 and like.dtype != "float16" else "Add", a + b)),
        (1, ("Max" if scope.opset >= 12 else "Add", a + b)),
    ]
    op_type, peak = scope.draws.weighted(options)
    scope.one(op_type, list(pair), like.shape, peak=peak)


def _broadcast(scope: Scope, wire: Wire) -> Wire:
    """A constant along the last axis, along none, or of rank 0."""
    last = wire.shape[-1]
    shapes: list[tuple[int, ...]] = [(), (1,), (1,) * wire.rank]
    if isinstance(last, int):
        shapes += [(last,), (last,), (1,) * (wire.rank - 1) + (last,)]
    shape = scope.draws.pick(shapes[::-1])
    return scope.weight(shape, wire.dtype, scope.draws.pick(["vector", "factor"]))


def divide(scope: Scope) -> None:
    """By something that is not zero: a constant, or 1 + |x|."""
    wire = scope.activation(lambda w: w.peak <= 1e3)
    if wire is None:
        return
    if scope.draws.chance(60):
        scope.one("Div", [wire, scope.constant(scope.draws.pick([8.0, 3.0, 0.5]), wire.dtype)])
        return
    size = scope.one("Abs", [wire])
    shifted = scope.one("Add", [size, scope.constant(1.0, wire.dtype)], peak=wire.peak + 1)
    scope.one("Div", [wire, shifted], peak=1.0)


def power(scope: Scope) -> None:
    """x ** 2, and its root."""
    wire = scope.activation(lambda w: w.peak <= 64 and w.dtype != "float64")
    if wire is None:
        return
    square = scope.one("Pow", [wire, scope.constant(2.0, wire.dtype)], peak=wire.peak**2)
    if scope.draws.chance(50):
        shifted = scope.one("Add", [scope.constant(0.1, wire.dtype), square], square.shape)
        scope.one("Sqrt", [shifted], peak=wire.peak + 1)


def prelu(scope: Scope) -> None:
    """A slope for each channel."""
    wire = scope.activation(lambda w: w.dtype == "float32" and isinstance(w.shape[-1], int))
    if wire is not None and isinstance(wire.shape[-1], int):
        scope.one("PRelu", [wire, scope.weight((wire.shape[-1],), wire.dtype, "vector")])


def softmax(scope: Scope) -> None:
    """Along the last axis; before opset 13 the operator flattened what lies behind."""
    wire = scope.activation(scope.filled)
    if wire is None:
        return
    axis = wire.rank - 1 if scope.opset < 11 or scope.draws.chance(30) else -1
    op_type = scope.draws.pick(["Softmax", "Softmax", "LogSoftmax"])
    peak = 1.0 if op_type == "Softmax" else 2 * scope.tame(wire).peak + 8
    given = axis if scope.opset < 13 or scope.draws.chance(60) else None
    scope.one(op_type, [scope.tame(wire)], peak=peak, axis=given)


def reduce(scope: Scope) -> None:
    """Axes as an attribute or as an input, whichever the opset asks for; or left out."""
    wire = scope.activation(lambda w: w.rank > 1 and scope.filled(w))
    if wire is None:
        return
    op_type = scope.draws.pick(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2"])
    keep = scope.draws.integer(0, 1)
    axes = scope.draws.pick([[wire.rank - 1], [1], [0, wire.rank - 1], None])
    gone = set(axes or range(wire.rank))
    kept = [1 if i in gone else d for i, d in enumerate(wire.shape)]
    shape = tuple(d for i, d in enumerate(kept) if keep or i not in gone)
    peak = wire.peak * (64 if op_type in ("ReduceSum", "ReduceL2") else 1)
    as_input = scope.opset >= (13 if op_type == "ReduceSum" else 18)
    inputs = [wire, scope.ints(axes)] if as_input and axes is not None else [wire]
    written = axes if not as_input else None
    scope.one(op_type, inputs, shape, peak=peak, exact=False, axes=written, keepdims=keep)


def integers(scope: Scope) -> None:
    """Arithmetic on integers, wrapped round nowhere."""
    wire = scope.find(lambda w: w.dtype in ("int64", "int32") and w.peak < 1e3)
    if wire is None:
        return
    other = scope.constant(scope.draws.integer(-3, 5), wire.dtype)
    op_type = scope.draws.pick(["Add", "Sub", "Mul"])
    inputs = [wire, other] if scope.draws.chance(60) else [other, wire]
    scope.one(op_type, inputs, wire.shape, peak=wire.peak * 8 + 8)


def choose(scope: Scope) -> None:
    """Where, its condition from values that no rewrite changes."""
    if scope.opset < 9:
        return
    wire = scope.activation(lambda w: w.exact)
    if wire is None:
        return
    other = scope.find(lambda w: (w.dtype, w.shape) == (wire.dtype, wire.shape)) or wire
    bound = scope.constant(0.25, wire.dtype)
    condition = scope.one(scope.draws.pick(["Greater", "Less"]), [wire, bound], dtype="bool")
    if scope.draws.chance(30):
        condition = scope.one("Not", [condition])
    filler = scope.constant(scope.draws.pick([0.0, -1.0]), wire.dtype)
    scope.one("Where", scope.draws.pick([[condition, wire, filler], [condition, other, wire]]),
              wire.shape, wire.dtype, peak=max(wire.peak, other.peak, 1.0))  # fmt: skip


def rounding(scope: Scope) -> None:
    """Functions with steps, and positions, of values that no rewrite changes."""
    wire = scope.activation(lambda w: w.exact and w.dtype == "float32" and scope.filled(w))
    if wire is None:
        return
    if scope.draws.chance(30):
        known = [name for name, since in _STEPS_OF_ROUNDING if since <= scope.opset]
        scope.one(scope.draws.pick(known), [wire], peak=wire.peak + 1)
    elif scope.draws.chance(30) or scope.opset < 11:
        shape = wire.shape[:-1]
        scope.one("ArgMax", [wire], shape, "int64", axis=wire.rank - 1, keepdims=0)
    else:
        top = scope.ints([1])
        value = Wire("", wire.dtype, (*wire.shape[:-1], 1), True, wire.peak)
        place = Wire("", "int64", value.shape)
        scope.emit("TopK", [wire, top], [value, place])


def cast(scope: Scope) -> None:
    """Between floats; to integers and flags only of values that no rewrite changes."""
    wire = scope.activation(lambda w: w.peak <= 1e4)
    if wire is None:
        return
    kinds = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT,
             "float64": TensorProto.DOUBLE}  # fmt: skip
    if wire.exact and wire.peak < 100:
        kinds |= {"int64": TensorProto.INT64, "int32": TensorProto.INT32, "bool": TensorProto.BOOL}
    target = scope.draws.pick(list(kinds))
    made = scope.one("Cast", [wire], wire.shape, target, to=int(kinds[target]))
    if made.floating and scope.draws.chance(70):
        scope.one("Cast", [made], wire.shape, wire.dtype, to=int(kinds[wire.dtype]))


def nothing(scope: Scope) -> None:
    """Identity and Dropout, alone or in a row; a mask that nobody reads, a ratio left out."""
    wire = scope.find(lambda w: w.rank >= 0)
    if wire is None:
        return
    for _ in range(scope.draws.integer(1, 3)):
        if not wire.floating or scope.draws.chance(50):
            wire = scope.one("Identity", [wire], peak=wire.peak, limit=wire.limit)
        else:
            wire = _dropout(scope, wire)


def _dropout(scope: Scope, wire: Wire) -> Wire:
    result = Wire("", wire.dtype, wire.shape, wire.exact, wire.peak)
    mask = Wire("", "bool" if scope.opset >= 10 else wire.dtype, wire.shape, True, 1.0)
    with_mask = scope.opset >= 10 and wire.peak <= CLEAR and scope.draws.chance(30)
    inputs: list[Wire | None] = [wire]
    ratio = None
    if scope.opset < 12:
        ratio = 0.5 if scope.draws.chance(50) else None
    elif scope.draws.chance(60):
        inputs.append(scope.constant(0.5, "float32") if scope.draws.chance(50) else None)
        inputs.append(scope.constant(False, "bool"))
    return scope.emit("Dropout", inputs, [result, mask] if with_mask else [result], ratio=ratio)[0]


def again(scope: Scope) -> None:
    """The same computation once more."""
    plain = [n for n in scope.nodes if n.op_type in _REPEATED and len(n.output) == 1]
    if not plain:
        return
    node = scope.draws.pick(plain[-6:])
    made = next((w for w in scope.wires if w.name == node.output[0]), None)
    if made is None:
        return
    twin = type(node)()
    twin.CopyFrom(node)
    wire = Wire(scope.world.names.value("again"), made.dtype, made.shape, made.exact, made.peak)
    twin.output[0] = wire.name
    twin.name = scope.world.names.node(node.op_type)
    scope.nodes.append(twin)
    scope.wires.append(wire)


_REPEATED = frozenset(
    "Add Mul MatMul Gemm Relu Tanh Transpose Reshape Identity Conv Sigmoid".split()
)
