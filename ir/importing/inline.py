"""Model-local functions put in the place of their calls."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from ..errors import InputError
from ..provenance import Remark
from .limits import check_expansion, check_kept_functions

DEFAULT_OPSET = 20  # for a model that imports no standard operators but whose functions need one


def inline_functions(model: ir.Model, where: str) -> list[Remark]:
    """Inline all functions, in place; those whose operators changed since stay, with a remark.

    Raises ``InputError`` for functions that call each other in a circle or are called wrongly,
    for calls that would become too many nodes, and for weights of a function in another file.
    """
    if not model.functions:
        return []
    check_expansion(model, where)
    for function in model.functions.values():
        _shield(function, model.opset_imports.get("", DEFAULT_OPSET))
        if _compatible(function, model):
            imports = model.opset_imports
            function.opset_imports.update({d: imports.get(d, v) for d, v in _imports(function)})
    try:
        InlinePass(lambda f: _agree(f, model))(model)
        _drop_uncalled(model)
    except Exception as error:
        raise InputError(
            f"the functions of the model cannot be inlined: {root_cause(error)}",
            where=where,
            hint="export the model without functions",
        ) from error
    check_kept_functions(model, where)
    return [_kept(f) for f in model.functions.values()]


def root_cause(error: BaseException) -> str:
    """The first line of the error at the bottom of a chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _imports(function: ir.Function) -> list[tuple[str, int]]:
    return list(function.opset_imports.items())


def _agree(function: ir.Function, model: ir.Model) -> bool:
    return all(model.opset_imports.get(d, v) == v for d, v in _imports(function))


def _compatible(function: ir.Function, model: ir.Model) -> bool:
    """Whether the operators of the body mean in the model what they mean in the function."""
    imports, versions = model.opset_imports, function.opset_imports
    differing = {d for d, v in _imports(function) if imports.get(d, v) != v}
    nodes = [n for n in function.graph.all_nodes() if n.domain in differing]
    return all(
        _since(n, versions[n.domain]) == _since(n, imports[n.domain]) is not None for n in nodes
    )


def _since(node: ir.Node, version: int) -> int | None:
    """The version in which the operator became what it is in ``version``; None if unknown."""
    if not onnx.defs.has(node.op_type, version, node.domain):
        return None
    return int(onnx.defs.get_schema(node.op_type, version, node.domain).since_version)


def _drop_uncalled(model: ir.Model) -> None:
    bodies = [f.graph for f in model.functions.values()]
    called = {n.op_identifier() for g in (model.graph, *bodies) for n in g.all_nodes()}
    uncalled = [name for name in model.functions if name not in called]
    for name in uncalled:
        del model.functions[name]
    if uncalled:
        _drop_uncalled(model)


def _kept(function: ir.Function) -> Remark:
    name = f"{function.domain}.{function.name}"
    sentence = f"function {name} is written for another opset than the model and stays a function"
    return Remark("note", "import", name, "function-kept", sentence)


def _shield(function: ir.Function, opset: int) -> None:
    """Let every output have a node of its own.

    The inliner gives an output's name to what replaces it: a function that returns its input
    would rename the caller's value, be it a graph input.
    """
    seen: set[ir.Value] = set()
    outputs = function.outputs
    for index, value in enumerate(list(outputs)):
        if value.producer() is not None and value not in seen:
            seen.add(value)
            continue
        function.opset_imports.setdefault("", opset)
        identity = ir.node("Identity", [value])
        function.append(identity)
        outputs[index] = identity.outputs[0]
