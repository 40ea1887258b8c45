"""The backend for ONNX Runtime's CPU provider, which runs here and everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.rewriter import Rewriter
from ...targets.schema import Target
from .backend import Backend, Legalised
from .legalise import legalise


class OnnxRuntimeCpu(Backend):
    """Q/DQ graphs and packed weights, spelled so that the provider's integer kernels take them."""

    name = "onnxruntime-cpu"
    runtime, provider = "onnxruntime", "CPUExecutionProvider"
    verbatim = True
    whole = False

    def legalise(self, rewriter: Rewriter, target: Target) -> Sequence[Legalised]:
        return legalise(rewriter)

    def elsewhere(self, target: Target) -> str:
        return ""
