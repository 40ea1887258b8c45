"""Types and shapes of values, inferred by ONNX without handing it the weights.

Inference never renames anything, leaves the signature alone, and gives a value the type inferred
for it, be it a tensor, a sequence or an optional (upstream's pass writes tensor types over the
others and swallows its failures). Weights are stood in for by references to a file that is never
read, so a model beyond 2 GB is no special case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx
import onnx_ir as ir

from ..errors import PassError
from ..graph import all_graphs, captured_values, constant_tensor, subgraphs
from ..importing.protocheck import node_graphs, proto_graphs
from ..provenance import Remark
from ..scopes import describe
from ..storage.tensors import in_memory
from ..storage.weights import external_reference, substituted
from .inference import infer

SMALL_BYTES = 4096  # a constant whose value may decide a shape is no larger

Dim = int | ir.SymbolicDim
Types = dict[str, onnx.TypeProto]


def infer_shapes(model: ir.Model, *, fill_outputs: bool = False) -> list[Remark]:
    """Fill in types and shapes of all values, of the main graph and of subgraphs, in place.

    What is inferred replaces what stood there; where nothing is (custom operators, sizes that
    depend on data) the old size stays, so clear what an edit made untrue (``clear_downstream``).
    fill_outputs: also complete graph outputs without a type or shape. Import does; later it would
    change the signature. Returns a note for each failure; what could be inferred is kept.
    """
    for graph in all_graphs(model):
        _describe_initializers(graph)
    try:
        proto = without_weights(model)
    except Exception as error:
        return [_note("model", f"shapes were not inferred: {first_line(error)}")]
    inferred, failure = _infer(proto)
    outputs = model.graph.outputs
    fixed = {id(v) for v in outputs if not fill_outputs or _described(v)}
    missed = [] if inferred is None else _take(model.graph, inferred.graph, fixed)
    # Strict inference keeps quiet about every failure in a graph that has a custom operator.
    return _reasons(missed, model) if failure is None else [_note("model", failure)]


def infer_node(node: ir.Node, model: ir.Model) -> bool:
    """Infer the outputs of one node from what is known of its inputs; whether any changed.

    Outputs of the main graph stay as the signature promises. Nothing is inferred for operators
    without an ONNX schema or from inputs without a type. Raises ``PassError`` when the operator
    cannot take these inputs.
    """
    found = node_types(node, model)
    main = model.graph
    free = [v for v in node.outputs if not v.is_graph_output() or v.graph is not main]
    changed = [_update(v, found[v.name]) for v in free if v.name and v.name in found]
    return any(changed)


def node_types(node: ir.Node, model: ir.Model) -> Types:
    """The types that ONNX infers for the outputs of a node, by name; as ``infer_node``, but the
    graph stays as it is. Raises ``PassError`` when the operator cannot take these inputs."""
    try:
        return _node_outputs(node, model)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise PassError(
            f"{describe(node)} cannot take its inputs: {first_line(error)}",
            where=", ".join(_sketch(v) for v in node.inputs),
        ) from error


def _describe_initializers(graph: ir.Graph) -> None:
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is None:
            continue
        if value.dtype != tensor.dtype:
            value.type = ir.TensorType(tensor.dtype)
        if value.shape is None or tuple(value.shape) != tuple(tensor.shape):
            value.shape = ir.Shape(tensor.shape.numpy())


def _stand_in(value: ir.Value, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if tensor.dtype == ir.DataType.STRING:
        return tensor
    if tensor.nbytes <= SMALL_BYTES:
        return in_memory(tensor)
    return external_reference(tensor, "weights", 0, value.name)


def without_weights(model: ir.Model) -> onnx.ModelProto:
    """The model as a proto for inference: large weights stood in for, inner shapes forgotten."""
    with substituted(all_graphs(model), _stand_in):
        proto = ir.to_proto(model)
    _spell_out([node for graph in proto_graphs(proto.graph) for node in graph.node])
    opsets = model.opset_imports
    _forget(proto.graph, opsets)
    for inner in (g for node in proto.graph.node for g in node_graphs(node)):
        for output in _forget(inner, opsets):
            output.type.tensor_type.ClearField("shape")
    return proto


def _spell_out(nodes: Iterable[onnx.NodeProto]) -> None:
    """Write the default that ONNX's inference of STFT gets wrong: it takes 0 for 1 (onnx 1.23)."""
    for node in nodes:
        standard_stft = node.op_type == "STFT" and not node.domain
        if standard_stft and not any(a.name == "onesided" for a in node.attribute):
            node.attribute.append(onnx.helper.make_attribute("onesided", 1))


def _forget(graph: onnx.GraphProto, opsets: Mapping[str, int]) -> list[onnx.ValueInfoProto]:
    """Drop what would only contradict new shapes; returns the outputs that can be inferred.

    What custom operators give is kept: nothing else tells it.
    """
    custom = [n for n in graph.node if _schema(n.domain, n.op_type, opsets) is None]
    keep = {name for node in custom for name in node.output}
    kept = [info for info in graph.value_info if info.name in keep]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    computed = {name for node in graph.node for name in node.output} - keep
    tensors = [o for o in graph.output if o.type.HasField("tensor_type")]
    return [output for output in tensors if output.name in computed]


