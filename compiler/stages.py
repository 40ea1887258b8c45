"""The graph between the passes of a build: what ``planish diff`` and the report look at later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..ir.counting.count import parameters
from ..ir.digest import contents_digest
from ..ir.graph import all_nodes
from ..ir.outline import outline
from ..ir.provenance import Edit, without_implied_origins
from ..ir.save import save_content, save_model, total_bytes

FOLDER = "stages"
Content = bytes
"""Of a file; the word itself is a field of a stage."""
IMPORTED, LEGALISE, EMITTED = "imported", "legalise", "model"


@dataclass(frozen=True)
class Stage:
    """The graph at one point of a build.

    id: ``02-quantize``. step: the pass with its options, as the pipeline has it; "" where no pass
    ran. name: of the pass, or ``imported``, ``legalise``, ``model`` (what is handed over, its
    spellings applied). edits: ids of those since the stage before. digest: of the contents, ""
    where weights are only passed through. bytes: of all constants. file: in the artifact's folder;
    that of an earlier stage where nothing changed since. weights: whether the file holds them.
    predicted_ms: of one run, where the target has figures.
    """

    id: str
    name: str
    step: str
    edits: tuple[str, ...]
    changed: bool
    digest: str
    nodes: int
    parameters: int
    bytes: int
    file: str
    weights: bool = False
    predicted_ms: float | None = None
    content: Content = field(default=b"", repr=False, compare=False)
    model: ir.Model | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """As the manifest holds it."""
        return {k: v for k, v in vars(self).items() if k not in ("content", "model")}


@dataclass
class Recorder:
    """Takes down the stages of one build after the other.

    keep: with their weights. whole: whether weights may be read for their digests, as they may
    where the model fits into memory.
    """

    keep: bool = False
    whole: bool = True
    _taken: list[Stage] = field(default_factory=list)
    _first: Stage | None = None

    def start(self, model: ir.Model) -> None:
        """A build begins with the imported graph, which is the same for each."""
        self._first = self._first or self._stage(0, IMPORTED, "", model, ())
        self._taken = [self._first]

    def add(self, name: str, step: str, model: ir.Model, edits: Sequence[Edit] = ()) -> None:
        """The graph is now as this step left it."""
        made = self._stage(len(self._taken), name, step, model, [edit.id for edit in edits])
        last = self._taken[-1]
        if made.content == last.content:
            same = {"changed": False, "file": last.file, "model": last.model}
            made = replace(made, **same)  # type: ignore[arg-type]
        self._taken.append(made)

    def taken(self) -> tuple[Stage, ...]:
        """All of the present build."""
        return tuple(self._taken)

    def _stage(
        self, number: int, name: str, step: str, model: ir.Model, edits: Sequence[str]
    ) -> Stage:
        place = f"{number:02d}-{name}"
        return Stage(
            place, name, step, tuple(edits), True,
            contents_digest(model) if self.whole else "",
            sum(1 for _ in all_nodes(model)), parameters(model), total_bytes(model),
            f"{FOLDER}/{place}.onnx", self.keep, None,
            outline(model, read=self.whole), model.clone() if self.keep else None,
        )  # fmt: skip


def write_stages(stages: Sequence[Stage], folder: Path) -> None:
    """Put the files of stages into an artifact's folder. Raises PlanishError on a full disk."""
    changed = [stage for stage in stages if stage.changed and stage.name != EMITTED]
    if changed:
        (folder / FOLDER).mkdir(exist_ok=True)
    for stage in changed:
        path = folder / stage.file
        if stage.model is None:
            save_content(stage.content, path)
            continue
        with without_implied_origins(stage.model):
            save_model(stage.model, path)


def emitted(
    stages: Sequence[Stage], model: ir.Model, file: str, edits: Sequence[Edit], *, whole: bool
) -> tuple[Stage, ...]:
    """The stages with what is handed over behind them: written in other spellings, perhaps."""
    if not stages:
        return ()
    known = {edit for stage in stages for edit in stage.edits}
    new = tuple(edit.id for edit in edits if edit.id not in known)
    digest = contents_digest(model) if whole else ""
    last = Stage(
        EMITTED, EMITTED, "", new, not digest or digest != stages[-1].digest, digest,
        sum(1 for _ in all_nodes(model)), parameters(model), total_bytes(model), file, True,
    )  # fmt: skip
    return (*stages, last)
