"""The backend for ONNX Runtime's CUDA provider: half precision, and weights of few bits.

Never Q/DQ in 8 bits: the provider has no kernels for it. What is converted, and what stays
float32, is decided as for TensorRT: by ranges measured on calibration data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from ...ir.errors import TargetError
from ...ir.graph import all_nodes, attribute, given, is_constant, operator
from ...ir.nbits import GATHER, MATMUL
from ...ir.rewriter import Rewriter
from ...targets.schema import Target
from ..reporting.provider import with_cuda
from .backend import Backend, Emitter, Legalised
from .providers import tried
from .tensorrt.emission import Emitter as TypedEmitter
from .tensorrt.masks import bounded_masks
from .tensorrt.precision import MICROSOFT, QDQ_OPSET

if TYPE_CHECKING:
    from ...targets.runtime import Session
    from ..context import CompileContext
    from ..result import CompileResult
    from .backend import Feeds

PASS = "onnxruntime-cuda"
UNWANTED = frozenset({"cuda-float-kernel"})
"""Rules that send a node back to float32: better there on the GPU than in float16 on the CPU."""


class OnnxRuntimeCuda(Backend):
    """A model in half precision, its float32 twin to run where there is no GPU, and options."""

    name = "onnxruntime-cuda"
    runtime, provider = "onnxruntime", "CUDAExecutionProvider"
    opsets = (QDQ_OPSET, 13)
    narrows = PASS

    def legalise(self, rewriter: Rewriter, target: Target) -> Sequence[Legalised]:
        refuse_rounding(rewriter.model, target)
        state_types(rewriter)
        return tuple(bounded_masks(rewriter)) if target.floats.float16 == "native" else ()

    def emitter(self, context: CompileContext, original: Session | None, holdout: Feeds) -> Emitter:
        return TypedEmitter(context, original, holdout, PASS, UNWANTED)

    def elsewhere(self, target: Target) -> str:
        return f"models for {target.name} are run there, by verify.py of the artifact"

    def finish(self, result: CompileResult, folder: Path) -> CompileResult:
        return tried(replace(result, provider=with_cuda(result, folder)), folder)


def refuse_rounding(model: ir.Model, target: Target) -> None:
    """Raise TargetError where the model that came in rounds activations to 8 bits."""
    found = [
        node
        for node in all_nodes(model)
        if operator(node) == ("", "QuantizeLinear") and not is_constant(node.inputs[0])
    ]
    if not found:
        return
    raise TargetError(
        f"the model rounds activations ({len(found)} QuantizeLinear, the first is "
        f"{found[0].name!r}), and the CUDA provider multiplies no 8-bit integers: on {target.name} "
        "it would run slower than the float model",
        where=f"node {found[0].name!r}",
        hint="compile the float model that it was made of; int8 on NVIDIA GPUs takes TensorRT: "
        "compile for a target without -onnxruntime",
    )


def state_types(rewriter: Rewriter) -> None:
    """Declare what packed layers and the casts behind them make: ONNX infers nothing of those."""
    for node in rewriter.graph:
        value = node.outputs[0] if node.outputs else None
        if value is None or value.dtype is not None:
            continue
        made, shape = _made(node)
        if made is not None:
            rewriter.set_type(value, made, value.shape or shape)


def _made(node: ir.Node) -> tuple[ir.DataType | None, ir.Shape | None]:
    """The type of a node's first output, where it is a packed layer or a cast; None else."""
    first = node.inputs[0] if node.inputs else None
    if operator(node) == ("", "Cast"):
        return ir.DataType(attribute(node, "to")), None if first is None else first.shape
    if operator(node) == (MICROSOFT, MATMUL) and first is not None:
        sizes = () if first.shape is None else (*first.shape[:-1], attribute(node, "N"))
        return first.dtype, ir.Shape(sizes) if sizes else None
    if operator(node) == (MICROSOFT, GATHER):
        scales = given(node, 2)
        return None if scales is None else scales.dtype, None
    return None, None
