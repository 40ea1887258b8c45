"""Raise a model's opset, on a copy without weights; a conversion that fails changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable

import onnx
import onnx.version_converter
import onnx_ir as ir

from .errors import InputError
from .graph import all_graphs, all_nodes, operator, opset
from .importing.normalise import lift_constants, unique_names
from .storage.tensors import in_memory
from .types.shapes import infer_shapes


def raised(model: ir.Model, version: int) -> ir.Model:
    """The model at opset ``version`` or newer: itself where it is there already, else a copy.

    Names, origins and module paths are kept. Weights stay out of the conversion (ONNX's own
    converter cannot hold two gigabytes) and are put back by name. Raises InputError where an op
    cannot be converted.
    """
    if opset(model) >= version:
        return model
    _check_meanings(model, version)
    stripped = model.clone()
    weights = _strip(stripped)
    try:
        proto = onnx.version_converter.convert_version(ir.to_proto(stripped), version)
        converted = ir.from_proto(proto)
    except Exception as error:
        raise InputError(
            f"opset {opset(model)} cannot be raised to {version}: {_reason(model, error)}",
            hint="export the model again at a newer opset",
        ) from error
    _restore(converted, weights, model)
    _tidy(converted, model)
    return converted


def _check_meanings(model: ir.Model, version: int) -> None:
    """Refuse what the converter hands through although its meaning changes on the way."""
    for changed, concerns, sentence in _CHANGED_MEANINGS:
        if opset(model) < changed <= version and any(map(concerns, all_nodes(model))):
            raise InputError(
                f"opset {opset(model)} cannot be raised to {version}: {sentence}",
                hint="export the model again at a newer opset",
            )


def _scans(node: ir.Node) -> bool:
    return operator(node) == ("", "Scan")


def _masks(node: ir.Node) -> bool:
    """Whether somebody reads the mask of a Dropout."""
    mask = node.outputs[1] if operator(node) == ("", "Dropout") and len(node.outputs) > 1 else None
    return mask is not None and (bool(mask.uses()) or mask.is_graph_output())


_CHANGED_MEANINGS: tuple[tuple[int, Callable[[ir.Node], bool], str], ...] = (
    (9, _scans, "before opset 9 a Scan runs over batches, since then over one sequence"),
    # Runtimes filled the mask of an inactive Dropout with zeros, and fill it with ones since.
    (12, _masks, "the mask of a Dropout is used, and since opset 12 it holds something else"),
)


STRIP_ELEMENTS = 64
"""Smaller initializers stay: conversions read axes, pads and shapes from them."""


def _strip(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """Turn large initializers into plain inputs; returns their tensors by name.

    Those that stay (small ones, and those that a body hands out) are read: the converter opens no
    files.
    """
    for graph in list(all_graphs(model)):
        for value in list(graph.initializers.values()):
            if value.const_value is None:
                continue
            if graph is not model.graph and value.const_value.size > STRIP_ELEMENTS:
                _move_out(value, graph, model)
            if value.const_value.size <= STRIP_ELEMENTS or value.is_graph_output():
                value.const_value = in_memory(value.const_value)
    weights: dict[str, ir.TensorProtocol] = {}
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.size <= STRIP_ELEMENTS:
            continue
        weights[name] = tensor
        model.graph.initializers.pop(name)
        value.const_value = None
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        model.graph.inputs.append(value)
    return weights


def _move_out(value: ir.Value, graph: ir.Graph, model: ir.Model) -> None:
    """A weight of a body becomes one of the main graph, which the body reads from there."""
    name, tensor = str(value.name), value.const_value
    if value.is_graph_output() or value.is_graph_input() or name in model.graph.initializers:
        value.const_value = None if tensor is None else in_memory(tensor)
        return
    outer = ir.Value(name=name, type=value.type, shape=value.shape, const_value=tensor)
    for user, index in list(value.uses()):
        user.replace_input_with(index, outer)
    graph.initializers.pop(name)
    model.graph.initializers.add(outer)


def _restore(
    converted: ir.Model, weights: dict[str, ir.TensorProtocol], original: ir.Model
) -> None:
    graph = converted.graph
    for value in list(graph.inputs):
        tensor = weights.get(str(value.name))
        if tensor is None:
            continue
        graph.inputs.remove(value)
        value.const_value = tensor
        graph.initializers.add(value)
    converted.ir_version = max(original.ir_version or 8, 8)


def _tidy(converted: ir.Model, original: ir.Model) -> None:
    """What the converter loses or leaves undone: metadata of nodes, names, constants, types.

    It writes sizes into the signature that it made up: those of the original are put back.
    """
    pairs = [(original.graph.outputs, converted.graph.outputs)]
    pairs.append((original.graph.inputs, converted.graph.inputs))
    for old, new in (pair for ports in pairs for pair in zip(*ports, strict=True)):
        new.type, new.shape = old.type, None if old.shape is None else old.shape.copy()
    known = {node.name: node.metadata_props for node in all_nodes(original)}
    for node in all_nodes(converted):
        node.metadata_props.update(known.get(node.name, {}))
    lift_constants(converted)
    unique_names(converted)
    infer_shapes(converted)


def _reason(model: ir.Model, error: Exception) -> str:
    """The converter's own words name a file of its sources; operators it lacks are named here."""
    used = {node.op_type for node in all_nodes(model) if operator(node)[0] == ""}
    missing = sorted(name for name in used if not onnx.defs.has(name, ""))
    if missing:
        return f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} unknown to ONNX"
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\S+\.(cc|cpp|h):\d+: ", "", line)[:200]
