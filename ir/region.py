"""Cut a region out of a graph as a model of its own, to run it on its own inputs."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from .errors import PassError
from .graph import captured_values
from .storage.stream import is_packed


def region_nodes(inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> list[ir.Node]:
    """The nodes between ``inputs`` and ``outputs``, each behind those that it reads.

    Only the region is walked over, not the graph. Raises PassError where an output depends on a
    graph input that is not among ``inputs``.
    """
    stop, order = set(inputs), dict[ir.Node, None]()
    todo = [(o.producer(), o) for o in reversed(outputs) if o not in stop]
    while todo:
        node, value = todo[-1]
        if node is None:
            _check_inside(value)
            todo.pop()
            continue
        reads = [] if node in order else _reads(node, stop)
        for read in (v for v in reads if v.producer() is None):
            _check_inside(read)
        missing = [(made, v) for v in reads if (made := v.producer()) and made not in order]
        if missing:
            todo.extend(reversed(missing))
        else:
            todo.pop()
            order[node] = None
    return list(order)


def _check_inside(value: ir.Value) -> None:
    if value.is_graph_input() and not value.is_initializer():
        raise PassError(f"the region also reads the graph input {value.name!r}")


def _reads(node: ir.Node, stop: Container[ir.Value]) -> list[ir.Value]:
    """What the node and its subgraphs read from the region, in order."""
    read = [v for v in node.inputs if v is not None] + captured_values(node)
    return [v for v in read if v not in stop]


def extract(
    model: ir.Model,
    inputs: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    *,
    tensors: Mapping[str, np.ndarray] | None = None,
) -> ir.Model:
    """The region between ``inputs`` and ``outputs`` as a standalone model.

    Tensors are shared, not copied; ``tensors`` replaces initializers by name. Inputs keep
    name and dtype; their shapes keep the rank only (a region runs on any size).
    Raises PassError where the region is not closed.
    """
    mapping: dict[ir.Value, ir.Value] = {v: _input(v) for v in inputs}
    given = dict(tensors or {})
    initializers: list[ir.Value] = []

    def value(old: ir.Value) -> ir.Value:
        if old in mapping:
            return mapping[old]
        if old.const_value is None:
            raise PassError(f"the region reads {old.name!r} from outside")
        data = given.get(str(old.name))
        tensor = old.const_value if data is None else ir.tensor(data)
        new = ir.Value(
            name=old.name,
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        mapping[old] = new
        initializers.append(new)
        return new

    nodes = [_copy(node, value, mapping) for node in region_nodes(inputs, outputs)]
    graph = ir.Graph(
        [mapping[v] for v in inputs],
        [value(v) for v in outputs],
        nodes=nodes,
        initializers=initializers,
        opset_imports=dict(model.opset_imports),
        name="region",
    )
    return ir.Model(graph, ir_version=model.ir_version)


def _input(value: ir.Value) -> ir.Value:
    rank = None if value.shape is None else len(value.shape)
    shape = None if rank is None else ir.Shape([None] * rank)
    return ir.Value(name=value.name, type=value.type, shape=shape)


def _copy(
    node: ir.Node, value: Callable[[ir.Value], ir.Value], mapping: dict[ir.Value, ir.Value]
) -> ir.Node:
    outputs = [ir.Value(name=o.name, type=o.type) for o in node.outputs]
    mapping.update(zip(node.outputs, outputs, strict=True))
    if any(_is_graph(a) for a in node.attributes.values()):
        raise PassError("the region holds a node with a subgraph", where=str(node.name))
    return ir.Node(
        node.domain,
        node.op_type,
        [None if v is None else value(v) for v in node.inputs],
        list(node.attributes.values()),
        outputs=outputs,
        name=node.name,
        overload=node.overload,
    )


def _is_graph(attribute: ir.Attr) -> bool:
    return attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def lift_weights(region: ir.Model, above: int) -> dict[str, ir.TensorProtocol]:
    """Make inputs of the initializers of more than ``above`` bytes, in place; tensors by name.

    A runtime keeps copies of constants, and none of what it is fed.
    """
    lifted: dict[str, ir.TensorProtocol] = {}
    for name, value in list(region.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= above or is_packed(tensor.dtype):
            continue
        lifted[name] = tensor
        region.graph.initializers.pop(name)
        value.const_value = None
        if value not in region.graph.inputs:
            region.graph.inputs.append(value)
    return lifted


def with_outputs(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """A copy of the model (tensors shared) whose outputs are just the named values."""
    copy = model.clone()
    wanted = list(dict.fromkeys(names))
    values = {str(v.name): v for node in copy.graph for v in node.outputs}
    values.update({str(v.name): v for v in copy.graph.inputs})
    missing = [n for n in wanted if n not in values]
    if missing:
        raise PassError(f"no value named {missing[0]!r} in the graph")
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(values[n] for n in wanted)
    return copy
