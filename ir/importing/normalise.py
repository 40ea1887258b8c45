"""One form for every model that comes in: unique names, constants as initializers, own origins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from ..graph import all_graphs, all_nodes
from ..provenance import EDIT_KEY, ORIGIN_KEY, SCOPE_KEY, Remark

KEPT_KEYS = frozenset((SCOPE_KEY,))
STRIPPED_PREFIXES = ("pkg.torch.", "pkg.onnxscript.", "pkg.onnx_ir.", "namespace")
"""Exporters' notes: stack traces with paths of somebody's machine, dumps of their own graphs."""


def rename_standard_domain(model: ir.Model) -> None:
    """Import the standard operators as ``""``; ``ai.onnx`` is another spelling of it."""
    owned = [f.opset_imports for f in model.functions.values()]
    for imports in (model.opset_imports, *owned):
        if "ai.onnx" in imports:
            version = imports.pop("ai.onnx")
            imports.setdefault("", version)


def lift_constants(model: ir.Model) -> None:
    """Make an initializer of each Constant, in the graph it stands in.

    A Constant that is itself an output of its graph stays. IR 3 wants every initializer among
    the inputs, so a model of that age becomes one of IR 4.
    """
    nodes = [(graph, node) for graph in all_graphs(model) for node in graph]
    constants = [(g, n) for g, n in nodes if n.op_type == "Constant" and n.domain == ""]
    for graph, node in constants:
        _lift(graph, node)
    if constants:
        model.ir_version = max(model.ir_version, 4)


def _lift(graph: ir.Graph, node: ir.Node) -> None:
    output = node.outputs[0]
    tensor = _constant(node)
    if tensor is None or not output.name or output.is_graph_output():
        return
    value = ir.Value(
        name=output.name,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
        metadata_props=dict(output.metadata_props),
    )
    output.replace_all_uses_with(value)
    graph.remove(node, safe=True)
    graph.register_initializer(value)


def _constant(node: ir.Node) -> ir.TensorProtocol | None:
    if len(node.attributes) != 1:
        return None
    name, attr = next(iter(node.attributes.items()))
    if attr.is_ref():
        return None
    if name == "value":
        return attr.as_tensor()
    if name in ("value_float", "value_floats"):
        return ir.Tensor(np.asarray(attr.value, np.float32))
    if name in ("value_int", "value_ints"):
        return ir.Tensor(np.asarray(attr.value, np.int64))
    if name == "value_string":
        return ir.StringTensor([attr.as_string().encode()], shape=ir.Shape([]))
    if name == "value_strings":
        items = [s.encode() for s in attr.as_strings()]
        return ir.StringTensor(items, shape=ir.Shape([len(items)]))
    return None


def drop_overridable(model: ir.Model) -> list[Remark]:
    """Take initializers out of the graph's inputs: they are weights, not defaults.

    IR 3 wrote every weight as an input; since IR 4 an initializer need not be one.
    """
    graph = model.graph
    names = [v.name or "" for v in graph.inputs if v.is_initializer()]
    if not names:
        return []
    kept = [v for v in graph.inputs if not v.is_initializer()]
    graph.inputs.clear()
    graph.inputs.extend(kept)
    model.ir_version = max(model.ir_version, 4)
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    sentence = (
        f"{len(names)} initializers were also graph inputs ({shown}); they are constants now, "
        "so callers can no longer override them (--keep-overridable keeps them)"
    )
    return [Remark("note", "import", names[0], "overridable-dropped", sentence)]


def unique_names(model: ir.Model) -> None:
    """Give every value and node of all nested graphs a name of its own; the signature keeps its.

    A value that nobody reads may stay unnamed: it is an optional output that was not asked for.
    The body of a function is a world of its own.
    """
    for graph in (model.graph, *(f.graph for f in model.functions.values())):
        _unique_value_names(graph)
        _unique_node_names(graph)


def _unique_value_names(graph: ir.Graph) -> None:
    fixed = [*graph.inputs, *graph.outputs]
    values = [v for g in all_graphs(graph) for v in _values(g)]
    taken = Counter(v.name for v in values if v.name)
    seen: set[str] = {v.name for v in fixed if v.name}
    untouchable = {id(v) for v in fixed}
    for value in values:
        if id(value) in untouchable or (not value.name and not _needs_name(value)):
            continue
        if not value.name or value.name in seen:
            value.name = _fresh(value.name or "value", taken)
        seen.add(value.name)


def _unique_node_names(graph: ir.Graph) -> None:
    nodes = list(all_nodes(graph))
    taken = Counter(n.name for n in nodes if n.name)
    seen: set[str] = set()
    for index, node in enumerate(nodes):
        if not node.name or node.name in seen:
            node.name = _fresh(node.name or f"{node.op_type}_{index}", taken)
        seen.add(node.name)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from [v for v in graph.initializers.values() if not v.is_graph_input()]
    for node in graph:
        yield from node.outputs


def _needs_name(value: ir.Value) -> bool:
    return value.producer() is None or value.is_graph_output() or bool(value.uses())


def _fresh(base: str, taken: Counter[str]) -> str:
    name, count = base, taken[base]
    while taken[name]:
        name = f"{base}_{count}"
        count += 1
    taken[base] = max(taken[base], count)
    taken[name] += 1
    return name


def strip_metadata(model: ir.Model) -> None:
    """Remove exporters' notes from the model, its graphs, nodes and values; module paths stay."""
    _strip(model.metadata_props)
    bodies = [f.graph for f in model.functions.values()]
    for graph in (g for root in (model.graph, *bodies) for g in all_graphs(root)):
        _strip(graph.metadata_props)
        for value in _values(graph):
            _strip(value.metadata_props)
        for node in graph:
            _strip(node.metadata_props)
            node.doc_string = None  # where TorchScript's exporter writes its stack traces


def _strip(properties: dict[str, str]) -> None:
    for key in [k for k in properties if k.startswith(STRIPPED_PREFIXES) and k not in KEPT_KEYS]:
        del properties[key]


def stamp_origins(model: ir.Model) -> None:
    """Write into each node the name it has in the imported model, for the edit log."""
    for node in all_nodes(model):
        node.metadata_props[ORIGIN_KEY] = node.name or ""
        node.metadata_props.pop(EDIT_KEY, None)
