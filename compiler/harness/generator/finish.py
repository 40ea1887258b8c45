"""From a scope to a model: outputs, declared shapes, inputs, feeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ..case import Case
from .draws import Draws
from .scope import Scope, Wire, typed
from .weights import FLOATS, Array

_UNSEEN = frozenset({"sequence"})


def outputs(scope: Scope, inputs: Sequence[Wire]) -> list[Wire]:
    """What callers get: what nobody reads, some of what is read, an input, a stored weight."""
    draws = scope.draws
    read = {name for node in scope.nodes for name in _reads(node)}
    computed = [w for w in scope.wires if w not in inputs and w.dtype not in _UNSEEN]
    leaves = [w for w in computed if w.name not in read]
    chosen = [w for w in leaves if draws.chance(75)] or leaves[-1:]
    chosen += [w for w in computed[-8:] if w not in chosen and draws.chance(8)]
    stored = [t.name for t in scope.initializers]
    held = [w for w in scope.weights if w.name in stored]
    if held and scope.world.ir_version >= 4 and draws.chance(8):
        chosen.append(draws.pick(held))
    if draws.chance(5):
        chosen.append(draws.pick(inputs))
    if chosen and draws.chance(15):
        chosen.append(scope.one("Identity", [draws.pick(chosen)]))
    if not chosen:
        chosen = [scope.one("Identity", [inputs[0]])]
    return list(dict.fromkeys(chosen))


def _reads(node: onnx.NodeProto) -> list[str]:
    names = list(node.input)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            names += _reads(inner)
        names += [o.name for o in attribute.g.output]
    return names


def model(scope: Scope, inputs: Sequence[Wire], results: Sequence[Wire]) -> onnx.ModelProto:
    """The whole, its signature declared as exactly or as vaguely as exporters do."""
    world, draws = scope.world, scope.draws
    hidden = {n: draws.chance(15) for n in world.sizes}
    declared = [typed(w, nameless=hidden) for w in inputs]
    given = [typed(w, nameless=hidden) for w in results]
    if draws.chance(1):  # which the runtime takes and the checker does not
        for info in given:
            info.type.tensor_type.ClearField("shape")
    graph = helper.make_graph(
        scope.nodes,
        draws.pick(["main", "main_graph", "g"]),
        declared,
        given,
        scope.initializers,
        sparse_initializer=scope.sparse,
    )
    _list_weights(scope, graph)
    if draws.chance(40):
        known = {w.name for w in (*inputs, *results)}
        graph.value_info.extend(typed(w) for w in scope.wires if w.name not in known)
    if draws.chance(15):
        draws.noise().shuffle(order := list(range(len(graph.initializer))))
        tensors = [graph.initializer[i] for i in order]
        del graph.initializer[:]
        graph.initializer.extend(tensors)
    imports = {draws.pick(["", "", "ai.onnx"]): scope.opset, **world.domains}
    return helper.make_model(
        graph,
        ir_version=world.ir_version,
        opset_imports=[helper.make_opsetid(d, v) for d, v in imports.items()],
        functions=world.functions,
        producer_name="generator",
    )


def _list_weights(scope: Scope, graph: onnx.GraphProto) -> None:
    """Initializers among the inputs: all of them in IR 3, which asks for it, some now and then."""
    all_of_them = scope.world.ir_version < 4
    if not all_of_them and not scope.draws.chance(8):
        return
    outputs = {o.name for o in graph.output}
    listed = [t for t in graph.initializer if all_of_them or scope.draws.chance(40)]
    scales = {
        name for node in graph.node if "quantize" in node.op_type.lower() for name in node.input
    }
    for tensor in listed:  # a scale that becomes constant makes the runtime choose other kernels
        if all_of_them or not (tensor.name in outputs | scales or not tensor.dims):
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            graph.input.append(info)


def feed(draws: Draws, scope: Scope, inputs: Sequence[Wire], index: int) -> dict[str, Any]:
    """Arrays for one call: sizes differ between calls, and values are odd now and then."""
    return {w.name: _array(draws, w, _shape(scope, w, index)) for w in inputs}


def _shape(scope: Scope, wire: Wire, index: int) -> tuple[int, ...]:
    return tuple(d if isinstance(d, int) else scope.world.sizes[d][index] for d in wire.shape)


def _array(draws: Draws, wire: Wire, shape: tuple[int, ...]) -> Array:
    noise = draws.noise()
    if wire.dtype in FLOATS:
        array = noise.standard_normal(shape)
        kind = draws.integer(0, 19)
        if kind == 19:
            array *= 0.0
        elif kind == 18:
            array = np.where(noise.random(shape) < 0.3, -0.0, array)
        return np.asarray(array, wire.dtype)
    if wire.limit == 2:
        mask = noise.integers(0, 2, shape)
        if mask.ndim and mask.shape[-1]:
            mask[..., 0] = 1  # a mask leaves something over
        return np.asarray(mask, wire.dtype)
    return np.asarray(noise.integers(0, wire.limit or 2, shape), wire.dtype)


def case(name: str, scope: Scope, inputs: Sequence[Wire], count: int) -> Case:
    """Outputs, model and feeds of a finished scope."""
    results = outputs(scope, inputs)
    made = model(scope, inputs, results)
    return Case(name, made, tuple(feed(scope.draws, scope, inputs, i) for i in range(count)))
