"""Rules on the restrictions of TensorRT's operators, as the table of operators states them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from ....ir.graph import attribute, constant_array, constant_tensor, given, is_constant, rank
from ...tensorrt.table import Limit
from ..rule import Finding, Rule, View
from .operators import known
from .scope import oldest, on_tensorrt

Said: TypeAlias = Callable[[ir.Node, Limit], str]
"""What of a node breaks a limit, "" where nothing does or the limit is of another kind."""

_UNKNOWN = frozenset(
    "Bernoulli If Loop Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike "
    "Scan".split()
)
"""Operators of whose results nothing is known, whatever they read."""
_MOST = 64


def built(value: ir.Value | None) -> bool:
    """Whether a value is known when the engine is built: a constant, or computed of constants.

    What is computed in more than ``_MOST`` steps counts as not known.
    """
    pending, seen = [value], set[ir.Value]()
    while pending:
        if len(seen) > _MOST:
            return False
        found = pending.pop()
        if is_constant(found) or found in seen:
            continue
        node = None if found is None else found.producer()
        if found is None or node is None or node.op_type in _UNKNOWN:
            return False
        seen.add(found)
        pending += [v for v in node.inputs if v is not None]
    return True


def _checked(said: Said) -> Callable[[View], Iterator[Finding]]:
    """The limits of one kind, on every node of an operator that has such."""

    def check(view: View) -> Iterator[Finding]:
        version = oldest(view.target)
        for node, operator in known(view):
            for limit in operator.limits:
                found = said(node, limit)
                if found and not (limit.until and version >= limit.until):
                    yield Finding(node, found)

    return check


def _constant(node: ir.Node, limit: Limit) -> str:
    value = given(node, limit.input)
    if not limit.known or value is None:
        return ""
    fits = is_constant(value) if limit.known == "constant" else built(value)
    return "" if fits else f"input {limit.input}, {value.name}, is computed"


def _ranks(node: ir.Node, limit: Limit) -> str:
    found = rank(given(node, limit.input)) if limit.ranks else None
    if found is None or found in limit.ranks:
        return ""
    wanted = " or ".join(map(str, limit.ranks))
    return f"input {limit.input} has {found} axes, not {wanted}"


def _types(node: ir.Node, limit: Limit) -> str:
    found = dtype_of(given(node, limit.input)) if limit.types else None
    if found is None or found in limit.types:
        return ""
    wanted = " or ".join(sorted(dtype.name.lower() for dtype in limit.types))
    return f"input {limit.input} is {found.name.lower()}, not {wanted}"


def dtype_of(value: ir.Value | None) -> ir.DataType | None:
    """The type of a value, that of its tensor where it is constant; None when unknown."""
    tensor = constant_tensor(value)
    return tensor.dtype if tensor is not None else None if value is None else value.dtype


def _below(node: ir.Node, limit: Limit) -> str:
    array = None if limit.below is None else constant_array(given(node, limit.input))
    if array is None or limit.below is None or not (array >= limit.below).any():
        return ""
    return f"{np.max(array)}, less than {limit.below} is taken"


def _attribute(node: ir.Node, limit: Limit) -> str:
    if not limit.attribute or limit.attribute not in node.attributes:
        return ""
    found = attribute(node, limit.attribute)
    if limit.absent:
        return limit.attribute
    if limit.letters:
        strange = sorted(set(str(found)) - set(limit.letters))
        return f"{limit.attribute} with {' '.join(strange)}" if strange else ""
    return "" if _among(found, limit.values) else f"{limit.attribute} {_plain(found)}"


def _among(found: Any, values: tuple[Any, ...]) -> bool:
    return all(item in values for item in (found if isinstance(found, tuple) else (found,)))


def _plain(found: Any) -> Any:
    return list(found) if isinstance(found, tuple) else found


def _operands(node: ir.Node, limit: Limit) -> str:
    if limit.outputs is not None:
        more = [v for v in node.outputs[limit.outputs :] if v.name]
        return f"output {more[0].name}" if more else ""
    value = given(node, limit.input) if limit.absent else None
    return "" if value is None else f"input {limit.input}, {value.name}"


def _by_hand(node: ir.Node, limit: Limit) -> str:
    return limit.by_hand


RULES = (
    Rule(
        "trt-input-computed",
        "Inputs of operators that must be known when the engine is built: axes, depths.",
        _checked(_constant),
        "the parser wants that input as a constant and refuses the model",
        "store it as an initializer; fold the constants of the model first",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-input-rank",
        "Number of axes of inputs: Attention on four, pools on images and volumes.",
        _checked(_ranks),
        "the parser or the layer takes that number of axes only: the model is refused",
        "reshape in front of the node and behind it",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-input-type",
        "Types of inputs that an operator takes in one type only, such as position_ids.",
        _checked(_types),
        "the parser refuses another type there",
        "cast the input",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-input-value",
        "Values of constant inputs with a bound, such as TopK's K.",
        _checked(_below),
        "the layer takes smaller values only: the engine is not built",
        "choose a smaller value; for Dropout: export the model for inference",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-attribute",
        "Attributes of operators of which TensorRT takes some values only.",
        _checked(_attribute),
        "the parser does not take that attribute or that value and refuses the model",
        "write the node otherwise: with the values that are taken, or with simpler operators",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-operands-not-taken",
        "Optional inputs and outputs: past and present of Attention, Indices of MaxPool.",
        _checked(_operands),
        "the parser takes the operator without that input or output only",
        "remove what is not used; write the rest with other operators (Concat for a cache)",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-by-hand",
        "Restrictions of operators that a graph does not show.",
        _checked(_by_hand),
        "TensorRT's table restricts the operator in a way that only a person can check",
        "see to it by hand",
        "note",
        on_tensorrt,
    ),
)
