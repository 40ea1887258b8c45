"""Leave out whole blocks: ``x + f(x)`` becomes ``x``.

Depth is what costs time where few rows meet many layers, and trained networks often have a layer
that the others do without. Which one that is no local score tells: every layer is left out in turn
and the change of the model's outputs is measured (leave one out, as SLEB and BlockPruner do).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from ..ir.errors import UsageError
from ..ir.facts import FLOAT, PRUNED
from ..ir.graph import constant_tensor
from ..ir.residuals import Residual, find_residuals, reads_between
from ..ir.rewriter import Rewriter
from ..ir.sites import Sites
from .api import (
    BYPASSED,
    CALIBRATED,
    SITES,
    Candidate,
    Context,
    Pass,
    Perturbation,
    Refusal,
    Semantics,
    register,
)


@dataclass(frozen=True)
class DropLayersOptions:
    """of: whether an attention goes together with the feed-forward behind it (layers), or each
    block by itself (blocks). count: how many go. ratio: which share of them, instead of a count.
    only: selectors; exactly those go that match, unmeasured. exclude: selectors of what stays.
    """

    of: Literal["layers", "blocks"] = "layers"
    count: int = 1
    ratio: float | None = None
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count is {self.count}, not at least 1")
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise ValueError(f"ratio is {self.ratio}, not between 0 and 1")


@dataclass(frozen=True)
class Unit:
    """What goes together: residual blocks, one behind the other."""

    name: str
    blocks: tuple[Residual, ...]

    @property
    def bypasses(self) -> tuple[tuple[str, str], ...]:
        """Names of sums, each with that of what stands for it."""
        return tuple((str(b.sum.name), str(b.skip.name)) for b in self.blocks)


@register
class DropLayers(Pass):
    """Leave out whole layers: what remains of ``x + f(x)`` is ``x``.

    What it does: leaves out every layer in turn, on calibration samples, and drops the one whose
    absence changes the model's outputs least; then the next, with that one gone. A layer is an
    attention with the feed-forward block behind it. Normalisations behind a sum stay.
    When it applies: blocks whose result is only added to what they read. Takes calibration data,
    or names (``only``).
    What it costs: measured per layer, as relative squared error of the sums; without training
    behind it one layer in six is much, see ``--max-drop``.
    Guarantee: the layer is gone, and nothing else changed.
    Example: ``drop-layers{count=1}``
    """

    name = "drop-layers"
    semantics = Semantics.LOSSY
    requires = frozenset({FLOAT})
    produces = frozenset({PRUNED})
    Options = DropLayersOptions
    options: DropLayersOptions

    def candidates(self, model: ir.Model, ctx: Context) -> Iterator[Candidate | Refusal]:
        sites = ctx.analysis(SITES)
        units = _units(sites, self.options.of)
        stay = _matching(units, self.options.exclude, sites)
        yield from (Refusal(u.name, "excluded", "kept on request") for u in units if u in stay)
        units = [unit for unit in units if unit not in stay]
        yield from _unfit(sites)
        if self.options.only:
            named = _matching(units, self.options.only, sites)
            yield from (_candidate(unit, sites) for unit in units if unit in named)
        elif not ctx.analysis(CALIBRATED):
            sentence = "which layer is missed least takes real data: give --calibration, or only="
            yield from (Refusal(unit.name, "no-calibration", sentence) for unit in units)
        elif units:
            yield from self._least_missed(units, sites, ctx)

    def perturb(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation:
        unit = _named(candidate.site, ctx.analysis(SITES), self.options.of)
        first, last = unit.blocks[0], unit.blocks[-1]
        read = reads_between(first.skip, last.sum)
        assert read is not None
        silent = [v for b in unit.blocks for v in (b.layer.weight, b.use.bias) if v is not None]
        return Perturbation(
            tuple(str(v.name) for v in read),
            (str(last.sum.name),),
            {str(v.name): _zeros(v) for v in silent},
            payload=unit.bypasses,
        )

    def lower(
        self,
        model: ir.Model,
        candidate: Candidate,
        perturbation: Perturbation | None,
        rewriter: Rewriter,
        ctx: Context,
    ) -> None:
        assert perturbation is not None
        for total, skip in perturbation.payload:
            _bypass(rewriter, rewriter.value(total), rewriter.value(skip))

    def _least_missed(
        self, units: Sequence[Unit], sites: Sites, ctx: Context
    ) -> Iterator[Candidate | Refusal]:
        """The ones to go, each chosen with those before it gone; the others with what they are
        worth then."""
        options, left, gone = self.options, list(units), list[Unit]()
        every = len(_units(sites, options.of))
        count = options.count if options.ratio is None else max(1, round(options.ratio * every))
        if count >= every:
            raise UsageError(
                f"{count} of {every} {options.of} are to go; at least one has to stay",
                where="drop-layers",
                hint=f"count={every - 1} is the most" if every > 1 else "leave the pass out",
            )
        missed = dict[str, float]()
        while len(gone) < count and left:
            before = tuple(pair for unit in gone for pair in unit.bypasses)
            missed = {u.name: ctx.analysis(BYPASSED, before + u.bypasses) for u in left}
            best = min(left, key=lambda unit: missed[unit.name])
            left.remove(best)
            gone.append(best)
            yield _candidate(best, sites, missed[best.name])
        for unit in left:
            yield Refusal(unit.name, "missed-more", _worth(missed[unit.name]))


# -- what goes together ----------------------------------------------------------------


def _units(sites: Sites, of: Literal["layers", "blocks"]) -> list[Unit]:
    runs: list[list[Residual]] = []
    for block in find_residuals(sites):
        if FLOAT not in block.site.facts:
            continue
        behind = runs[-1][-1] if runs and of == "layers" else None
        if behind is not None and _goes_on(behind, block):
            runs[-1].append(block)
        else:
            runs.append([block])
    titles = [_common_path(run) for run in runs]
    firsts = [run[0].site.name for run in runs]
    named = [t if t and titles.count(t) == 1 else f for t, f in zip(titles, firsts, strict=True)]
    return [Unit(name, tuple(run)) for name, run in zip(named, runs, strict=True)]


def _goes_on(behind: Residual, block: Residual) -> bool:
    """Whether a block belongs to the layer of the one behind which it stands."""
    if (behind.site.kind, block.site.kind) == ("ffn", "attention"):
        return False
    return reads_between(behind.sum, block.skip) is not None


def _common_path(run: Sequence[Residual]) -> str:
    """What the names of the blocks have in common, such as ``encoder.layer.3``."""
    paths = zip(*(block.site.name.split(".") for block in run), strict=False)
    return ".".join(parts[0] for parts in takewhile(lambda p: len(set(p)) == 1, paths))


def _matching(units: Sequence[Unit], selectors: Sequence[str], sites: Sites) -> list[Unit]:
    """Units of which a selector means a block. Raises UsageError where one means nothing."""
    chosen = {site.name for selector in selectors for site in sites.select(selector)}
    return [unit for unit in units if any(b.site.name in chosen for b in unit.blocks)]


def _named(name: str, sites: Sites, of: Literal["layers", "blocks"]) -> Unit:
    return next(unit for unit in _units(sites, of) if unit.name == name)


def _unfit(sites: Sites) -> Iterator[Refusal]:
    residual = {block.site.name for block in find_residuals(sites)}
    for site in sites.of_kind("attention", "ffn"):
        if site.name not in residual:
            yield Refusal(site.name, "not-residual", "what it computes is not just added to x")
        elif FLOAT not in site.facts:
            yield Refusal(site.name, "not-float", "its layers are not in float any more")


def _candidate(unit: Unit, sites: Sites, missed: float | None = None) -> Candidate:
    details: dict[str, Any] = {"blocks": [block.site.name for block in unit.blocks]}
    if missed is not None:
        details["output change"] = missed
    saving = sum(_weights(block, sites) for block in unit.blocks)
    return Candidate(unit.name, "dropped", saving, details)


def _worth(missed: float) -> str:
    return f"without it the outputs change by {missed:.2%} (relative squared error)"


def _weights(block: Residual, sites: Sites) -> int:
    """Bytes of the block's weights that nothing else applies."""
    own = [s for n in block.site.roles.values() if len((s := sites.by_name[n]).uses) == 1]
    tensors = [tensor for site in own if (tensor := constant_tensor(site.weight)) is not None]
    return sum(tensor.nbytes for tensor in tensors)


# -- the edit --------------------------------------------------------------------------


def _zeros(value: ir.Value) -> np.ndarray:
    tensor = constant_tensor(value)
    assert tensor is not None
    return np.zeros(tensor.shape.numpy(), tensor.dtype.numpy())


def _bypass(rewriter: Rewriter, total: ir.Value | None, skip: ir.Value | None) -> None:
    """An Identity takes the place, and the name, of the sum; the block behind it dies."""
    assert total is not None and skip is not None
    join = total.producer()
    assert join is not None
    read = list(join.inputs)
    same = rewriter.insert("Identity", [skip], before=join, name=str(join.name), origins=[join])
    rewriter.take_over(total, same.outputs[0])
    rewriter.remove(join)
    rewriter.sweep(read)
