"""Why a layer keeps its weights: stable codes and sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import onnx_ir as ir

from ...ir.facts import FLOAT, QUANTIZED, has_pattern
from ...ir.graph import constant_tensor
from ...ir.sites import Site
from ...targets.schema import Target
from ...targets.techniques import sparse_support
from ..api import Context
from ..cutting.consumers import FITTED, UnfitError
from ..math.sparse import Pattern
from ..quantizing.layers import refuse_any, uneven_shape
from .layers import Layer

Shape = Literal["2:4", "1:4", "4:8", "2:8", "unstructured", "block"]
STORAGE = ("unstructured", "block")
"""Zeros that no kernel skips: files that are compressed become smaller, and nothing else."""
_KERNELS = {
    ir.DataType.FLOAT: "tf32",
    ir.DataType.FLOAT16: "fp16",
    ir.DataType.BFLOAT16: "bf16",
}
"""Which products compute weights of a dtype on tensor cores; fewer bits come later."""
_WITHOUT = "codes=none gives it zeros alone"
_OPERATORS = {"linear": ("MatMul", "Gemm"), "conv": ("Conv",)}

Reason = tuple[str, str]
"""A code and a sentence."""


def unfit(site: Site) -> Reason | None:
    """The first reason that has to do with the layer alone, None where there is none."""
    return next(_unfit(site), None)


def _unfit(site: Site) -> Iterator[Reason]:
    tensor, known = constant_tensor(site.weight), _OPERATORS[site.kind]
    if QUANTIZED in site.facts:
        yield "already-quantized", "its weight has 8 bits or fewer; zeros come before that"
    if FLOAT not in site.facts:
        yield "not-float", "the layer is not in float any more"
    if site.nested or len({use.nodes[0].graph for use in site.uses}) > 1:
        yield "subgraph", "it stands inside a branch or a loop, where nothing is observed"
    others = {use.nodes[0].op_type for use in site.uses} - set(known)
    if others:
        yield "unsupported-op", f"no kernel for zeros computes {min(others)}"
    if tensor is None or tensor.dtype not in FITTED:
        found = "not constant" if tensor is None else tensor.dtype.name.lower()
        yield "dtype", f"its weight is {found}"
    if any(node.op_type != "Transpose" for use in site.uses for node in use.weight_path):
        yield "not-canonical", "its weight stands behind a reshape or a cast"
    if site.ties:
        yield "tied", f"its weight is also that of {site.ties[0]}"
    if site.weight is not None and len(site.weight.uses()) > len(site.uses):
        yield "shared", "other nodes read its weight, too"
    if site.weight is not None and not site.weight.is_initializer():
        yield "not-canonical", "its weight is no initializer"


def no_kernel(pattern: Shape, target: Target) -> Reason | None:
    """Why the target gains nothing from a pattern, whatever the layer."""
    if pattern in STORAGE:
        return None
    found = sparse_support(pattern, target)
    return None if found.supported else (found.code, found.sentence)


def no_codes(site: Site, ctx: Context) -> Reason | None:
    """Why ``quantize`` would not multiply by the codes of a layer, None where it would."""
    target, dtypes = ctx.target, ctx.target.sparse.dtypes
    if dtypes is not None and "int8" not in dtypes:
        known = f"{target.name} skips zeros in {', '.join(dtypes)} alone"
        return "no-int8-kernel", f"{known}: {_WITHOUT}"
    if target.int8.supported and (target.int8.saturates or target.int8.weight_bits != 8):
        return "no-int8-kernel", f"{target.name} does not take all 8 bits: {_WITHOUT}"
    left = refuse_any(site, ctx)
    if left is not None:
        return left.code, f"quantize leaves it float, since {left.sentence}: {_WITHOUT}"
    if uneven := uneven_shape(site, target):
        return "uneven-shape", f"quantize leaves it float, since {uneven}: {_WITHOUT}"
    return None


def no_gain(layer: Layer, pattern: Shape, target: Target, *, small: bool) -> Reason | None:
    """Why kernels of the target would take the layer as a dense one, None where they would not."""
    return next(_no_gain(layer, pattern, target, small), None)


def _no_gain(layer: Layer, pattern: Shape, target: Target, small: bool) -> Iterator[Reason]:
    tensor, known = constant_tensor(layer.site.weight), target.sparse
    if pattern in STORAGE:
        return
    assert tensor is not None
    if has_pattern(layer.site.facts, pattern):
        yield "already-sparse", f"its weight has the pattern {pattern} already"
    group = Pattern.of(pattern).group
    if layer.channels % group:
        yield "ragged", f"its {layer.channels} input channels do not fall into groups of {group}"
    kernel = _KERNELS.get(tensor.dtype)
    if known.dtypes is not None and kernel not in known.dtypes:
        held = ", ".join(known.dtypes)
        yield "dtype", f"its weight is {tensor.dtype.name.lower()}; kernels for zeros take {held}"
    inputs, outputs = layer.size
    if known.inputs is not None and layer.channels % known.inputs:
        yield "multiple", f"kernels want a multiple of {known.inputs} inputs, not {layer.channels}"
    if known.outputs is not None and outputs % known.outputs:
        yield "multiple", f"kernels want a multiple of {known.outputs} outputs, not {outputs}"
    least = known.min_size
    if not small and least is not None and min(inputs, outputs) < least:
        said = f"a {inputs}x{outputs} product is smaller than {least} on a side"
        yield "too-small", f"{said}: dense kernels are as fast there; small=true takes it"


def layer_of(site: Site) -> Layer | Reason:
    """The layer, or why its weight cannot be read as a matrix."""
    try:
        return Layer.of(site)
    except UnfitError as reason:
        return reason.code, str(reason)
