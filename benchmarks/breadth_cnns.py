"""Convolutional networks of every family: are the groups of channels those they should be, and
does cutting them compute what the whole network does with zeros in their place?

Small networks built in PyTorch come in six forms: from the newer exporter at two opsets and from
the older one, each as written and after ``canonicalize``. What is found is held against what was
worked out by hand, and against channels changed one after the other. The nine classic networks of
the onnx package get random weights.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from benchmarks.cnns.cutting import Choice, Feeds, half, tried
from benchmarks.cnns.light import LIGHT
from benchmarks.cnns.oracle import coupling, objections, separable
from benchmarks.figures import Figure, Outcome, at_most, holds
from benchmarks.settings import Settings
from planish.compiler.context import CompileContext
from planish.compiler.data.feeds import load_feeds
from planish.compiler.harness.suites.light import image, light_case
from planish.compiler.harness.suites.wheels import data_folder
from planish.compiler.instruments import RegionCheck, VerifyEach
from planish.compiler.manager import PassManager
from planish.compiler.progress import Silent
from planish.ir.axes.find import find_axis_groups
from planish.ir.axes.groups import AxisGroup, AxisGroups
from planish.ir.errors import PlanishError
from planish.ir.load import load_model
from planish.ir.rewriter import Rewriter
from planish.ir.signature import Signature
from planish.ir.sites import find_sites
from planish.passes.api import pass_class
from planish.targets.loader import load_target

if TYPE_CHECKING:
    from benchmarks.cnns.table import Net

FORMS = ((20, False), (23, False), (18, True))
"""Opset, and whether the older exporter wrote it."""
SEED = 0
MAX_DIFFERENCE = 1e-4
"""Over the largest output: sums in float32, taken in another order, through up to 121 layers."""
COLUMNS = (
    "network", "forms", "groups", "as expected", "cut", "refused", "against changes", "diff",
    "prune-channels",
)  # fmt: skip
HALF = {
    "ratio": 0.5, "scope": "layer", "score": "magnitude", "refit": False, "reestimate": False,
    "multiples": False, "residual": True,
}  # fmt: skip
"""Half of every group, chosen without data."""


@dataclass
class Found:
    """What one network showed in all its forms. wrong: sentences; groups, refused: of the last."""

    name: str
    forms: int = 0
    as_expected: int = 0
    cuts: int = 0
    judged: int = 0
    difference: float = 0.0
    groups: str = ""
    refused: str = ""
    pruned: str = "-"
    wrong: list[str] = field(default_factory=list)

    def row(self) -> tuple[str, ...]:
        """As the table shows it."""
        judged = f"{self.judged} groups" if self.judged else "-"
        return (
            self.name, str(self.forms), self.groups, f"{self.as_expected} of {self.forms}",
            str(self.cuts), self.refused, judged, f"{self.difference:.1e}", self.pruned,
        )  # fmt: skip


def breadth(settings: Settings) -> Outcome:
    """Channel groups of convolutional networks: as expected, and cut without a difference."""
    found = [*map(torch_net, _nets()), *map(light_net, light_paths())]
    notes = [f"{f.name}: {text}" for f in found for text in f.wrong]
    return Outcome(
        "Channels of convolutional networks", COLUMNS, tuple(f.row() for f in found),
        tuple(_figures(found)), tuple(notes),
    )  # fmt: skip


def _nets() -> Sequence[Net]:
    from benchmarks.cnns.table import NETS

    return NETS


def _figures(found: Sequence[Found]) -> Iterator[Figure]:
    forms = sum(f.forms for f in found)
    same, wrong = sum(f.as_expected for f in found), sum(len(f.wrong) for f in found)
    cuts, worst = sum(f.cuts for f in found), max(f.difference for f in found)
    yield holds("groups as expected", same == forms, f"{same} of {forms} graphs", f"{forms}")
    yield at_most("wrong cuts and other objections", wrong, 0, note=f"{cuts} cuts")
    yield at_most("largest difference", worst, MAX_DIFFERENCE, note="over the largest output")


# -- networks built here -----------------------------------------------------------------


def torch_net(net: Net, forms: Sequence[tuple[int, bool]] = FORMS, *, pruned: bool = True) -> Found:
    """A network in its forms, held against its expectations and against changed channels.

    pruned: the last form goes through prune-channels, too.
    """
    from benchmarks.cnns.export import exported, randomised

    found = Found(net.name)
    for opset, traced in forms:
        model = exported(randomised(net.build()), net.shape, opset, traced=traced)
        feeds = {"x": np.random.default_rng(SEED).normal(size=(2, *net.shape)).astype(np.float32)}
        for form in ("as written", "canonical"):
            if form == "canonical":
                canonicalize(model, feeds)
            groups = judged(found, model, feeds, f"opset {opset}, {form}")
            expect(found, groups, net.cuttable, net.refused)
            compare_with_changes(found, model, groups, net.loose)
    if pruned:
        prune(found, model, feeds, len(net.cuttable.get("channels", ())))
    return found


def canonicalize(model: ir.Model, feeds: Feeds) -> None:
    """The lossless pass, as a compile runs it."""
    run_pass("canonicalize", model, feeds)


def run_pass(name: str, model: ir.Model, feeds: Feeds, **options: Any) -> CompileContext:
    """Run a pass as a compile does: every edit verified, and compared with what it promised."""
    signature, made = Signature.of(model), pass_class(name)
    context = CompileContext(
        load_target("x86-avx512-vnni"), model, load_feeds([feeds], signature), False, None, 1,
        Silent(),
    )  # fmt: skip
    manager = PassManager(Rewriter(model), context, [VerifyEach(signature), RegionCheck()])
    manager.run(made(made.Options(**options)))
    return context


def prune(found: Found, model: ir.Model, feeds: Feeds, groups: int) -> None:
    """Half of all channels through the pass, on a network of so many groups of channels."""
    try:
        context = run_pass("prune-channels", model, feeds, **HALF)
    except PlanishError as error:
        found.pruned = "failed"
        found.wrong.append(f"prune-channels: {error}")
        return
    edits = [remark.code for remark in context.remarks if remark.kind == "applied"]
    found.pruned = ", ".join(edits) or "none"
    if bool(edits) != bool(groups):
        found.wrong.append(f"prune-channels: {found.pruned}, of {groups} groups")


def expect(
    found: Found, groups: AxisGroups, cuttable: Mapping[str, Sequence[int]],
    refused: Mapping[str, Sequence[int]],
) -> None:  # fmt: skip
    """Count whether the groups are those expected; say what is different."""
    wrong = [
        f"{what}: {dict(was)}, expected {dict(should)}"
        for what, was, should in (
            ("cuttable", units_of(groups), _sorted(cuttable)),
            ("refused", refusals_of(groups), _sorted(refused)),
        )
        if was != should
    ]
    found.as_expected += not wrong
    found.wrong += wrong


def units_of(groups: AxisGroups) -> dict[str, tuple[int, ...]]:
    """Units of the groups that can be cut, sorted, by kind."""
    kinds: dict[str, list[int]] = {}
    for group in groups.cuttable():
        kinds.setdefault(group.kind, []).append(group.units)
    return _sorted(kinds)


def refusals_of(groups: AxisGroups) -> dict[str, tuple[int, ...]]:
    """Sizes that occur among the groups that cannot be cut, by code."""
    codes: dict[str, set[int]] = {}
    for group in groups.values():
        if group.code:
            codes.setdefault(group.code, set()).add(group.units)
    return _sorted(codes)


def _sorted(counts: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(sorted(numbers)) for key, numbers in counts.items() if numbers}


def compare_with_changes(
    found: Found, model: ir.Model, groups: AxisGroups, loose: Sequence[int] = ()
) -> None:
    """Hold groups against what changed channels show; refused ones, too, but for known limits."""
    changed, sites = coupling(model), {s.name: s for s in find_sites(model)}
    for group in groups.values():
        if group.cuttable:
            found.judged += 1
            found.wrong += [f"{group.name}: {text}" for text in objections(changed, group)]
            continue
        made = str(sites[group.sites[0]].nodes[0].outputs[0].name)
        apart = made in changed.sizes and separable(changed, made)
        if apart and group.units not in loose:
            found.wrong.append(f"{group.name} is refused ({group.code}), its channels are apart")


# -- cutting -----------------------------------------------------------------------------


def judged(
    found: Found, model: ir.Model, feeds: Feeds, form: str, *, each: bool = True
) -> AxisGroups:
    """Cut groups, each alone where that is asked for, then all at once; the groups."""
    groups, random = find_axis_groups(model, find_sites(model)), np.random.default_rng(SEED)
    found.forms += 1
    found.groups = _counted(Counter(g.kind for g in groups.cuttable()))
    found.refused = _counted(Counter(g.code for g in groups.values() if g.code))
    every: dict[AxisGroup, Sequence[int]] = {}
    for group in groups.cuttable():
        keep = half(group, random)
        if keep is None:
            found.wrong.append(f"{form}, {group.name}: no half of the units can be kept")
            continue
        if each:
            _try(found, model, {group: keep}, feeds, f"{form}, {group.name}")
        if group.kind in ("channels", "neurons", "heads"):
            every[group] = keep
    if every:
        _try(found, model, every, feeds, f"{form}, all at once")
    return groups


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items())) or "-"


def _try(found: Found, model: ir.Model, choice: Choice, feeds: Feeds, what: str) -> None:
    trial = tried(model, choice, feeds)
    found.cuts += 1
    found.difference = max(found.difference, trial.difference)
    found.wrong += [f"{what}: {problem}" for problem in trial.problems]
    if not trial.difference <= MAX_DIFFERENCE:
        found.wrong.append(f"{what}: differs by {trial.difference:.1e} of the largest output")


# -- the onnx package --------------------------------------------------------------------


def light_paths() -> list[Path]:
    """The nine models."""
    return sorted(data_folder("light").glob("light_*.onnx"))


def light_net(path: Path, *, each: bool = True) -> Found:
    """One of the nine with random weights; each: canonical, its groups are cut alone, too."""
    case, name = light_case(path), path.stem.removeprefix("light_")
    feeds = {key: array for key, array in image(case.model, SEED).items() if array is not None}
    model, found = load_model(case.model).model, Found(name)
    del case
    for form in ("as written", "canonical"):
        if form == "canonical":
            canonicalize(model, feeds)
        alone = each and form == "canonical"
        expect(found, judged(found, model, feeds, form, each=alone), *LIGHT[name])
    del model
    gc.collect()
    return found
