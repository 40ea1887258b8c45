"""Milliseconds of a run on a target, predicted node by node from what is known of the target.

Measured tables first, rates and bandwidth where there are none, and no number where there is
neither: each figure says which it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, Literal

import onnx_ir as ir

from ...ir.graph import subgraphs
from ...ir.sites import find_sites
from ...ir.types.bound import Shapes
from ..schema import Target
from ..techniques import runs_on_tensorrt
from .fusion import fuse
from .groups import Fusion
from .kernels import Work, work_of
from .measured import Measured
from .roofline import Bound, Roof, roofline
from .sizes import Part, UnknownSizeError
from .tables import Grid, Reading, grid, of_threads
from .typed import float_rate, kernels, typed_roof

Basis = Literal["measured", "estimated", "unknown"]

WORST: tuple[Basis, ...] = ("measured", "estimated", "unknown")
"""From the best to the worst."""
_EMPTY = 1024  # elements below which a stream costs what an empty node does
_LOOPS = frozenset({"Loop", "Scan"})


@dataclass(frozen=True)
class Predicted:
    """One node. site: the layer that it belongs to, "" for none. ms: None where unknown, 0 where
    the runtime runs it as part of another node."""

    node: str
    op: str
    site: str
    ms: float | None
    basis: Basis
    bound: Bound

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Prediction:
    """A whole run. nodes: in graph order. ms: None where a node is unknown; with ``measured``
    tables the correction fitted on whole models is in it. basis: the weakest of the nodes'.
    known_ms: the sum of the known nodes. note: what the basis means here, a sentence."""

    nodes: tuple[Predicted, ...]
    ms: float | None
    basis: Basis
    note: str
    known_ms: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**vars(self), "nodes": [node.to_json() for node in self.nodes]}


def predict(model: ir.Model, target: Target, shapes: Shapes, threads: int = 0) -> Prediction:
    """The time of one run of a model as it stands, for sizes from ``ir.types.bound.bound_shapes``.

    threads: of the runtime, 0: one a core. What the runtime fuses counts as one kernel.
    """
    machine = _Machine(target, threads, _weight_bytes(model))
    sites = _site_names(model)
    nodes = tuple(_nodes(list(model.graph), machine, shapes, sites))
    return _total(nodes, machine)


LayerSize = tuple[str, int, int]
"""Table of float32 products or convolutions, K, N."""


def layers_ms(
    target: Target, rows: int, layers: Sequence[LayerSize], *, threads: int = 0, weights: int = 0
) -> float | None:
    """Milliseconds of float32 layers of these sizes, one after the other; None where unknown.

    weights: bytes of all constants of the model that they stand in.
    """
    machine, total = _Machine(target, threads, weights), 0.0
    for table, inputs, outputs in layers:
        held = 4 * inputs * outputs
        moved = held + 4 * rows * (inputs + outputs)
        parts = (Part(table, (rows, inputs, outputs)),)
        work = Work(parts, False, 2 * rows * inputs * outputs, "fp32", held, moved)
        found = _from_tables(work, machine) or roofline(work, target, threads)
        if found is None:
            return None
        total += found.ms if isinstance(found, Roof) else found[0]
    return total


def _site_names(model: ir.Model) -> dict[ir.Node, str]:
    """The layer that a node belongs to, else the block around it."""
    sites = find_sites(model)
    blocks = {node: site.name for site in sites if not site.uses for node in site.nodes}
    return {**blocks, **{node: site.name for node, site in sites.by_node.items()}}


@dataclass(frozen=True)
class _Machine:
    """A target for one count of threads and one model. weights: bytes of all its constants."""

    target: Target
    threads: int
    weights: int

    @property
    def measured(self) -> Measured | None:
        return self.target.measured

    @cached_property
    def count(self) -> int:
        """Threads, one a core where none were asked for."""
        counts = [int(row[0]) for row in self.measured.node] if self.measured else []
        return self.threads or self.target.cores or max(counts, default=1)

    @cached_property
    def exact(self) -> bool:
        """Whether this count of threads was measured."""
        return self.measured is not None and of_threads(self.measured.node, self.count)[1]

    @cached_property
    def grids(self) -> dict[str, Grid | None]:
        return {}

    def grid(self, table: str) -> Grid | None:
        """The table of that name for this count of threads."""
        if table not in self.grids:
            group, _, name = table.partition(".")
            held = getattr(self.measured, group, ()) if self.measured else ()
            rows = getattr(held, name, ()) if name else held
            self.grids[table] = grid(of_threads(rows, self.count)[0])
        return self.grids[table]

    def figure(self, table: str, *key: float) -> Reading | None:
        found = self.grid(table)
        return None if found is None else found.at(key)


def _nodes(
    nodes: Sequence[ir.Node], machine: _Machine, shapes: Shapes, sites: dict[ir.Node, str]
) -> Iterable[Predicted]:
    if runs_on_tensorrt(machine.target):
        yield from _typed_nodes(nodes, machine, shapes, sites)
        return
    fusion = fuse(nodes, shapes)
    for node in nodes:
        site = sites.get(node, "")
        if node in fusion.gone:
            yield Predicted(str(node.name), node.op_type, site, 0.0, "measured", "")
        elif any(True for _ in subgraphs(node)):
            yield _with_bodies(node, machine, shapes, site)
        else:
            yield _node(node, machine, shapes, site, fusion)


def _typed_nodes(
    nodes: Sequence[ir.Node], machine: _Machine, shapes: Shapes, sites: dict[ir.Node, str]
) -> Iterable[Predicted]:
    """As TensorRT runs them: a kernel's time stands at its first node."""
    found = kernels(nodes)
    for node in nodes:
        site, name = sites.get(node, ""), str(node.name)
        if node in found.gone:
            yield Predicted(name, node.op_type, site, 0.0, "measured", "")
        elif any(True for _ in subgraphs(node)):
            yield _with_bodies(node, machine, shapes, site)
        else:
            roof = typed_roof(found.nodes[node], shapes, machine.target)
            yield _estimated(node, site, roof)


