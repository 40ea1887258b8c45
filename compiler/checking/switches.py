"""How much each edit of a pass moves the model's outputs, measured in one session.

Every perturbation is built into one copy of the graph behind a switch, a boolean input: new
weights and rounded activations go through ``Where``. A run with one switch on says what that edit
alone does to the outputs, which the error of its own region does not: what follows may damp it,
or amplify it. Errors of several edits add up, nearly, as they have little to do with each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ...ir.errors import PassError
from ...ir.graph import consumers
from ...ir.region import region_nodes
from ...ir.rewriter import Rewriter
from ...passes.api import FakeQuant, Perturbation
from ..execution import running
from ..quality.driftmeter import DriftMeter, Mask, OutputDrift
from .regions import rounded

PREFIX = "planish.switch"
Arrays = Mapping[str, np.ndarray]
Feeds = Sequence[tuple[Arrays, Mask]]
"""Inputs by name, and which rows of the outputs count (None: all)."""


def output_changes(
    model: ir.Model, perturbations: Sequence[Perturbation], feeds: Feeds, threads: int = 0
) -> list[float]:
    """For each perturbation, alone, the relative squared error of the output that it moves most.

    Infinity where an output is not finite any more. Raises PassError where a region is not closed
    or not of the main graph, TargetError where the runtime does not take the graph.
    """
    board, switches = switchboard(model, perturbations)
    with running(board, threads=threads) as session:
        off = dict.fromkeys(switches, np.asarray(False))
        before = [session.run({**feed, **off}) for feed, _ in feeds]
        found = []
        for switch in switches:
            on, meter = {**off, switch: np.asarray(True)}, DriftMeter(session.output_names)
            for (feed, mask), wanted in zip(feeds, before, strict=True):
                meter.add(wanted, session.run({**feed, **on}), mask)
            found.append(max(map(_moved, meter.result().outputs), default=0.0))
    return found


def _moved(drift: OutputDrift) -> float:
    """Noise over signal; the share of rows that differ of an output of no floats."""
    if drift.non_finite or drift.reshaped:
        return float("inf")
    if drift.sqnr_db is None:
        return 0.0 if drift.top1 is None else 1.0 - drift.top1 / 100.0
    return float(10.0 ** (-drift.sqnr_db / 10.0))


def switchboard(
    model: ir.Model, perturbations: Sequence[Perturbation]
) -> tuple[ir.Model, tuple[str, ...]]:
    """A copy with every perturbation behind a boolean input of its own, and those inputs' names.

    With all of them off it computes what the model does. Tensors are shared.
    """
    board = _Board(model.clone())
    regions = [
        region_nodes([board.value(n) for n in p.inputs], [board.value(n) for n in p.outputs])
        for p in perturbations
    ]
    names = []
    for number, (perturbation, region) in enumerate(zip(perturbations, regions, strict=True)):
        switch = board.switch(f"{PREFIX}.{number}")
        names.append(str(switch.name))
        for name, array in perturbation.tensors.items():
            board.replace(name, array, switch)
        for name, quant in perturbation.fake_quants.items():
            inner = region if name in perturbation.inputs else None
            board.round(board.value(name), quant, switch, inner)
    return board.model, tuple(names)


@dataclass
class _Board:
    """The copy at work. stands_for: of a value behind a switch, the one that it was made from."""

    model: ir.Model
    rewriter: Rewriter = field(init=False)
    values: dict[str, ir.Value] = field(init=False)
    stored: dict[str, ir.Value] = field(init=False)
    first: ir.Node = field(init=False)
    stands_for: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.rewriter, self.first = Rewriter(self.model), next(iter(graph))
        self.values = {str(v.name): v for v in graph.inputs}
        self.values.update({str(o.name): o for node in graph for o in node.outputs})
        self.stored = dict(graph.initializers)

    def switch(self, name: str) -> ir.Value:
        """A new boolean input."""
        value = ir.Value(name=name, type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
        self.model.graph.inputs.append(value)
        return value

    def value(self, name: str) -> ir.Value:
        """An input or a computed value of the main graph. Raises PassError for any other."""
        if name not in self.values:
            raise PassError(f"no value of the main graph is called {name!r}")
        return self.values[name]

    def replace(self, name: str, array: np.ndarray, switch: ir.Value) -> None:
        """All readers of a stored tensor get other contents where the switch is on."""
        if name not in self.stored:
            raise PassError(f"no tensor of the main graph is called {name!r}")
        stored = self.stored[name]
        users, new = consumers(stored), self.rewriter.initializer("changed", array)
        node = self.rewriter.insert("Where", [switch, new, stored], before=self.first)
        self.rewriter.replace_uses(stored, node.outputs[0], only=users)
        self.stored[name] = node.outputs[0]

    def round(
        self,
        value: ir.Value,
        quant: FakeQuant,
        switch: ir.Value,
        region: Iterable[ir.Node] | None,
    ) -> None:
        """The readers of a value in the region (None: all) get it rounded."""
        readers = consumers(value) if region is None else list(region)
        read = dict.fromkeys(v for node in readers for v in node.inputs if v is not None)
        same = [v for v in read if self.stands_for.get(v, v) is value]
        for now in same if region is not None else [value]:
            made = now.producer()
            before, after = (self.first, None) if made is None else (None, made)
            view = rounded(self.rewriter, now, quant, before=before, after=after)
            node = self.rewriter.insert("Where", [switch, view, now], after=view.producer())
            self.stands_for[node.outputs[0]] = value
            users = [reader for reader in readers if now in reader.inputs]
            self.rewriter.replace_uses(now, node.outputs[0], only=users)
            if region is None and now.is_graph_output():
                outputs = self.model.graph.outputs
                outputs[list(outputs).index(now)] = node.outputs[0]
