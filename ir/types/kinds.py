"""Whether values are typed as tensors, sequences or optionals where the operator says which."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ..scopes import Definitions, describe

_MAKES_SEQUENCES = frozenset(
    "SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SplitToSequence".split()
)
_TAKES_SEQUENCES = frozenset(
    "ConcatFromSequence SequenceAt SequenceErase SequenceInsert SequenceLength".split()
)
_MAKES_TENSORS = frozenset("ConcatFromSequence SequenceAt SequenceLength".split())


def kinds(defs: Definitions) -> Iterator[str]:
    """Values whose type is of another kind than the operator around them gives or takes."""
    for node in (n for scope in defs.scopes for n in scope.nodes):
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type in _TAKES_SEQUENCES and node.inputs and node.inputs[0] is not None:
            yield from _unlike(node, node.inputs[0], "reads", ir.SequenceType)
        wanted = _made(node.op_type)
        for output in node.outputs if wanted is not None else ():
            assert wanted is not None
            yield from _unlike(node, output, "gives", wanted)


def _made(op_type: str) -> type | None:
    if op_type in _MAKES_SEQUENCES:
        return ir.SequenceType
    if op_type in _MAKES_TENSORS:
        return ir.TensorType
    return ir.OptionalType if op_type == "Optional" else None


def _unlike(node: ir.Node, value: ir.Value, verb: str, wanted: type) -> Iterator[str]:
    if value.type is not None and not isinstance(value.type, wanted):
        kind = wanted.__name__.removesuffix("Type").lower()
        yield f"{describe(node)} {verb} {value.name!r}, which is typed {value.type}, not a {kind}"
