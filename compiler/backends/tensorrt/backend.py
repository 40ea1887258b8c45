"""The backend for TensorRT: typed models with the kit that builds engines of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ....ir.rewriter import Rewriter
from ....targets.schema import Target
from ...reporting.kit import write_kit
from ...reporting.provider import with_tensorrt
from ..backend import Backend, Emitter, Legalised
from ..providers import tried
from .building import with_engine
from .emission import PASS
from .emission import Emitter as TypedEmitter
from .lowering import lower
from .precision import QDQ_OPSET
from .presence import find_gpu

if TYPE_CHECKING:
    from ....targets.runtime import Session
    from ...context import CompileContext
    from ...result import CompileResult
    from ..backend import Feeds


class TensorRT(Backend):
    """A strongly typed model, its float32 twin to run here, scripts that build an engine."""

    name = "tensorrt"
    runtime, provider = "tensorrt", ""
    opsets = (QDQ_OPSET, 13)
    narrows = PASS
    profiled = True

    def legalise(self, rewriter: Rewriter, target: Target) -> Sequence[Legalised]:
        return lower(rewriter, target)

    def emitter(self, context: CompileContext, original: Session | None, holdout: Feeds) -> Emitter:
        return TypedEmitter(context, original, holdout)

    def elsewhere(self, target: Target) -> str:
        return f"engines for {target.name} are built and run there, by the kit in the artifact"

    def finish(self, result: CompileResult, folder: Path) -> CompileResult:
        assert result.engine is not None, "TensorRT builds engines"
        write_kit(result.engine, folder)
        found = tried(replace(result, provider=with_tensorrt(result, folder)), folder)
        return found if result.engine.built else with_engine(found, folder, str(find_gpu()))
