"""Whether an artifact has the shapes that the edits in its manifest give it.

Planned: the layers of the original with the axes that edits name made smaller. Found: the
constants of the artifact. Both in products, in parameters and in operations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import onnx_ir as ir

import planish
from benchmarks.artifacts import MODEL
from benchmarks.figures import Figure, holds
from planish.ir.counting.count import SiteRow, Totals, site_table, totals
from planish.ir.sites import Sites, find_sites
from planish.ir.types.bound import bound_shapes

MADE = frozenset({"q", "k", "v", "qkv", "kv", "up", "gate"})
"""Roles of layers whose outputs are cut; those of the others read them."""
PICKING = ("Slice", "Gather", "GatherElements", "GatherND", "Split")
LEEWAY = 0.01
"""Of all operations: what other spellings of norms and attention count more or less."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Holds:
    """What a model holds and does. products: shapes of the weights of its linear layers."""

    products: Counter[Shape]
    parameters: int
    flops: int


@dataclass(frozen=True, eq=False)
class Model:
    """A model's sites and totals for given sizes of its open axes."""

    sites: Sites
    rows: Mapping[str, SiteRow]
    totals: Totals
    operators: Counter[str]

    @classmethod
    def read(cls, path: Path, sizes: Mapping[str, int]) -> Model:
        """The model in a file. sizes: of open axes by their names, ValueError where one lacks."""
        model = ir.load(path)
        sites, shapes = find_sites(model), bound_shapes(model, sizes)
        rows = {row.name: row for row in site_table(sites, shapes)}
        if open_ := [row.name for row in rows.values() if row.flops is None]:
            raise ValueError(f"operations of {open_[0]} are not known for {dict(sizes)}")
        operators = Counter(node.op_type for node in model.graph)
        return cls(sites, rows, totals(model, shapes), operators)

    @property
    def layers(self) -> dict[str, SiteRow]:
        """Linear layers by name."""
        return {name: row for name, row in self.rows.items() if row.kind == "linear"}

    @property
    def held(self) -> Holds:
        """All that is there."""
        products = Counter(row.shape for row in self.layers.values())
        return Holds(products, self.totals.parameters, self.totals.flops)


def planned(before: Model, edits: Sequence[Mapping[str, Any]]) -> Holds:
    """What a model would hold after the edits of a manifest, from what it held before."""
    sizes: dict[str, list[int]] = {name: list(row.shape) for name, row in before.layers.items()}
    ranks: dict[str, tuple[int, bool]] = {}  # of a layer, and whether the first factor is its own
    blocks: dict[str, float] = {}  # how much of what happens between the layers of one is left
    for edit in edits:
        details = edit["details"]
        for group in details.get("groups", {}).values():
            left = group["kept"] / group["of"]
            for name in (name for name in group["sites"] if name in sizes):
                axis = int(_role(before, name) in MADE)
                sizes[name][axis] = round(sizes[name][axis] * left)
                blocks[before.rows[name].parent or ""] = left
        for index, name in enumerate(details.get("layers", [edit["site"]])):
            if "rank" in details:
                ranks[name] = details["rank"], index == 0
        for block in details.get("blocks", ()):
            blocks[block] = 0.0
            gone = [name for name in sizes if before.rows[name].parent == block]
            sizes.update((name, [0, 0]) for name in gone)
    return _sum(before, sizes, ranks, blocks)


def as_planned(
    name: str,
    original: Path,
    made: planish.Artifact,
    sizes: Mapping[str, int],
    uncut: Path | None = None,
) -> Figure:
    """Smaller products, parameters and operations than the original's, as the manifest has it.

    uncut: a model on which all was done but the cuts, whose operators are compared with; None:
    the original. sizes: of the open axes, by name.
    """
    before, after = Model.read(original, sizes), Model.read(made.path / MODEL, sizes)
    plan, found = planned(before, made.manifest["edits"]), after.held
    smaller = sum((found.products - before.held.products).values())
    fewer = before.held.products.total() - found.products.total()
    usual = Model.read(uncut or original, sizes).operators
    more = {op: after.operators[op] - usual[op] for op in PICKING}
    wrong = [
        f"products {_differ(plan.products, found.products)}"
        if plan.products != found.products else "",
        f"{plan.parameters} parameters were planned" if plan.parameters != found.parameters else "",
        f"{plan.flops:.4g} operations were planned"
        if abs(plan.flops - found.flops) > LEEWAY * before.totals.flops else "",
        *(f"{count} more {op}" for op, count in more.items() if count > 0),
        "all products are as they were" if not smaller and not fewer else "",
    ]  # fmt: skip
    text = (
        f"{smaller} of {found.products.total()} products smaller"
        + (f", {fewer} fewer" if fewer > 0 else "")
        + f", parameters {_change(before.totals.parameters, found.parameters)}"
        + f", operations {_change(before.totals.flops, found.flops)}"
    )
    bar = "as planned, no Slice or Gather more"
    return holds(f"{name}: shapes", not any(wrong), text, bar, "; ".join(filter(None, wrong)))


def _role(model: Model, name: str) -> str:
    """That of a layer in its block; a packed one's are its own."""
    block = model.sites.by_name.get(model.rows[name].parent or "")
    roles = {} if block is None else {layer: role for role, layer in block.roles.items()}
    return "qkv" if model.sites.by_name[name].segments else roles.get(name, "")


def _sum(
    before: Model,
    sizes: Mapping[str, Sequence[int]],
    ranks: Mapping[str, tuple[int, bool]],
    blocks: Mapping[str, float],
) -> Holds:
    products, parameters = Counter[Shape](), before.totals.parameters
    flops = float(before.totals.flops)
    for name, row in before.layers.items():
        (inputs, outputs), biased = sizes[name], row.parameters > prod(row.shape)
        rows = (row.flops or 0) // (2 * prod(row.shape) + biased * row.shape[1])
        rank, own = ranks.get(name, (0, False))
        factors = [(inputs, rank)] * own + [(rank, outputs)] if rank else [(inputs, outputs)]
        kept = [shape for shape in factors if prod(shape)]
        elements = sum(map(prod, kept))
        products.update(kept)
        parameters += elements + biased * outputs - row.parameters
        flops += rows * (2 * elements + biased * outputs) - (row.flops or 0)
    for name, left in blocks.items():
        row_of = before.rows.get(name)
        flops -= 0.0 if row_of is None else (1 - left) * (row_of.flops or 0)
    return Holds(products, parameters, round(flops))


def _differ(plan: Counter[Shape], found: Counter[Shape]) -> str:
    missing, added = dict(plan - found), dict(found - plan)
    return f"planned and not there: {missing}, there and not planned: {added}"


def _change(before: int, after: int) -> str:
    return f"{100 * (after / before - 1):+.1f} %"
