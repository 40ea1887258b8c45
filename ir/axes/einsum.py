"""Einsum: every letter is an axis; a letter that is not in the output is summed over."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..finding.stored import stored
from ..graph import attribute
from .elementwise import link_axis
from .relations import REDUCTION, Contract, Key, Relations, reason
from .size_table import SizeTable


def einsum(found: Relations, table: SizeTable) -> None:
    """Letters of two operands at most, none twice in one of them, and no dots."""
    node, y = found.node, found.node.outputs[0]
    terms = _terms(str(attribute(node, "equation", "")), len(node.inputs))
    shapes = [table.of(value) for value in (*node.inputs, y)]
    if terms is None or [len(term) for term in terms] != [len(s or ()) for s in shapes]:
        return
    *inputs, out = terms
    found.otherwise = reason(REDUCTION, node, "sums over the axis")
    for place, term in enumerate(inputs):
        value, own = _value(node, place), shapes[place] or ()
        for axis, letter in enumerate(term):
            if letter in out:
                wide = out.index(letter)
                link_axis(found, ((value, axis), own[axis]), ((y, wide), (shapes[-1] or ())[wide]))
        _weigh(found, value, term, out)
    for letter in sorted(set("".join(inputs)) - set(out)):
        keys = _keys(node, inputs, letter)
        if len(keys) == 2:
            found.add(Contract(*keys))
    if all(stored(value) is None for value in node.inputs):
        found.marks.update({(y, out.index(c)): "heads" for c in _batch(terms)})
        found.marks.update({(y, out.index(c)): "features" for c in set(out) - _batch(terms)})


def _terms(equation: str, inputs: int) -> list[str] | None:
    """The letters of each operand and of the output; None for what is not told apart here."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = [*left.split(","), right]
    plain = arrow and inputs <= 2 and len(terms) == inputs + 1 and "." not in equation
    return terms if plain and all(len(set(term)) == len(term) for term in terms) else None


def _keys(node: ir.Node, terms: Sequence[str], letter: str) -> list[Key]:
    """The axes of the operands that a letter stands for."""
    places = [place for place, term in enumerate(terms) if letter in term]
    return [(_value(node, place), terms[place].index(letter)) for place in places]


def _value(node: ir.Node, place: int) -> ir.Value:
    value = node.inputs[place]
    assert value is not None
    return value


def _batch(terms: Sequence[str]) -> set[str]:
    """Letters that every operand and the output have."""
    return set.intersection(*map(set, terms))


def _weigh(found: Relations, value: ir.Value, term: str, out: str) -> None:
    """Name the roles of a stored operand's axes."""
    if stored(value) is not None:
        for axis, letter in enumerate(term):
            found.roles[value, axis] = "produces" if letter in out else "consumes"
