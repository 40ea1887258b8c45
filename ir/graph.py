"""Small questions about an ``onnx_ir`` graph that every layer asks. Nothing here mutates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy.typing as npt
import onnx_ir as ir

from .storage.stream import array_of

Array: TypeAlias = npt.NDArray[Any]


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """The Python value of an attribute, ``default`` where it is absent or a reference.

    A string comes as str, lists as tuples, a tensor as ``ir.TensorProtocol``.
    """
    found = node.attributes.get(name)
    if found is None or found.is_ref() or found.value is None:
        return default
    return tuple(found.value) if isinstance(found.value, (list, tuple)) else found.value


def operator(node: ir.Node) -> tuple[str, str]:
    """Domain and operator, the default domain always written as ``""``."""
    return ("" if node.domain == "ai.onnx" else node.domain), node.op_type


def given(node: ir.Node, index: int | None) -> ir.Value | None:
    """The input at a position, None where the node does not have it."""
    return None if index is None or index >= len(node.inputs) else node.inputs[index]


def is_constant(value: ir.Value | None) -> bool:
    """Whether the value is known before any feed: an initializer or a Constant's output.

    An initializer that is also a graph input can be overridden by a feed and is not constant.
    """
    return constant_tensor(value) is not None


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of a constant value without reading its bytes; None otherwise."""
    if value is None or value.is_graph_input():
        return None
    if value.is_initializer():
        return value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    if not node.attributes or "sparse_value" in node.attributes:
        return None
    return ir.convenience.get_const_tensor(value)


def constant_array(value: ir.Value | None) -> Array | None:
    """The content of a constant value, None otherwise. Read-only by contract: never write.

    What lies in a file is read anew each time: a mapping would stay, and count as memory.
    """
    tensor = constant_tensor(value)
    return None if tensor is None else array_of(tensor)


def scalar(value: ir.Value | None) -> float | None:
    """The number in a constant with exactly one element, of any rank ([], [1], [1, 1]…)."""
    tensor = constant_tensor(value)
    if tensor is None or tensor.size != 1 or tensor.dtype == ir.DataType.STRING:
        return None
    return float(array_of(tensor).reshape(-1)[0])


def producer(value: ir.Value | None, op_type: str | None = None) -> ir.Node | None:
    """The node that computes the value; None when there is none or it is of another type."""
    node = None if value is None else value.producer()
    if node is None or op_type is None or node.op_type == op_type:
        return node
    return None


def consumers(value: ir.Value) -> list[ir.Node]:
    """Nodes that read the value, each once, in the order in which the uses were made.

    After loading that is graph order. Nodes inside subgraphs that capture the value count.
    """
    return list(dict.fromkeys(usage.node for usage in value.uses()))


def single_consumer(value: ir.Value) -> ir.Node | None:
    """The only node that reads the value, None when there are others or it is an output."""
    nodes = consumers(value)
    return nodes[0] if len(nodes) == 1 and not value.is_graph_output() else None


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs among a node's attributes, in attribute order."""
    for attr in node.attributes.data.values():
        if attr.type == ir.AttributeType.GRAPH and not attr.is_ref():
            yield attr.as_graph()
        elif attr.type == ir.AttributeType.GRAPHS and not attr.is_ref():
            yield from attr.as_graphs()


def all_graphs(model: ir.Model | ir.Graph) -> Iterator[ir.Graph]:
    """The main graph and every graph nested in it, outermost first."""
    pending = [model.graph if isinstance(model, ir.Model) else model]
    while pending:
        graph = pending.pop()
        yield graph
        # Asked for often, of large graphs: most nodes have no attributes, and none holds a graph.
        holders = [node for node in graph if node.attributes.data]
        pending.extend(reversed([inner for node in holders for inner in subgraphs(node)]))


def all_nodes(model: ir.Model | ir.Graph) -> Iterator[ir.Node]:
    """Every node of the main graph and of the graphs nested in it (functions excluded)."""
    return (node for graph in all_graphs(model) for node in graph)


def captured_values(node: ir.Node) -> list[ir.Value]:
    """Outer values that the subgraphs of the node use, each once, in order of first use."""
    inner = [graph for held in subgraphs(node) for graph in all_graphs(held)]
    if not inner:
        return []
    own = {v for graph in inner for v in (*graph.inputs, *graph.initializers.values())}
    own.update(v for graph in inner for n in graph for v in n.outputs)
    used = [v for graph in inner for n in graph for v in n.inputs if v is not None]
    used += [v for graph in inner for v in graph.outputs]
    return [v for v in dict.fromkeys(used) if v not in own]


def opset(model: ir.Model | ir.Graph) -> int:
    """The version of the default ONNX domain that the model imports; 1 when it imports none."""
    graph = model.graph if isinstance(model, ir.Model) else model
    imports = graph.opset_imports
    return imports.get("", imports.get("ai.onnx", 1))


def rank(value: ir.Value | None) -> int | None:
    """Number of axes, None when unknown."""
    shape = dims(value)
    return None if shape is None else len(shape)


def dims(value: ir.Value | None) -> tuple[int | str | None, ...] | None:
    """The shape with symbolic axes as names and unknown ones as None; None when unknown.

    A constant's shape comes from its tensor, which stays right where the value's is stale.
    """
    tensor = constant_tensor(value)
    shape = tensor.shape if tensor is not None else None if value is None else value.shape
    if shape is None:
        return None
    return tuple(d if isinstance(d, int) else getattr(d, "value", None) for d in shape)