def _infer(proto: onnx.ModelProto) -> tuple[onnx.ModelProto | None, str | None]:
    try:
        return infer(proto, strict=True), None
    except Exception as error:
        failure = first_line(error)
    try:
        partly = infer(proto, strict=False)
    except Exception:
        return None, f"shapes were not inferred: {failure}"
    return partly, f"some shapes were not inferred: {failure}"


def _take(graph: ir.Graph, proto: onnx.GraphProto, fixed: set[int]) -> list[ir.Node]:
    """Write inferred types and shapes into the graph; returns nodes about which nothing came."""
    types = {info.name: info.type for info in (*proto.value_info, *proto.output)}
    missed: list[ir.Node] = []
    for node, written in zip(graph, proto.node, strict=True):
        for value in node.outputs:
            if id(value) not in fixed and value.name in types:
                _update(value, types[value.name])
        if not any(v.name in types for v in node.outputs):
            missed.append(node)
        for inner, inner_proto in zip(subgraphs(node), _subprotos(node, written), strict=True):
            missed += _take(inner, inner_proto, fixed)
    return missed


def _reasons(missed: list[ir.Node], model: ir.Model) -> list[Remark]:
    found: list[Remark] = []
    for node in missed:
        try:
            infer_node(node, model)
        except PassError as error:
            found.append(_note(node.name or "", f"shapes were not inferred: {error.what}"))
    return found


def _subprotos(node: ir.Node, written: onnx.NodeProto) -> list[onnx.GraphProto]:
    by_name = {a.name: a for a in written.attribute}
    found: list[onnx.GraphProto] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
            found.append(by_name[attribute.name].g)
        elif attribute.type == ir.AttributeType.GRAPHS and not attribute.is_ref():
            found.extend(by_name[attribute.name].graphs)
    return found


def _described(value: ir.Value) -> bool:
    return value.type is not None and value.shape is not None


def _update(value: ir.Value, found: onnx.TypeProto) -> bool:
    """Give the value the inferred type and shape; whether that was news."""
    if found.WhichOneof("value") in (None, "map_type"):
        return False
    before = value.type, value.shape
    type_ = ir.serde.deserialize_type_proto_for_type(found)
    if type_ is not None and type_.dtype != ir.DataType.UNDEFINED and type_ != value.type:
        value.type = type_
    shape = ir.serde.deserialize_type_proto_for_shape(found)
    if shape is not None:
        value.shape = _merged(shape, value.shape)
    return (value.type, value.shape) != before


def _merged(found: ir.Shape, old: ir.Shape | None) -> ir.Shape:
    """Inferred sizes and names, else the old ones. ``unk__7`` is a name for not knowing.

    What was known to be empty stays so against a name: ONNX 1.23 gives a Slice from 0 to 0 of an
    open axis that axis' name.
    """
    if old is None or len(old) != len(found):
        return ir.Shape([None if _unknown(d) else d for d in found])
    return ir.Shape([_better(d, o) for d, o in zip(found, old, strict=True)])


def _better(found: Dim, old: Dim) -> Dim | None:
    if isinstance(found, int) or (old != 0 and not _unknown(found)):
        return found
    return None if _unknown(old) else old


def _unknown(dim: Dim) -> bool:
    if isinstance(dim, int):
        return False
    return dim.value is None or dim.value.startswith("unk__")


def _schema(domain: str, operator: str, opsets: Mapping[str, int]) -> onnx.defs.OpSchema | None:
    version = opsets.get(domain)
    if version is None or not onnx.defs.has(operator, version, domain):
        return None
    return onnx.defs.get_schema(operator, version, domain)


def _node_outputs(node: ir.Node, model: ir.Model) -> Types:
    schema = _schema(node.domain, node.op_type, model.opset_imports)
    read = [v for v in node.inputs if v is not None]
    if schema is None or any(v.type is None or not v.name for v in read):
        return {}
    outer = [v for v in captured_values(node) if v.type is not None]
    inner = [g for graph in subgraphs(node) for g in all_graphs(graph)]
    with substituted(inner, _stand_in):
        proto = ir.to_proto(node)
    _spell_out([proto])
    return onnx.shape_inference.infer_node_outputs(
        schema,
        proto,
        {v.name or "": _type_proto(v) for v in (*outer, *read)},
        _small_constants(read),
        opset_imports=[onnx.helper.make_opsetid(d, v) for d, v in model.opset_imports.items()],
        ir_version=model.ir_version,
    )


def _small_constants(values: Sequence[ir.Value]) -> dict[str, onnx.TensorProto]:
    found: dict[str, onnx.TensorProto] = {}
    for value in values:
        tensor = constant_tensor(value)
        if tensor is None or not value.name or tensor.dtype == ir.DataType.STRING:
            continue
        if tensor.nbytes <= SMALL_BYTES:
            dims, raw = tensor.shape.numpy(), tensor.tobytes()
            kind = tensor.dtype.value
            found[value.name] = onnx.TensorProto(data_type=kind, dims=dims, raw_data=raw)
    return found


def _type_proto(value: ir.Value) -> onnx.TypeProto:
    return ir.serde.serialize_value(value).type


def _sketch(value: ir.Value | None) -> str:
    return "–" if value is None else f"{value.name}: {value.type}{value.shape}"


def first_line(error: Exception) -> str:
    """The first line of a message, without the runtime's decoration."""
    lines = str(error).strip().splitlines()
    return lines[0].replace("[ShapeInferenceError] ", "") if lines else type(error).__name__


def _note(site: str, sentence: str) -> Remark:
    return Remark("note", "shapes", site, "shapes-unknown", sentence)
