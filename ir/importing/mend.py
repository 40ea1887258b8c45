"""Faults of files that leave no doubt what is meant, mended with a remark instead of refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
import onnx_ir as ir

from ..graph import all_graphs
from ..provenance import Remark
from .protocheck import node_graphs, proto_graphs


def mend_proto(proto: onnx.ModelProto) -> list[Remark]:
    """Mend in place what would not survive becoming a graph; a remark for each kind of fault."""
    _describe_passed_through(proto.graph)
    twice = [name for graph in _all_graphs(proto) for name in _merge_constants(graph)]
    outer = _copy_outer_outputs(proto)
    return [
        *_remarked(
            twice,
            "constant-defined-twice",
            "constants defined twice ({}): the last definition counts, as in ONNX Runtime",
        ),
        *_remarked(
            outer,
            "outer-output-copied",
            "branches or loop bodies returned values of the graph around them ({}): "
            "they are copied inside",
        ),
        *_without_training(proto),
    ]


def forget_negative_sizes(model: ir.Model) -> None:
    """Size -1, as frameworks write an open axis, becomes unknown, as ONNX writes it."""
    bodies = [f.graph for f in model.functions.values()]
    for graph in (g for root in (model.graph, *bodies) for g in all_graphs(root)):
        for value in (*graph.inputs, *graph.outputs, *(v for n in graph for v in n.outputs)):
            if value.shape is not None and any(_is_negative(d) for d in value.shape):
                value.shape = ir.Shape([None if _is_negative(d) else d for d in value.shape])


def _describe_passed_through(graph: onnx.GraphProto) -> None:
    """An output that is an input is one value: where it says less there, the input counts."""
    inputs = {value.name: value.type for value in graph.input}
    for output in graph.output:
        given = inputs.get(output.name)
        if given is not None and not output.type.tensor_type.HasField("shape"):
            output.type.CopyFrom(given)


def _is_negative(size: int | ir.SymbolicDim) -> bool:
    return isinstance(size, int) and size < 0


def _all_graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield from proto_graphs(proto.graph)
    yield from (g for f in proto.functions for node in f.node for g in node_graphs(node))


def _remarked(names: Sequence[str], code: str, sentence: str) -> list[Remark]:
    if not names:
        return []
    unique = list(dict.fromkeys(names))
    shown = ", ".join(unique[:5]) + (", …" if len(unique) > 5 else "")
    return [Remark("note", "import", unique[0], code, sentence.format(shown))]


def _without_training(proto: onnx.ModelProto) -> list[Remark]:
    """Drop what was kept to go on training: the graph that infers does not need it."""
    if not proto.training_info:
        return []
    del proto.training_info[:]
    sentence = "the file also holds how to train the model, which is dropped: planish infers only"
    return [Remark("note", "import", "model", "training-info-dropped", sentence)]


def _merge_constants(graph: onnx.GraphProto) -> list[str]:
    """Let one node compute each constant; returns the names that several computed.

    ONNX Runtime takes constants for initializers and keeps the last one of each name.
    """
    first: dict[str, onnx.NodeProto] = {}
    spare: list[int] = []
    for index, node in enumerate(graph.node):
        if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or not node.output:
            continue
        kept = first.setdefault(node.output[0], node)
        if kept is not node:
            del kept.attribute[:]
            kept.attribute.extend(node.attribute)
            spare.append(index)
    names = [graph.node[index].output[0] for index in spare]
    for index in reversed(spare):
        del graph.node[index]
    return names


def _copy_outer_outputs(proto: onnx.ModelProto) -> list[str]:
    """Let bodies compute all that they return; returns the outer values that they returned."""
    copied: list[str] = []
    taken: set[str] = set()
    for graph in _all_graphs(proto):
        if graph is proto.graph:
            continue
        own = _defined(graph)
        for output in graph.output:
            if output.name not in own:
                taken = taken or {name for g in _all_graphs(proto) for name in _defined(g)}
                copied.append(output.name)
                output.name = _copied(graph, output.name, taken)
                output.ClearField("type")  # that of the copy is inferred; exporters guess here
    return copied


def _defined(graph: onnx.GraphProto) -> set[str]:
    names = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    names |= {s.values.name for s in graph.sparse_initializer}
    return names | {name for node in graph.node for name in node.output}


def _copied(graph: onnx.GraphProto, source: str, taken: set[str]) -> str:
    count, name = 1, f"{source}_inside"
    while name in taken:
        count, name = count + 1, f"{source}_inside_{count}"
    taken.add(name)
    graph.node.append(onnx.helper.make_node("Identity", [source], [name]))
    return name
