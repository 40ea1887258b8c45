"""Rules on versions, operators and the sizes that a target likes."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from ...ir.graph import dims, given, operator, opset
from ..schema import Target
from .layers import FLOAT8, SIXTEEN_BITS, code_dtype, integer
from .optimised import MACHINE_DOMAINS
from .rule import Finding, Rule, View, on_cpu

_KNOWN_DOMAINS = frozenset(
    {"", "ai.onnx.ml", "ai.onnx.preview.training", "com.microsoft", *MACHINE_DOMAINS}
)
_SINCE = {
    **dict.fromkeys(FLOAT8, 19),
    **dict.fromkeys((*SIXTEEN_BITS, ir.DataType.INT4, ir.DataType.UINT4), 21),
    ir.DataType.FLOAT4E2M1: 23,
    ir.DataType.INT2: 25,
    ir.DataType.UINT2: 25,
}
"""The opset in which QuantizeLinear and DequantizeLinear learned a type of codes."""


def _opset(view: View) -> Iterator[Finding]:
    found, most = opset(view.model), view.target.runtime.max_opset
    if found > most:
        yield Finding(None, f"opset {found}, at most {most} is taken")


def _ir_version(view: View) -> Iterator[Finding]:
    found, most = view.model.ir_version, view.target.runtime.max_ir_version
    if found > most:
        yield Finding(None, f"IR version {found}, at most {most} is taken")


def _unknown_operators(view: View) -> Iterator[Finding]:
    own = {(domain, name) for domain, name, _ in view.model.functions}
    version = opset(view.model)
    if version > onnx.defs.onnx_opset_version():
        return
    for node in view.nodes:
        domain, op = operator(node)
        if (domain, op) in own or (domain in _KNOWN_DOMAINS and domain):
            continue
        if domain:
            yield Finding(node, f"domain {domain}")
        elif not onnx.defs.has(op, version, ""):
            yield Finding(node, f"opset {version}")


def _newer_types(view: View) -> Iterator[Finding]:
    version = opset(view.model)
    for node in view.of("QuantizeLinear", "DequantizeLinear"):
        dtype = code_dtype(node)
        if version < _SINCE.get(dtype, 0):
            yield Finding(node, f"{dtype.name.lower()} in opset {version}")
        elif integer(node, "block_size", 0) and version < 21:
            yield Finding(node, f"block_size in opset {version}")
        elif version < 13 and (dims(given(node, 1)) or ()) not in ((), (1,)):
            yield Finding(node, f"a scale for each channel in opset {version}")


def _negative_axes(view: View) -> Iterator[Finding]:
    for node in view.of("QuantizeLinear", "DequantizeLinear"):
        axis = integer(node, "axis", 1)
        if integer(node, "block_size", 0) and axis < 0:
            yield Finding(node, f"axis {axis}")


def _multiples(view: View) -> Iterator[Finding]:
    wanted = view.target.multiples.channels
    for layer in view.layers:
        shape = dims(layer.node.inputs[1]) or ()
        sizes = shape[:2] if layer.node.op_type.startswith("Conv") else shape[-2:]
        odd = [n for n in sizes if isinstance(n, int) and n % wanted]
        if odd:
            yield Finding(layer.node, f"{odd[0]} channels, a multiple of {wanted} is wanted")


def _has_multiples(target: Target) -> str:
    if target.device == "cpu":
        return "a CPU computes ragged sizes with little loss"
    return "" if target.multiples.channels > 1 else "the target names no multiple of channels"


RULES = (
    Rule(
        "opset-too-new",
        "The version of the standard operators.",
        _opset,
        "the runtime refuses operator sets that it does not know",
        "export with a lower opset_version, or convert with onnx.version_converter",
        "error",
    ),
    Rule(
        "ir-version-too-new",
        "The version of the file format.",
        _ir_version,
        "the runtime refuses files of a newer format",
        "set model.ir_version to the greatest that is taken, and save again",
        "error",
    ),
    Rule(
        "operator-unknown",
        "Operators of the standard domain in the model's opset, and foreign domains.",
        _unknown_operators,
        "the runtime has no such operator and refuses the model",
        "export with standard operators; an operator of your own needs its library at run time",
        "error",
        on_cpu,
    ),
    Rule(
        "codes-need-newer-opset",
        "Types, blocks and axes of QuantizeLinear and DequantizeLinear.",
        _newer_types,
        "in this opset the operator does not take that: the runtime refuses the model",
        "export with opset 13 for scales for each channel, 19 for 8-bit floats, 21 for 4 and 16 "
        "bits and for blocks, 25 for 2 bits",
        "error",
    ),
    Rule(
        "block-axis-negative",
        "The axis of QuantizeLinear and DequantizeLinear with blocks.",
        _negative_axes,
        "an axis that is counted from the end is not understood: the node fails when it runs",
        "count the axis from the front",
        "error",
        on_cpu,
    ),
    Rule(
        "ragged-channels",
        "Rows and columns of weights, channels of convolutions.",
        _multiples,
        "the units that multiply matrices work on whole tiles: the rest of the last one is wasted",
        "pad or prune the layer to the multiple",
        "note",
        _has_multiples,
    ),
)
