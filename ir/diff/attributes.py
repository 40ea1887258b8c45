"""Attributes of a node that both graphs have: which changed, and which only say their default."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx.defs
import onnx_ir as ir

from ..storage.tensors import tensor_digest
from .match import Matching


def attribute_changes(found: Matching, a: int, b: int) -> Iterator[str]:
    """``axis: 0 -> 1`` for each attribute that is different."""
    one, other = found.before.nodes[a], found.after.nodes[b]
    for name in _different(one, other):
        told = ", its default" if _is_default(found, a, b, name) else ""
        yield f"{name}: {_text(one, name)} -> {_text(other, name)}{told}"


def same_but_for_defaults(found: Matching, a: int, b: int) -> bool:
    """Whether two nodes are alike by themselves, but for attributes that one leaves out and that
    the other gives the values that they have then. False where nothing is different."""
    before, after = found.before, found.after
    constants = [
        [(slot, s.of) for slot, s in enumerate(sources) if s.kind == "constant"]
        for sources in (before.sources[a], after.sources[b])
    ]
    faces = [
        (pool.kinds[n], len(pool.sources[n]), len(pool.nodes[n].outputs))
        for pool, n in ((before, a), (after, b))
    ]
    names = list(_different(before.nodes[a], after.nodes[b]))
    alike = constants[0] == constants[1] and faces[0] == faces[1] and bool(names)
    return alike and all(_is_default(found, a, b, name) for name in names)


def _different(one: ir.Node, other: ir.Node) -> Iterator[str]:
    for name in dict.fromkeys([*one.attributes, *other.attributes]):
        if _text(one, name) != _text(other, name):
            yield name


def _is_default(found: Matching, a: int, b: int, name: str) -> bool:
    """Whether an attribute is left out on one side, and on the other is what leaving it out means
    at the opset of the first."""
    sides = (found.before, a), (found.after, b)
    given = [(pool, n) for pool, n in sides if name in pool.nodes[n].attributes]
    absent = [(pool, n) for pool, n in sides if name not in pool.nodes[n].attributes]
    if len(given) != 1 or given[0][0].nodes[given[0][1]].domain not in ("", "ai.onnx"):
        return False
    node, version = given[0][0].nodes[given[0][1]], absent[0][0].model.opset_imports.get("", 1)
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return False
    known = schema.attributes.get(name)
    if known is None or not known.default_value.name:
        return False
    default = onnx.helper.get_attribute_value(known.default_value)
    value = node.attributes[name].value
    return bool((default.decode() if isinstance(default, bytes) else default) == value)


def _text(node: ir.Node, name: str) -> str:
    held = node.attributes.get(name)
    if held is None:
        return "absent"
    if held.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return "a body"
    if held.type == ir.AttributeType.TENSOR:
        return f"tensor {tensor_digest(held.value)[:8]}"
    value = held.value
    return str(list(value) if isinstance(value, (tuple, list)) else value)
