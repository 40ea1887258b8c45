"""Small graphs as text, run and compiled: what the tests of passes share.

Tests get this module through the fixture ``graphs``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from planish.compiler.calibration.observers import Masking
from planish.compiler.context import CompileContext
from planish.compiler.data.feeds import load_feeds
from planish.compiler.execution import running
from planish.compiler.instruments import Instrument, RegionCheck, VerifyEach
from planish.compiler.manager import PassManager, PassOutcome
from planish.compiler.progress import Silent
from planish.ir.digest import contents_digest
from planish.ir.load import load_model
from planish.ir.provenance import Remark
from planish.ir.rewriter import Rewriter
from planish.ir.signature import Signature
from planish.ir.verify import violations
from planish.passes.api import pass_class
from planish.targets.loader import load_target

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]


def parse(text: str, **tensors: Array) -> ir.Model:
    """The graph, its shapes inferred and its origins stamped; ``tensors`` are its weights."""
    made = [ir.tensor(array, name=name) for name, array in tensors.items()]
    return load_model(ir.from_onnx_text(text, initializers=made)).model


def run(model: ir.Model, feeds: Feeds, optimize: Any = "none") -> dict[str, Array]:
    """The outputs by name, in ONNX Runtime."""
    with running(model, optimize=optimize, threads=1) as session:
        return dict(zip(session.output_names, session.run(feeds), strict=True))


def node(model: ir.Model, name: str) -> ir.Node:
    return next(n for n in model.graph.all_nodes() if n.name == name)


def value(model: ir.Model, name: str) -> ir.Value:
    """An input, an initializer or what a node computes."""
    known = [*model.graph.inputs, *model.graph.initializers.values()]
    known += [output for n in model.graph for output in n.outputs]
    return next(v for v in known if v.name == name)


def ops(model: ir.Model) -> list[str]:
    return [n.op_type for n in model.graph]


def lines(model: ir.Model) -> list[str]:
    """The nodes as text, for comparison with a graph written down: ``y = Add(x, w)``."""
    return [
        f"{', '.join(str(o.name) for o in n.outputs)} = {n.op_type}"
        f"({', '.join('' if v is None else str(v.name) for v in n.inputs)})"
        for n in model.graph
    ]


def snapshot(model: ir.Model) -> dict[str, Any]:
    """All that a rollback must restore: contents, names, order, types and shapes."""
    return {
        "digest": contents_digest(model),
        "nodes": [n.name for n in model.graph],
        "lines": lines(model),
        "initializers": list(model.graph.initializers),
        "inputs": [v.name for v in model.graph.inputs],
        "outputs": [v.name for v in model.graph.outputs],
        "types": [(o.name, str(o.type), str(o.shape)) for n in model.graph for o in n.outputs],
        "attributes": [(n.name, sorted(n.attributes)) for n in model.graph],
        "opsets": dict(model.opset_imports),
    }


@dataclass
class Bench:
    """One graph, its calibration feeds, and the passes that run on it."""

    model: ir.Model
    feeds: Sequence[Feeds]
    target: str = "x86-avx512-vnni"
    calibrated: bool = True
    masking: Masking | None = None
    instruments: list[Instrument] = field(default_factory=list)

    def __post_init__(self) -> None:
        signature = Signature.of(self.model)
        self.rewriter = Rewriter(self.model)
        self.context = CompileContext(
            load_target(self.target), self.model, load_feeds(list(self.feeds), signature),
            self.calibrated, self.masking, 1, Silent(),
        )  # fmt: skip
        instruments = [VerifyEach(signature), RegionCheck(), *self.instruments]
        self.manager = PassManager(self.rewriter, self.context, instruments)

    def run(self, name: str, selector: tuple[str, ...] = (), **options: Any) -> PassOutcome:
        """Run a pass under the structural and the numeric check; the graph verifies after it."""
        made = pass_class(name)
        outcome = self.manager.run(made(made.Options(**options)), selector=selector)
        assert violations(self.model) == []
        return outcome

    def remarks(self, kind: str) -> dict[str, Remark]:
        """By site, the last remark of a kind."""
        return {r.site: r for r in self.context.remarks if r.kind == kind}

    def refusals(self) -> dict[str, str]:
        """Codes by site."""
        return {site: remark.code for site, remark in self.remarks("refused").items()}

    def outputs(self, feeds: Feeds, optimize: Any = "none") -> dict[str, Array]:
        return run(self.model, feeds, optimize)