def _estimated(node: ir.Node, site: str, roof: Roof | None) -> Predicted:
    name = str(node.name)
    if roof is None:
        return Predicted(name, node.op_type, site, None, "unknown", "")
    return Predicted(name, node.op_type, site, roof.ms, "estimated", roof.bound)


def _node(node: ir.Node, machine: _Machine, shapes: Shapes, site: str, fusion: Fusion) -> Predicted:
    name = str(node.name)
    try:
        work = work_of(node, shapes, fusion.kernel.get(node), fusion.copies.get(node, 1))
    except (UnknownSizeError, IndexError, ValueError):
        return Predicted(name, node.op_type, site, None, "unknown", "")
    if machine.target.device == "gpu" and work.numbers == "fp32":
        work = replace(work, numbers=float_rate(node, machine.target))
    found = _from_tables(work, machine)
    if found is not None:
        return Predicted(name, node.op_type, site, *found)
    return _estimated(node, site, roofline(work, machine.target, machine.threads))


def _with_bodies(node: ir.Node, machine: _Machine, shapes: Shapes, site: str) -> Predicted:
    """The longest branch of an If. How often a loop turns is not known."""
    unknown = Predicted(str(node.name), node.op_type, site, None, "unknown", "")
    if node.op_type in _LOOPS:
        return unknown
    branches = [list(_nodes(list(g), machine, shapes, {})) for g in subgraphs(node)]
    totals = [_sum(branch) for branch in branches]
    known = [total for total in totals if total is not None]
    if not known or len(known) < len(totals):
        return unknown
    return Predicted(str(node.name), node.op_type, site, max(known), "estimated", "")


