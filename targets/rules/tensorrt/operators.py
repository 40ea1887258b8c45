"""Rules on which operators TensorRT's ONNX parser knows, in which version, on which GPUs."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ....ir.graph import operator, opset
from ...schema import Target
from ...tensorrt.table import DOMAIN, Operator, table
from ..rule import Finding, Rule, View
from .scope import capability, newest, oldest, on_tensorrt, spoken, where

INTEGER = frozenset(
    {"ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
)
"""Standard operators on integers that Q/DQ pairs say otherwise."""


def known(view: View) -> Iterator[tuple[ir.Node, Operator]]:
    """Nodes whose operator stands in the table as one that is parsed."""
    for node in view.nodes:
        found = table().operators.get(operator(node))
        if found is not None and found.supported:
            yield node, found


def refused(node: ir.Node) -> bool:
    """Whether a rule of this file refuses the operator, so that no other need speak of it."""
    found = table().operators.get(operator(node))
    return found is None or not found.supported


def _old_opset(view: View) -> Iterator[Finding]:
    found, least = opset(view.model), table().opsets[0]
    if found < least:
        yield Finding(None, f"opset {found}, at least {least} is taken")


def _unknown(view: View) -> Iterator[Finding]:
    own = {(domain, name) for domain, name, _ in view.model.functions}
    for node in view.nodes:
        domain, op = operator(node)
        if (domain, op) in table().operators or (domain, op) in own:
            continue
        yield Finding(node, f"domain {domain}" if domain else "")


def _unsupported(view: View) -> Iterator[Finding]:
    for node in view.nodes:
        domain, op = operator(node)
        found = table().operators.get((domain, op))
        if found is not None and not found.supported and op not in INTEGER:
            yield Finding(node)


def _integer(view: View) -> Iterator[Finding]:
    return (Finding(node) for node in view.of(*INTEGER))


def _too_new(view: View) -> Iterator[Finding]:
    most = newest(view.target)
    for node, found in known(view):
        if found.since > most:
            yield Finding(node, f"since {spoken(found.since)}; the target has {spoken(most)}")


def _version(view: View) -> Iterator[Finding]:
    least, most = oldest(view.target), newest(view.target)
    for node, found in known(view):
        if least < found.since <= most:
            yield Finding(node, f"since {spoken(found.since)}")


def _hardware(view: View) -> Iterator[Finding]:
    here = capability(view.target)
    for node, found in known(view):
        if here is None or not found.capability:
            continue
        low, high = found.capability
        if not low <= here <= high:
            yield Finding(node, f"sm{low} and its kin; the target is sm{here}")


def _older_opset(view: View) -> Iterator[Finding]:
    version = opset(view.model)
    for node, found in known(view):
        bounds = [limit.opset_below for limit in found.limits if limit.opset_below is not None]
        if bounds and version >= min(bounds):
            yield Finding(node, f"for opsets below {min(bounds)}; the model has {version}")


def _names_versions(target: Target) -> bool:
    return target.runtime.max_version is not None


RULES = (
    Rule(
        "trt-opset-too-old",
        "The version of the standard operators.",
        _old_opset,
        "the parser knows no older operator sets",
        "export with a newer opset_version, or convert with onnx.version_converter",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-operator-unknown",
        f"Operators of other domains than the standard one and {DOMAIN}, and names in these that "
        "TensorRT's table does not have.",
        _unknown,
        "the parser looks for a plugin of that name, finds none and refuses the model: it has none "
        "of the operators of com.microsoft",
        "write it with standard operators; an operator of your own needs its plugin at build time",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-operator-unsupported",
        "Standard operators that TensorRT's table lists as unsupported.",
        _unsupported,
        "the parser refuses the model",
        "write it with operators that the table has, or run that part in another runtime",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-integer-operator",
        "QLinearMatMul, QLinearConv, MatMulInteger, ConvInteger and DynamicQuantizeLinear.",
        _integer,
        "the parser takes quantization as Q/DQ pairs with fixed scales only, and refuses the model",
        "quantize statically, in the QDQ format (QuantFormat.QDQ), int8 and symmetric",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-operator-too-new",
        "Operators that came with a newer TensorRT than the target's newest.",
        _too_new,
        "the parser of that version does not know the operator and refuses the model",
        "write it with older operators, or build with the version that has it",
        "error",
        where(_names_versions, "the target names no newest version"),
    ),
    Rule(
        "trt-operator-version",
        "Operators that came with a newer TensorRT than the target's oldest.",
        _version,
        "older versions of TensorRT refuse the model",
        "build with that version or a newer one, or write it with older operators",
        "note",
        on_tensorrt,
    ),
    Rule(
        "trt-operator-hardware",
        "Operators that only some GPUs run.",
        _hardware,
        "no kernel runs it on that compute capability: the engine is not built",
        "use int8, or FP8 where the target has it; or compile for a GPU that runs it",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-operator-opset",
        f"Operators of the domain {DOMAIN} that stand in for standard ones of newer opsets.",
        _older_opset,
        "from that opset on the standard operator is meant",
        "write QuantizeLinear and DequantizeLinear",
        "error",
        on_tensorrt,
    ),
)
