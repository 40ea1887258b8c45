"""Structural rules that every graph obeys after every edit.

``onnx.checker`` misses duplicate outputs and changed signatures, and takes ten times as long;
these rules take some tens of milliseconds for 10,000 nodes, so they run after each pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from graphlib import CycleError, TopologicalSorter

import onnx_ir as ir

from .errors import VerifyError
from .scopes import Definitions, Scope, ancestors, definitions_of, describe
from .signature import Signature
from .types.kinds import kinds

STANDARD = ("", "ai.onnx")


Rule = Callable[[Definitions], Iterator[str]]


def verify(model: ir.Model, signature: Signature | None = None, where: str = "") -> None:
    """Raise ``VerifyError`` naming every broken rule; ``where`` says who left the graph so."""
    found = violations(model, signature)
    if found:
        raise VerifyError(found, where=where)


def violations(model: ir.Model, signature: Signature | None = None) -> list[str]:
    """Broken rules as ``rule-name: sentence naming the node or value``, in rule order."""
    defs = definitions_of(model)
    found = [f"{name}: {sentence}" for name, rule in RULES for sentence in rule(defs)]
    if signature is not None:
        changes = signature.difference(Signature.of(model))
        found += [f"signature: {sentence}" for sentence in changes]
    return found


def _values(scope: Scope) -> Iterator[ir.Value]:
    yield from scope.graph.inputs
    yield from (v for v in scope.graph.initializers.values() if not v.is_graph_input())
    for node in scope.nodes:
        yield from node.outputs


def _value_names(defs: Definitions) -> Iterator[str]:
    seen: dict[Scope, set[str]] = {}
    for scope in defs.scopes:
        names = seen[scope] = set()
        outer = [seen[s] for s in ancestors(scope)]
        for value in _values(scope):
            name = value.name
            if not name:
                if value.uses() or value.is_graph_output() or value.producer() is None:
                    yield f"a value of {scope.label} in use has no name"
            elif name in names:
                yield f"two values of {scope.label} are named {name!r}"
            elif any(name in visible for visible in outer):
                yield f"value {name!r} in {scope.label} hides one of that name outside"
            else:
                names.add(name)


def _node_names(defs: Definitions) -> Iterator[str]:
    seen: set[tuple[int, str]] = set()
    for scope in defs.scopes:
        for node in scope.nodes:
            key = (id(scope.function), node.name or "")
            if not node.name:
                yield f"a {node.op_type} node of {scope.label} has no name"
            elif key in seen:
                yield f"two nodes are named {node.name!r} (one is a {node.op_type})"
            seen.add(key)


def _inputs_defined(defs: Definitions) -> Iterator[str]:
    for scope, _, node, value in _reads(defs):
        found = defs.defined.get(value)
        if found is None:
            yield f"{describe(node)} reads {value.name!r}, which nothing defines"
        elif found[0] is not scope and found[0] not in ancestors(scope):
            yield f"{describe(node)} reads {value.name!r}, which belongs to {found[0].label}"


def _topological(defs: Definitions) -> Iterator[str]:
    for scope, position, node, value in _reads(defs):
        home, defined_at = defs.defined.get(value, (None, -1))
        if home is scope:
            late = defined_at >= position
        elif defined_at >= 0 and home is not None:
            late = defined_at >= _position_in(home, scope)
        else:
            late = False
        if late:
            yield f"{describe(node)} reads {value.name!r} before it is computed"


def _reads(defs: Definitions) -> Iterator[tuple[Scope, int, ir.Node, ir.Value]]:
    for scope in defs.scopes:
        for position, node in enumerate(scope.nodes):
            for value in node.inputs:
                if value is not None:
                    yield scope, position, node, value


def _position_in(home: Scope, scope: Scope) -> int:
    """Where in ``home`` stands the node inside which ``scope`` lies; past the end if nowhere."""
    inner = scope
    while inner.outer is not None:
        if inner.outer is home:
            return inner.owner
        inner = inner.outer
    return len(home.nodes)


def _outputs_unique(defs: Definitions) -> Iterator[str]:
    # Loop bodies may return one value twice; only the callers of a whole model cannot.
    for value in _repeated(defs.model.graph.outputs):
        yield f"output {value.name!r} is listed twice"


def _repeated(values: Iterable[ir.Value]) -> Iterator[ir.Value]:
    seen: set[ir.Value] = set()
    for value in values:
        if value in seen:
            yield value
        seen.add(value)


def _outputs_produced(defs: Definitions) -> Iterator[str]:
    for scope in defs.scopes:
        for value in scope.graph.outputs:
            home = defs.defined.get(value, (None, -1))[0]
            if home is not scope:
                yield f"output {value.name!r} of {scope.label} is not computed there"


def _inputs_unique(defs: Definitions) -> Iterator[str]:
    for scope in defs.scopes:
        for value in _repeated(scope.graph.inputs):
            yield f"input {value.name!r} of {scope.label} is listed twice"
        for value in scope.graph.inputs:
            if value.producer() is not None:
                yield f"input {value.name!r} of {scope.label} is also computed by a node"


def _initializers(defs: Definitions) -> Iterator[str]:
    for scope in defs.scopes:
        for name, value in scope.graph.initializers.items():
            yield from initializer_faults(name, value)


def initializer_faults(name: str, value: ir.Value) -> Iterator[str]:
    """What does not fit between an initializer and its tensor."""
    tensor = value.const_value
    if tensor is None:
        yield f"initializer {name!r} holds no tensor"
        return
    if value.dtype is not None and value.dtype != tensor.dtype:
        yield f"initializer {name!r} is {tensor.dtype.name}, its value {value.dtype.name}"
    if value.shape is not None and not _agree(value.shape, tensor.shape):
        yield f"initializer {name!r} has shape {tensor.shape}, its value {value.shape}"


def _agree(declared: ir.Shape, actual: ir.ShapeProtocol) -> bool:
    sizes = tuple(actual)
    if len(declared) != len(sizes):
        return False
    return all(not isinstance(d, int) or d == s for d, s in zip(declared, sizes, strict=True))


def _domains(defs: Definitions) -> Iterator[str]:
    for scope in defs.scopes:
        owner = defs.model if scope.function is None else scope.function
        known = set(owner.opset_imports)
        if known & set(STANDARD):
            known.update(STANDARD)
        missing = {node.domain: node for node in scope.nodes if node.domain not in known}
        for domain, node in sorted(missing.items()):
            shown = domain or "ai.onnx"
            yield f"{describe(node)} is of domain {shown!r}, which {scope.label} does not import"


def _functions(defs: Definitions) -> Iterator[str]:
    functions = defs.model.functions
    calls: dict[ir.OperatorIdentifier, set[ir.OperatorIdentifier]] = {}
    for scope in defs.scopes:
        for node in scope.nodes:
            if node.op_identifier() in functions and scope.function is not None:
                calls.setdefault(scope.function.identifier(), set()).add(node.op_identifier())
            elif node.overload and node.op_identifier() not in functions:
                yield f"{describe(node)} calls overload {node.overload!r}, which does not exist"
    try:
        TopologicalSorter(calls).prepare()
    except CycleError as error:
        yield "functions call each other in a circle: " + ", ".join(f[1] for f in error.args[1])


RULES: tuple[tuple[str, Rule], ...] = (
    ("unique-value-names", _value_names),
    ("unique-node-names", _node_names),
    ("inputs-defined", _inputs_defined),
    ("topological-order", _topological),
    ("unique-outputs", _outputs_unique),
    ("outputs-produced", _outputs_produced),
    ("graph-inputs", _inputs_unique),
    ("initializers", _initializers),
    ("imported-domains", _domains),
    ("functions", _functions),
    ("value-kinds", kinds),
)
