"""Rules on files that ONNX Runtime's optimiser has written, and on what quantization left out."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ...ir.graph import (
    constant_tensor,
    consumers,
    dims,
    given,
    is_constant,
    operator,
    producer,
    rank,
)
from .codes import INTEGER_FORMS
from .fusion import TRANSPARENT, quantizer_behind
from .rule import Finding, Rule, View, everywhere, on_cpu

MACHINE_DOMAINS = frozenset({"com.microsoft.nchwc", "com.ms.internal.nhwc"})
"""Operators whose weights lie as the vector units of one machine want them."""
_RUNTIME_ONLY = frozenset("FusedConv FusedGemm FusedMatMul TransposeMatMul".split())
"""Operators of com.microsoft that the optimiser writes, and hardly anybody else."""
_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"})
_CODED = frozenset(
    "QuantizeLinear DequantizeLinear QLinearMatMul QLinearConv MatMulInteger ConvInteger QGemm "
    "DynamicQuantizeMatMul MatMulIntegerToFloat".split()
)
_LOOKED_AT = frozenset({"ConvTranspose", "Gather", "QuantizeLinear"})
"""Readers of dequantized constants that other rules look at."""
_SMALL = 4096
"""Elements below which neither a float layer nor a constant is worth a word."""


def _machine(view: View) -> Iterator[Finding]:
    for node in view.nodes:
        domain, kind = operator(node)
        packed = domain == "com.microsoft" and kind == "QLinearConv"
        if domain in MACHINE_DOMAINS or packed:
            yield Finding(node, f"domain {domain}")


def _optimised(view: View) -> Iterator[Finding]:
    for node in view.nodes:
        domain, kind = operator(node)
        if domain == "com.microsoft" and kind in _RUNTIME_ONLY:
            yield Finding(node)


def _left_float(view: View) -> Iterator[Finding]:
    if not any(operator(node)[1] in _CODED for node in view.nodes):
        return
    for layer in view.layers:
        weight = given(layer.node, 1)
        if layer.left is not None or layer.right is not None or not is_constant(weight):
            continue
        sizes = dims(weight) or ()
        tensor = constant_tensor(weight)
        if tensor is not None and tensor.size >= _SMALL and layer.node.op_type in _PRODUCTS:
            yield Finding(layer.node, f"a float weight {list(sizes)}")


def _widened(view: View) -> Iterator[Finding]:
    for node in view.of("DequantizeLinear"):
        tensor = constant_tensor(given(node, 0))
        if tensor is None or tensor.size < _SMALL:
            continue
        readers = consumers(node.outputs[0])
        plain = [r for r in readers if not _takes_codes(r)]
        if plain:
            kinds = ", ".join(sorted({reader.op_type for reader in plain}))
            yield Finding(node, f"{list(tensor.shape)}, read by {kinds}")


def _takes_codes(reader: ir.Node) -> bool:
    if reader.op_type in _PRODUCTS | TRANSPARENT | _LOOKED_AT:
        return True
    rounded = reader.op_type in INTEGER_FORMS and len(reader.outputs) == 1
    return rounded and quantizer_behind(reader.outputs[0]) is not None


def _merged_norms(view: View) -> Iterator[Finding]:
    for node in view.of("LayerNormalization"):
        add = producer(given(node, 0), "Add")
        if add is None or rank(given(node, 0)) != 3 or any(map(is_constant, add.inputs)):
            continue
        yield Finding(node, f"merged with {label(add)}")


def label(node: ir.Node) -> str:
    """A node by its name, or by its output."""
    return node.name or str(node.outputs[0].name)


RULES = (
    Rule(
        "machine-specific-file",
        "Operators that ONNX Runtime's optimiser puts in for the machine that it runs on.",
        _machine,
        "the file was saved after optimisation at ORT_ENABLE_ALL: weights lie as that machine's "
        "vector units want them, other machines and runtimes refuse it or compute it slowly, and "
        "quantizers do not know its layers and leave them float",
        "go back to the model that was optimised, and let each machine optimise as it loads it; "
        "or save at ORT_ENABLE_BASIC",
        "error",
        everywhere,
    ),
    Rule(
        "optimised-file",
        "Operators that only ONNX Runtime's optimiser writes.",
        _optimised,
        "the file was saved after optimisation: the choices of one version of the runtime are "
        "fixed in it, no other runtime takes it, and quantizers do not know its layers",
        "go back to the model that was optimised: the runtime does this each time it loads it",
        "note",
        everywhere,
    ),
    Rule(
        "layer-left-float",
        "Layers with a float weight in a model of which others are quantized.",
        _left_float,
        "the layer is computed in float, between others that are not: it costs what it did "
        "before quantization",
        "quantize it, too, where accuracy allows; a model compiled by planish says why it did not",
        "note",
        everywhere,
    ),
    Rule(
        "norm-merged-with-add",
        "Add in front of LayerNormalization, on three axes.",
        _merged_norms,
        "the runtime merges them to a SkipLayerNormalization, which takes longer than the two "
        "(tried with 1.31 on Zen 5: a sixth of MiniLM's time in float, a quarter in int8)",
        "write the Add as a Sum of two, which is not merged; compile does where it pays",
        "note",
        on_cpu,
    ),
    Rule(
        "constant-dequantized",
        "Large constants behind DequantizeLinear that no layer multiplies by.",
        _widened,
        "nothing computes with their codes, and the runtime does not fold a DequantizeLinear: "
        "they are widened on every run",
        "store that constant in float",
        "slow",
        on_cpu,
    ),
)
