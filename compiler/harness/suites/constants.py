"""The node cases once more with constants: data that was fed lies in the model.

Of a case with several tensors as inputs there is one variant for each of them, in which only this
one is fed and the others are initializers: it is then that weights are folded, transposed and
moved. In one more variant everything is a ``Constant`` node, and what was an output is read by an
``Unsqueeze``, so that folding may replace all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ....ir.importing.protocheck import OLDEST_OPSET
from ..case import Case
from .exclusions import excluded
from .node_cases import node_cases, opset

CONSTANTS = "excluded_constant_cases.toml"
IR_WITH_INITIALIZERS = 4
"""From this IR version on, an initializer need not be an input as well."""
OPSET_OF_ANY_CONSTANT = 13
"""From this opset on, ``Constant`` takes every element type that numpy has."""

MOVED_TYPES = frozenset(range(onnx.TensorProto.FLOAT, onnx.TensorProto.UINT64 + 1))
"""Element types that ``Unsqueeze`` of the runtime takes: those of numpy, and strings."""


def constant_cases() -> Iterator[Case]:
    """All variants that the runtime runs."""
    out = excluded(CONSTANTS)
    return (case for case in all_constant_cases() if case.name not in out.reasons)


def all_constant_cases() -> Iterator[Case]:
    """All variants of all node cases that run."""
    for case in node_cases():
        yield from variants(case)


def variants(case: Case) -> Iterator[Case]:
    """The variants of one case, by its first feed."""
    feed = case.feeds[0]
    tensors = {name: data for name, data in feed.items() if _may_lie_in_a_model(data)}
    if len(feed) > 1:
        for name in feed:
            others = {n: data for n, data in tensors.items() if n != name}
            if others:
                yield _only_fed(case, name, others)
    if tensors:
        yield _nothing_fed(case, tensors)


def _may_lie_in_a_model(data: Any) -> bool:
    """Tensors without NaN and infinities, for which weights are refused."""
    if not isinstance(data, np.ndarray):
        return False
    floating = not data.dtype.hasobject and data.dtype.kind not in "biuc"
    return not floating or bool(np.isfinite(data.astype(np.float64)).all())


def _only_fed(case: Case, name: str, constants: Mapping[str, Any]) -> Case:
    model = _without_inputs(case.model, constants)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in constants.items())
    return _case(f"{case.name}-fed-{name}", model, case)


def _nothing_fed(case: Case, constants: Mapping[str, Any]) -> Case:
    model = _without_inputs(case.model, constants)
    tensors = [numpy_helper.from_array(a, n) for n, a in constants.items()]
    if opset(model) >= OPSET_OF_ANY_CONSTANT:
        nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in tensors]
        body = [*nodes, *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(body)
    else:
        model.graph.initializer.extend(tensors)
    _read_outputs(model)
    return _case(f"{case.name}-constant", model, case)


def _case(name: str, model: onnx.ModelProto, of: Case) -> Case:
    left = {i.name for i in model.graph.input}
    return Case(name, model, ({n: data for n, data in of.feeds[0].items() if n in left},))


def _without_inputs(model: onnx.ModelProto, names: Mapping[str, Any]) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.ir_version = max(changed.ir_version, IR_WITH_INITIALIZERS)
    kept = [i for i in changed.graph.input if i.name not in names]
    del changed.graph.input[:]
    changed.graph.input.extend(kept)
    return changed


def _read_outputs(model: onnx.ModelProto) -> None:
    """Put an ``Unsqueeze`` behind every tensor that is an output, where the runtime has one."""
    graph = model.graph
    by_input = opset(model) >= OPSET_OF_ANY_CONSTANT
    tensors = [o for o in graph.output if o.type.tensor_type.elem_type in MOVED_TYPES]
    if opset(model) < OLDEST_OPSET or not tensors:
        return
    if by_input:
        graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "first_axis"))
    for output in tensors:
        inputs = [output.name, "first_axis"] if by_input else [output.name]
        name = f"{output.name}_read"
        node = helper.make_node("Unsqueeze", inputs, [name])
        if not by_input:
            node.attribute.append(helper.make_attribute("axes", [0]))
        graph.node.append(node)
        output.name = name
        output.type.tensor_type.ClearField("shape")
