"""What a backend is: how a build for one runtime is lowered, emitted, checked and handed over.

A compile asks the table (``table.py``) once which backend serves its target; everything that hangs
on the runtime is a method or a field here. The defaults make the least backend there is: the graph
as the passes left it, run here by ONNX Runtime's CPU provider in the place of the target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import onnx_ir as ir

from ...ir.provenance import Edit, Remark
from ...ir.rewriter import Rewriter
from ...targets.runtimes import label
from ...targets.schema import Target

if TYPE_CHECKING:
    from ...targets.runtime import Session
    from ..context import CompileContext
    from ..data.feedset import FeedSet
    from ..result import CompileResult

    Feeds = FeedSet | Sequence[Mapping[str, np.ndarray]]

SITE = "graph"
"""The site under which a conversion of all floats is reported, and given back."""


@dataclass(frozen=True)
class Legalised:
    """One rewrite for a runtime: the value it concerns and why it was needed."""

    value: str
    code: str
    sentence: str


@dataclass(frozen=True)
class Emission:
    """What is handed over, and what is said of it.

    reference: what is run here in the place of ``model``; None where the model itself is. edits,
    remarks: of the conversion. checks: what was checked, a sentence each. broken: why the model
    must not ship as it is, "" where nothing speaks against it.
    """

    model: ir.Model
    reference: ir.Model | None = None
    edits: tuple[Edit, ...] = ()
    remarks: tuple[Remark, ...] = ()
    checks: tuple[str, ...] = ()
    broken: str = ""


class Emitter(Protocol):
    """Emits each build of one compile; it may keep what it measured of earlier ones."""

    def emit(self, lowered: ir.Model, wide: bool) -> Emission:
        """What is handed over of a lowered graph, which it does not change.

        wide: floats stay as they are: converting them cost too much. Raises TargetError.
        """
        ...


class AsItIs:
    """The emitter that hands a graph over as it was lowered."""

    def emit(self, lowered: ir.Model, wide: bool) -> Emission:
        """The graph itself."""
        return Emission(lowered)


class Backend:
    """A way to build for one runtime. Subclasses set the first fields and override what they need.

    name: as messages and the table know it. runtime, provider: what a target's ``[runtime]`` holds.
    opsets: those it wants models raised to, the best first; the last is the least that will do.
    narrows: under which name its conversion of floats to a narrower type is reported and given
    back, "" where it makes none. verbatim: whether the user's own file may be handed over where
    nothing pays. whole: whether it has to run whole models, which large ones may be too large for.
    profiled: whether it builds for ranges of shapes (``--profile``).
    """

    name: ClassVar[str] = ""
    runtime: ClassVar[str] = ""
    provider: ClassVar[str] = ""
    opsets: ClassVar[tuple[int, ...]] = (13,)
    narrows: ClassVar[str] = ""
    verbatim: ClassVar[bool] = False
    whole: ClassVar[bool] = True
    profiled: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """Of the runtime, as sentences name it."""
        return label(self.served)

    @property
    def served(self) -> tuple[str, str]:
        """Runtime and provider."""
        return self.runtime, self.provider

    def legalise(self, rewriter: Rewriter, target: Target) -> Sequence[Legalised]:
        """Rewrite the graph for the runtime; what was done.

        Raises TargetError for what the runtime cannot take.
        """
        return ()

    def emitter(self, context: CompileContext, original: Session | None, holdout: Feeds) -> Emitter:
        """What emits the builds of a compile. original, holdout: the model before, and feeds to
        compare with it; none where no whole model is run."""
        return AsItIs()

    def elsewhere(self, target: Target) -> str:
        """Why this machine cannot be the target, whatever it has; "" where it may be."""
        return f"{target.runtime.name} does not run what is compiled here"

    def finish(self, result: CompileResult, folder: Path) -> CompileResult:
        """Write what else belongs to the artifact, beside model.onnx, and say what came of it.

        Raises PlanishError where it cannot: then there is no artifact.
        """
        return result
