"""Checks at the call for passes that are not trusted yet: what is wrong is said where it is done.

A mistake that the rules of ``verify`` or a comparison of outputs would find later is refused at
the line that makes it, so that the traceback points there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ..errors import PassError, near
from ..graph import constant_tensor, opset
from ..rewriter import EditRecord, Rewriter
from ..types.shapecheck import node_conflicts


class _Checks(Rewriter):
    """A rewriter that looks at what it is handed before it does it."""

    def insert(self, op_type: str, inputs: Sequence[ir.Value | None], **how: Any) -> ir.Node:
        domain, attributes = how.get("domain", ""), how.get("attributes") or {}
        check_operator(self.model, op_type, domain, len(inputs), attributes)
        return super().insert(op_type, inputs, **how)

    def set_attribute(self, node: ir.Node, name: str, value: Any) -> None:
        known = {n: a for n, a in node.attributes.items() if n != name} | {name: value}
        check_operator(self.model, node.op_type, node.domain, len(node.inputs), known)
        super().set_attribute(node, name, value)

    def initializer(self, hint: str, data: Any, *, graph: ir.Graph | None = None) -> ir.Value:
        check_numbers(hint, data)
        return super().initializer(hint, data, graph=graph)

    def set_tensor(self, value: ir.Value, data: Any) -> None:
        check_numbers(str(value.name), data, constant_tensor(value))
        super().set_tensor(value, data)

    def reshape_tensor(self, value: ir.Value, data: Any) -> None:
        check_numbers(str(value.name), data, constant_tensor(value))
        super().reshape_tensor(value, data)


def checked(rewriter: Rewriter) -> Rewriter:
    """The same rewriter (it shares all state), with a look at each call."""
    kind: type[Rewriter] = type("CheckedRewriter", (_Checks, type(rewriter)), {})
    made = object.__new__(kind)
    made.__dict__ = rewriter.__dict__
    return made


def check_operator(
    model: ir.Model, op_type: str, domain: str, inputs: int, attributes: Mapping[str, Any]
) -> None:
    """Raise PassError for an operator of ONNX that does not exist in the model's opset, or does
    not take so many inputs or these attributes. Of other domains nothing is known."""
    if domain not in ("", "ai.onnx"):
        return
    version = opset(model)
    if not onnx.defs.has(op_type, version):
        names = {schema.name for schema in onnx.defs.get_all_schemas()}
        since = f"; opset {_first(op_type)} has it" if op_type in names else ""
        what = f"opset {version} of ONNX has no operator {op_type!r}{since}"
        raise PassError(what, hint="" if since else near(op_type, names))
    schema = onnx.defs.get_schema(op_type, version)
    for name, value in attributes.items():
        if name not in schema.attributes:
            what = f"{op_type} has no attribute {name!r} in opset {version}"
            raise PassError(what, hint=near(name, schema.attributes))
        kind: Any = schema.attributes[name].type
        _check_kind(op_type, name, value, kind.name)
    missing = [n for n, a in schema.attributes.items() if a.required and n not in attributes]
    if missing:
        raise PassError(f"{op_type} needs the attribute {missing[0]!r}", hint="give it")
    if not schema.min_input <= inputs <= schema.max_input:
        takes = _takes(schema.min_input, schema.max_input)
        raise PassError(f"{op_type} takes {takes}, not {inputs}", hint=f"opset {version}")


def check_numbers(name: str, data: Any, old: ir.TensorProtocol | None = None) -> None:
    """Raise PassError where numbers are none (NaN) that were numbers before."""
    if _has_nan(data) and not (old is not None and _has_nan(old)):
        raise PassError(
            f"the numbers for {name!r} hold NaN",
            hint="look for a division by zero, or the root or logarithm of a negative number",
        )


def edit_conflicts(record: EditRecord) -> Iterator[str]:
    """What the values around an edit declare and cannot be, as sentences."""
    model, added = record.footprint.model, set(record.added)
    for node in _around(record):
        outer = {o for o in node.outputs if o.is_graph_output()} if node not in added else set()
        if not outer and isinstance(node.graph, ir.Graph):
            try:
                yield from node_conflicts(node, model)
            except PassError as error:
                yield error.what


def _around(record: EditRecord) -> Iterable[ir.Node]:
    """Nodes that were touched, and those that read what they compute."""
    makers = [m for v in record.footprint.values if (m := v.producer()) is not None]
    touched = [*record.footprint.nodes, *makers]
    there = [n for n in touched if isinstance(n.graph, ir.Graph)]
    readers = [use.node for n in there for output in n.outputs for use in output.uses()]
    return dict.fromkeys([*there, *readers])


def _check_kind(op_type: str, name: str, value: Any, wanted: str) -> None:
    attribute = ir.convenience.convert_attribute(name, value)
    if attribute.is_ref() or attribute.type.name == wanted:
        return
    if wanted.endswith("S") and isinstance(value, (list, tuple)) and not value:
        return
    raise PassError(
        f"attribute {name!r} of {op_type} is of type {wanted}, not {attribute.type.name}",
        hint=f"given: {value!r}",
    )


def _has_nan(data: Any) -> bool:
    array = np.asarray(data.numpy() if isinstance(data, ir.TensorProtocol) else data)
    if array.dtype.kind in "biuSUOMm":
        return False
    return bool(np.isnan(array.astype(np.float32, copy=False)).any())


def _takes(least: int, most: int) -> str:
    if least == most:
        return f"{least} input{'s' if least != 1 else ''}"
    return f"{least} to {most} inputs" if most < 1 << 20 else f"{least} inputs or more"


def _first(op_type: str) -> int:
    """The first opset that has an operator."""
    versions = range(1, onnx.defs.onnx_opset_version() + 1)
    return next(version for version in versions if onnx.defs.has(op_type, version))
