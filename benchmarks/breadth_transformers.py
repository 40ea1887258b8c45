"""Heads and neurons of every family of transformers: found, cut, and equal to zeros in the full
graph.

Tiny random models of the transformers library, exported by PyTorch at two opsets with both ways to
write attention. Exports are kept in the working folder.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from benchmarks.data import NoDataError
from benchmarks.figures import Figure, Outcome, at_least, at_most, holds
from benchmarks.settings import Settings
from benchmarks.zoo.cutting import Compared, Found, Reason, compared
from benchmarks.zoo.export import NotExportedError, exported
from benchmarks.zoo.family import SIZES, Family, Feeds
from benchmarks.zoo.table import ATTENTIONS, FAMILIES, OPSETS
from planish.compiler.execution import running
from planish.ir.errors import InputError
from planish.ir.load import load_model

MOST, LEAST = 2e-5, 1e-3
"""Of the largest output: how far a cut may be from zeros, and how much zeros have to matter."""
SELECTS = frozenset({"Slice", "Gather", "GatherND", "GatherElements", "Compress"})
"""Operators that would stand in for a cut."""


@dataclass(frozen=True)
class Cell:
    """One export of one family. absent: why there is none. note: what else a reader should know."""

    family: Family
    opset: int
    attention: str
    found: Compared | None = None
    absent: str = ""
    note: str = ""

    @property
    def name(self) -> str:
        """``BERT 20 eager``."""
        return f"{self.family.name} {self.opset} {self.attention}"

    def row(self) -> tuple[str, ...]:
        """Its line of the table."""
        if self.found is None:
            return (self.name, "–", "–", "–", "–", "–", self.absent)
        heads, neurons = self.found.heads, self.found.neurons
        reasons = [f"{r.site}: {r.code}, {r.sentence}" for r in self.missing()]
        return (
            self.name, share(heads, self.family.heads), share(neurons, self.family.neurons),
            f"{heads.removed} + {neurons.removed}", f"{self.found.difference:.0e}",
            f"{self.found.effect:.2f}", "; ".join(filter(None, (self.note, *reasons))),
        )  # fmt: skip

    def missing(self) -> list[Reason]:
        """Why blocks were left whole, where some were."""
        if self.found is None:
            return []
        pairs = (self.found.heads, self.family.heads), (self.found.neurons, self.family.neurons)
        return [r for found, wanted in pairs if lacks(found, wanted) for r in found.reasons]

    def silent(self) -> int:
        """Blocks that were neither cut nor refused with a reason."""
        if self.found is None:
            return 0
        pairs = (self.found.heads, self.family.heads), (self.found.neurons, self.family.neurons)
        return sum(max(0, lacks(found, wanted) - len(found.reasons)) for found, wanted in pairs)

    @property
    def right(self) -> bool:
        """Whether the cut computes what zeros do, in its own blocks, and leaves nothing behind."""
        if self.found is None:
            return True
        pairs = (self.found.heads, self.family.heads), (self.found.neurons, self.family.neurons)
        counted = all(
            not Counter(found.units) - Counter(wanted) and not found.strays
            for found, wanted in pairs
        )
        compared_ = not self.found.cut or self.found.effect >= LEAST
        clean = SELECTS.isdisjoint(self.found.added)
        return counted and compared_ and clean and self.found.difference <= MOST


def lacks(found: Found, wanted: Sequence[int]) -> int:
    """How many blocks of the configuration were not cut."""
    return (Counter(wanted) - Counter(found.units)).total()


def share(found: Found, wanted: Sequence[int]) -> str:
    """``2 of 2``; with the number of groups where blocks can only be cut together."""
    text = f"{len(wanted) - lacks(found, wanted)} of {len(wanted)}"
    return text + (f" in {found.groups}" if 0 < found.groups < len(found.units) else "")


def breadth(settings: Settings) -> Outcome:
    """Every family, opset and attention: blocks found of those there are, cuts against zeros."""
    for package in ("torch", "onnxscript", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise NoDataError(f"{package} is not installed: pip install 'planish[torch,workloads]'")
    folder = settings.workdir / "zoo"
    cells = [
        cell(family, opset, attention, folder)
        for family, opset, attention in product(FAMILIES.values(), OPSETS, ATTENTIONS)
    ]
    return Outcome(
        "Heads and neurons of tiny random transformers, half of each cut",
        ("family, opset, attention", "heads", "neurons", "cut", "off zeros", "effect", "remarks"),
        tuple(each.row() for each in cells),
        figures(cells),
        (
            "heads, neurons: blocks cut of those that the configuration has, and in how many "
            "groups where blocks can only be cut together. off zeros: the largest difference "
            "between the cut graph and the full one with zeros; effect: of those zeros, both of "
            "the largest output, at two shapes.",
        ),
    )


def cell(family: Family, opset: int, attention: str, folder: Path) -> Cell:
    """Export one model, cut it, and compare."""
    try:
        path = exported(family, opset, attention, folder)
    except NotExportedError as error:
        return Cell(family, opset, attention, absent=f"not exported: {error}")
    feeds, note = runnable(path, family)
    return Cell(family, opset, attention, compared(path, feeds), note=note)


def runnable(path: Path, family: Family) -> tuple[list[Feeds], str]:
    """Feeds of two shapes that ONNX Runtime takes, and what to say where a batch is refused."""
    feeds: list[Feeds] = [family.feeds(sizes) for sizes in SIZES]
    model = load_model(path).model
    with running(model, optimize="none", threads=1) as session:
        try:
            session.run(feeds[0])
        except InputError as error:
            operator = error.where.partition("(")[2].partition(")")[0] or "an operator"
            note = f"compared at batch 1: ONNX Runtime's {operator} refuses the export's batches"
            return [family.feeds({**sizes, "batch": 1}) for sizes in SIZES], note
    return feeds, ""


def figures(cells: Sequence[Cell]) -> tuple[Figure, ...]:
    """No wrong cut, no silence, and how many blocks were found."""
    wrong = [each.name for each in cells if not each.right]
    silent = [each.name for each in cells if each.silent()]
    needed = [each for each in cells if each.family.required]
    made = [each for each in needed if each.found is not None]
    families = {each.family.name for each in needed} - {each.family.name for each in made}
    blocks = sum(len(c.family.heads) + len(c.family.neurons) for c in made)
    found = blocks - sum(
        lacks(c.found.heads, c.family.heads) + lacks(c.found.neurons, c.family.neurons)
        for c in made
        if c.found is not None
    )
    worst = max((c.found.difference for c in cells if c.found is not None), default=0.0)
    return (
        holds("transformers, cuts that compute something else", not wrong,
              ", ".join(wrong) or "none", "none"),
        at_most("transformers, cuts against zeros", worst, MOST, note="of the largest output"),
        holds("transformers, blocks left whole without a reason", not silent,
              ", ".join(silent) or "none", "none"),
        holds("transformers, required families without an export", not families,
              ", ".join(sorted(families)) or "none", "none"),
        at_least("transformers, blocks of the required families that were cut",
                 100 * found / max(blocks, 1), 100, "%", f"{found} of {blocks}"),
    )  # fmt: skip