def _from_tables(work: Work, machine: _Machine) -> tuple[float, Basis, Bound] | None:
    """Milliseconds of the parts, at least the time to read the weights; None without tables."""
    if machine.measured is None:
        return None
    readings = [_part(part, machine) for part in work.parts]
    known = [(r, p.times) for r, p in zip(readings, work.parts, strict=True) if r is not None]
    empty = machine.figure("node")
    if len(known) < len(readings) or empty is None:
        return None
    us = sum(reading.value * times for reading, times in known)
    reading_us = _weights_us(work, machine)
    inside = machine.exact and not work.like and all(reading.inside for reading, _ in known)
    basis: Basis = "measured" if inside else "estimated"
    if us <= 2 * empty.value:
        return us / 1e3, basis, "overhead"
    streams = work.parts[0].table.startswith("streams.")
    memory = streams or reading_us >= us
    return max(us, reading_us) / 1e3, basis, "memory" if memory else "compute"


def _part(part: Part, machine: _Machine) -> Reading | None:
    if part.table == "node":
        return machine.figure("node")
    table = machine.grid(part.table)
    if table is None:
        return None
    streams = part.table.startswith("streams.")
    key: tuple[float, ...] = part.key
    if streams and len(key) == 2:
        # A row that is longer than any that was measured is several of the longest.
        longest = table.axes[1][-1]
        key = (key[0] * max(1.0, key[1] / longest), min(key[1], longest))
    found = table.at(key)
    # Below the smallest stream a node costs what an empty one does: that was measured, too.
    small = streams and prod(part.key) < _EMPTY
    return Reading(found.value, found.inside or small)


def _weights_us(work: Work, machine: _Machine) -> float:
    """Microseconds to read the node's weights when the whole model's pass through the caches."""
    if not work.weights:
        return 0.0
    speed = machine.figure("bandwidth", max(1, machine.weights))
    return 0.0 if speed is None else work.weights / (speed.value * 1e3)


def _total(nodes: tuple[Predicted, ...], machine: _Machine) -> Prediction:
    known = sum(node.ms for node in nodes if node.ms is not None)
    missing = Counter(node.op for node in nodes if node.ms is None)
    if missing:
        return Prediction(nodes, None, "unknown", _unknown_note(machine, missing), known)
    bases: list[Basis] = ["measured", *(node.basis for node in nodes)]
    basis = max(bases, key=WORST.index)
    return Prediction(nodes, _corrected(known, machine), basis, _note(nodes, machine, known), known)


def _corrected(ms: float, machine: _Machine) -> float:
    """With what lies around nodes: a + b times their sum."""
    if machine.measured is None:
        return ms
    rows, _ = of_threads(machine.measured.correction, machine.count)
    if rows:
        return rows[0][0] / 1e3 + rows[0][1] * ms
    call = machine.figure("call")
    return ms + (0.0 if call is None else call.value / 1e3)


def _note(nodes: Sequence[Predicted], machine: _Machine, total: float) -> str:
    if machine.measured is None:
        return "estimated from rates and bandwidth: a lower bound, overheads are not in it"
    sure = sum(n.ms for n in nodes if n.ms is not None and n.basis == "measured")
    share = f"{sure / total:.0%} of it inside measured tables" if total else "nothing is computed"
    when = f"{machine.measured.date}, {machine.measured.runtime}"
    apart = "" if machine.exact else f"; {machine.count} threads were not measured"
    doubt = f"; taken on a busy machine: {machine.measured.busy}" if machine.measured.busy else ""
    return f"{share} ({when}){apart}{doubt}"


def _unknown_note(machine: _Machine, missing: Counter[str]) -> str:
    names = ", ".join(f"{count} {op}" for op, count in missing.most_common(5))
    target = machine.target
    if target.measured is None and target.memory.bandwidth_gbs is None:
        return (
            f"{target.name} has no rates, no bandwidth and no measurement; "
            "`planish targets probe` measures a machine"
        )
    return f"no figure or no size for {names}"


def _sum(nodes: Iterable[Predicted]) -> float | None:
    total = 0.0
    for node in nodes:
        if node.ms is None:
            return None
        total += node.ms
    return total


def _weight_bytes(model: ir.Model) -> int:
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
