"""What becomes of every structural model: import, lossless pipeline, outputs; then a compile.

    python tests/workloads/structural.py          # write the table anew, after looking at the diff

A row says ``equal`` (the outputs are the original's), ``passed`` (the runtime cannot run the
original; the graph verifies, and comes back from its file as it was) or ``refused``; then what
``planish compile`` does with it, and the reason a user is given where something is refused.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from planish.compiler.context import CompileContext
from planish.compiler.data.feedset import feed_set
from planish.compiler.driver import compile_model
from planish.compiler.instruments import VerifyEach
from planish.compiler.manager import PassManager
from planish.compiler.progress import Silent
from planish.ir.digest import contents_digest
from planish.ir.errors import InputError, PlanishError, TargetError
from planish.ir.load import Imported, load_model
from planish.ir.rewriter import Rewriter
from planish.ir.save import save_model
from planish.passes.api import Candidate, Semantics, pass_class
from planish.targets.loader import load_target
from planish.targets.runtime import open_session

TABLE = Path(__file__).with_name("structural.md")
TARGET = "generic"
LARGE = "light/"
"""Networks of full size: their compile is timed elsewhere."""
HEADER = ("model", "lossless", "compile", "reason")


@dataclass(frozen=True)
class Row:
    """What became of one model; reason: empty where all went well."""

    model: str
    lossless: str
    compile: str
    reason: str = ""


def outcome(entry: Any, folder: Path) -> Row:
    """Take one model through everything. Only errors meant for users are caught."""
    try:
        lossless = _lossless(entry, folder)
    except PlanishError as error:
        return Row(entry.name, "refused", "refused", _first(error))
    if entry.name.startswith(LARGE):
        return Row(entry.name, lossless, "–")
    holdout = None if entry.feeds is None else [entry.feeds]
    try:
        compile_model(
            entry.path,
            TARGET,
            output=folder / "artifact",
            pipeline="canonicalize",
            holdout=holdout,
            threads=1,
        )
    except PlanishError as error:
        return Row(entry.name, lossless, "refused", _first(error))
    return Row(entry.name, lossless, "compiled")


def _first(error: PlanishError) -> str:
    return " ".join(str(error.what).split())


def _lossless(entry: Any, folder: Path) -> str:
    imported = load_model(entry.path)
    exact = canonicalized(imported)
    path = folder / "lossless.onnx"
    save_model(imported.model, path)
    again = load_model(path)
    assert not imported.signature.difference(again.signature)
    assert contents_digest(again.model) == contents_digest(imported.model)
    try:
        original = open_session(entry.path, threads=1, optimize="none")
        before = None if entry.feeds is None else original.run(entry.feeds)
    except (TargetError, InputError):
        return "passed"
    after = open_session(path, threads=1, optimize="none")
    if before is None:
        return "passed"
    found = after.run(entry.feeds)
    assert len(before) == len(found)
    for a, b in zip(before, found, strict=True):
        compare(a, b, exact)
    return "equal"


def canonicalized(imported: Imported) -> bool:
    """Run the lossless pipeline in place; whether all edits promise equal bits."""
    nothing = feed_set("nothing", lambda _: {}, 0, imported.signature)
    context = CompileContext(load_target(TARGET), imported.model, nothing, False, None, 1, Silent())
    manager = PassManager(Rewriter(imported.model), context, [VerifyEach(imported.signature)])
    made = pass_class("canonicalize")
    offers = made(made.Options()).candidates(imported.model, context)
    rules = {o.setting: o.semantics for o in offers if isinstance(o, Candidate)}
    edits = manager.run(made(made.Options())).edits
    return all(rules[edit.setting] is Semantics.EXACT for edit in edits)


def compare(before: Any, after: Any, exact: bool) -> None:
    """Fail unless both are the same: in bits, or where sums are ordered anew within 1e-4."""
    assert type(before) is type(after)
    if isinstance(before, list):
        assert len(before) == len(after)
        for a, b in zip(before, after, strict=True):
            compare(a, b, exact)
    elif not isinstance(before, np.ndarray):
        assert before == after
    else:
        assert (before.dtype, before.shape) == (after.dtype, after.shape)
        if exact or before.dtype.kind not in "fc":
            assert before.tobytes() == after.tobytes() or before.tolist() == after.tolist()
        else:
            scale = np.abs(before[np.isfinite(before)]).max(initial=1e-30)
            np.testing.assert_allclose(after, before, rtol=0, atol=1e-4 * scale)


# -- the table -------------------------------------------------------------------------


def read(path: Path = TABLE) -> dict[str, Row]:
    """The rows by model."""
    lines = [line for line in path.read_text(encoding="utf8").splitlines() if line.startswith("|")]
    rows = [Row(*(cell.strip() for cell in line.strip("|").split("|"))) for line in lines[2:]]
    return {row.model: row for row in rows}


def written(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table, in order of name."""
    cells = [HEADER, *(astuple(row) for row in sorted(rows, key=lambda row: row.model))]
    cells = [tuple(cell.replace("|", "/") for cell in row) for row in cells]
    widths = [max(len(row[i]) for row in cells) for i in range(3)]
    return "".join(_lines(cells, widths))


def _lines(cells: list[tuple[str, ...]], widths: list[int]) -> Iterator[str]:
    for number, row in enumerate(cells):
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        yield f"| {' | '.join([*padded, row[3]])} |\n"
        if number == 0:
            yield f"|{'|'.join('-' * (width + 2) for width in widths)}|---|\n"


def main(entries: Iterable[Any], known: Mapping[str, Row]) -> None:
    """Write the table anew and print what changed."""
    rows = []
    for entry in entries:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(outcome(entry, Path(folder)))
        if known.get(entry.name) != rows[-1]:
            print(f"was {known.get(entry.name)}\nnow {rows[-1]}")
    TABLE.write_text(written(rows), encoding="utf8")


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    conftest: Any = importlib.import_module("conftest")
    data = conftest.data_folder()
    structural = conftest.load_module(data / "tasks.py", "tasks").structural()
    main(structural, read() if TABLE.exists() else {})
