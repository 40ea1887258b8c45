"""Every way in which a model can hold a constant."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .scope import Scope, Wire, wire_of
from .weights import Array, extreme


def store(scope: Scope, array: Array, hint: str) -> Wire:
    """A stored constant: an initializer in raw or typed form, sparse, or the output of a node."""
    ways = [(8, _initializer), (3, _constant)] if not scope.bare else [(1, _constant)]
    if array.size > 1 and not scope.bare and _uniform(array):
        ways.append((6, _constant_of_shape))
    if array.dtype == np.float32 and array.ndim and array.size and np.mean(array == 0) > 0.4:
        ways.append((12, _sparse))
    if array.ndim < 2 and scope.opset >= 12 and array.dtype in (np.float32, np.int64):
        ways.append((2, _plain_constant))
    return scope.draws.weighted(ways)(scope, array, hint)


def _initializer(scope: Scope, array: Array, hint: str) -> Wire:
    name = scope.world.names.value(hint)
    if scope.draws.chance(25):
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = helper.make_tensor(name, kind, array.shape, array.reshape(-1).tolist())
    else:
        tensor = numpy_helper.from_array(array, name)
    scope.initializers.append(tensor)
    return wire_of(name, array)


def _constant(scope: Scope, array: Array, hint: str) -> Wire:
    return _node(scope, array, value=numpy_helper.from_array(array, scope.draws.pick(["", "v"])))


def _plain_constant(scope: Scope, array: Array, hint: str) -> Wire:
    kind = "float" if array.dtype == np.float32 else "int"
    if array.ndim == 0:
        return _node(scope, array, **{f"value_{kind}": array.item()})
    if array.size == 0:
        return _constant(scope, array, hint)
    return _node(scope, array, **{f"value_{kind}s": array.tolist()})


def _node(scope: Scope, array: Array, **attributes: Any) -> Wire:
    wire = wire_of("", array)
    made = scope.emit("Constant", [], [wire], **attributes)[0]
    scope.wires.remove(made)  # constants are asked for, not found by chance
    return made


def _constant_of_shape(scope: Scope, array: Array, hint: str) -> Wire:
    """Before opset 9 there was no such operator."""
    if scope.opset < 9:
        return _constant(scope, array, hint)
    same = array.reshape(-1)[:1]
    shape = _initializer(scope, np.asarray(array.shape, np.int64), "shape")
    value = None if same.tobytes() == bytes(4) and array.dtype == np.float32 else same
    tensor = None if value is None else numpy_helper.from_array(value)
    made = scope.emit("ConstantOfShape", [shape], [wire_of("", array)], value=tensor)[0]
    scope.wires.remove(made)
    return made


def _uniform(array: Array) -> bool:
    """Whether all elements are the same bits."""
    return array.tobytes() == array.reshape(-1)[:1].tobytes() * array.size


def _sparse(scope: Scope, array: Array, hint: str) -> Wire:
    """A sparse initializer or Constant, indices flat or one column an axis. -0.0 would be lost."""
    if np.any(np.signbit(array) & (array == 0)) or scope.opset < 11 or scope.world.ir_version < 6:
        return _constant(scope, array, hint)
    flat = scope.draws.chance(50) or array.ndim != 2
    where = np.flatnonzero(array)
    indices = where if flat else np.stack(np.unravel_index(where, array.shape), 1)
    lifted = scope.outer is None and not scope.bare and scope.draws.chance(60)
    name = scope.world.names.value(hint) if lifted else ""
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(array.reshape(-1)[where], name),
        numpy_helper.from_array(indices.astype(np.int64), f"{name}_at"),
        list(array.shape),
    )
    if not lifted:
        return _node(scope, array, sparse_value=sparse)
    scope.sparse.append(sparse)
    return wire_of(name, array)


def shared_weight(scope: Scope, shape: tuple[int, ...], dtype: str) -> Wire | None:
    """A weight that others use: as it is, or transposed as a head ties an embedding."""
    known = [*(scope.outer.weights if scope.outer else []), *scope.weights]
    alike = [w for w in known if w.dtype == dtype and w.shape == shape and w.peak < 50]
    if alike:
        return scope.draws.pick(alike)
    turned = [w for w in known if w.dtype == dtype and w.shape == shape[::-1] and len(shape) == 2]
    if not turned:
        return None
    return moved(scope, "Transpose", scope.draws.pick(turned), shape, perm=[1, 0])


def through_nodes(scope: Scope, array: Array, hint: str) -> Wire | None:
    """A weight behind nodes that move or convert it, exactly."""
    way = scope.draws.pick(["Identity", "Transpose", "Reshape", "Cast", "Unsqueeze"])
    if way == "Transpose" and array.ndim == 2:
        base = store(scope, np.ascontiguousarray(array.T), hint)
        return moved(scope, way, base, array.shape)
    if way == "Reshape" and array.size:
        base = store(scope, array.reshape(-1), hint)
        return moved(scope, way, base, array.shape, scope.ints(array.shape))
    if way == "Cast" and array.dtype == np.float32:
        base = store(scope, array.astype(np.float16).astype(np.float32), hint)
        half = moved(scope, way, base, array.shape, to=int(onnx.TensorProto.DOUBLE))
        return moved(scope, way, half, array.shape, to=int(onnx.TensorProto.FLOAT))
    if way == "Unsqueeze" and array.ndim and array.shape[0] == 1:
        base = store(scope, array[0], hint)
        if scope.opset < 13:
            return moved(scope, way, base, array.shape, axes=[0])
        return moved(scope, way, base, array.shape, scope.ints([0]))
    return moved(scope, "Identity", store(scope, array, hint), array.shape)


def moved(
    scope: Scope, op_type: str, wire: Wire, shape: tuple[int, ...], *more: Wire, **attributes: Any
) -> Wire:
    """A node over constants alone."""
    target = attributes.get("to")
    dtype = None if target is None else helper.tensor_dtype_to_np_dtype(target).name
    made = scope.one(op_type, [wire, *more], shape, dtype, **attributes)
    scope.wires.remove(made)
    return Wire(made.name, made.dtype, shape, True, wire.peak, None, True)


def wild(scope: Scope) -> None:
    """Constants with the largest numbers, denormals and both zeros, only to be moved."""
    wire = scope.find(lambda w: w.dtype in ("float32", "float64") and w.rank > 0)
    if wire is None:
        return
    width = scope.sized(wire, -1)
    if width is None:
        return
    value = store(scope, extreme(scope.draws, (width,), wire.dtype), "extreme")
    op_type = scope.draws.pick(["Max", "Min"]) if scope.opset >= 12 else "Mul"
    if op_type == "Mul":
        value = store(scope, np.full((width,), -0.0, wire.dtype), "zero")
    scope.one(op_type, [wire, value] if scope.draws.chance(50) else [value, wire], wire.shape)
