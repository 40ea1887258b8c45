"""What ``planish diff`` compares: a file, an artifact, or the graph between two of its passes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from ..ir.diff.lineage import Stamp
from ..ir.errors import InputError, near
from ..ir.load import Imported, load_model
from ..ir.provenance import EDIT_KEY, ORIGIN_KEY
from .reporting.manifest import MANIFEST
from .reporting.selftest import MODEL
from .stages import EMITTED, FOLDER

_NEEDED = frozenset(("id", "name", "file", "edits"))
AT = "@"
"""Between an artifact's folder and one of its stages."""


@dataclass(frozen=True)
class Side:
    """One of the two. label: as the user gave it; manifest: of an artifact, else empty. stage: id
    of a stage of its compile, "" for a model that is no part of an artifact."""

    label: str
    imported: Imported
    manifest: Mapping[str, Any] = field(default_factory=dict)
    stage: str = ""

    @property
    def model(self) -> Any:
        """As import leaves it."""
        return self.imported.model

    @property
    def place(self) -> int:
        """Where the stage stands among those of its compile, -1 for a model that is none."""
        ids = [str(stage["id"]) for stage in stages_of(self.manifest)]
        return ids.index(self.stage) if self.stage in ids else -1

    def came_from(self, before: Side) -> bool:
        """Whether the compile that made this one began with the other, or came by it."""
        digests = self.manifest.get("digests")
        source = digests.get("source") if isinstance(digests, Mapping) else None
        if source and before.imported.file_digest == source:
            return True
        return 0 <= before.place <= self.place and before.manifest == self.manifest

    def edits_since(self, before: Side) -> dict[str, Mapping[str, Any]] | None:
        """By id what the manifest says of the edits that lie between two sides; None where this
        one cannot have come from the other."""
        known = {str(e["id"]): e for e in self.manifest.get("edits", ()) if "id" in e}
        stages, place = stages_of(self.manifest), self.place
        if place < 0:
            return known
        same = before.place >= 0 and before.manifest == self.manifest
        if same and before.place > place:
            return None
        first = before.place + 1 if same else 0
        wanted = {edit for stage in stages[first : place + 1] for edit in stage["edits"]}
        return {name: edit for name, edit in known.items() if name in wanted}

    def stamps(self) -> dict[str, Stamp]:
        """What the nodes of the file say of themselves, by name; import forgets it."""
        path = self.imported.path
        if path is None:
            return {}
        found = dict[str, Stamp]()
        for node in onnx.load(path, load_external_data=False).graph.node:
            known = {entry.key: entry.value for entry in node.metadata_props}
            edit, origin = known.get(EDIT_KEY, ""), known.get(ORIGIN_KEY, "")
            if edit or origin:
                found[node.name] = Stamp(edit, tuple(filter(None, origin.split("|"))))
        return found


def side_of(text: str | Path) -> Side:
    """What a user named: a file, an artifact's folder, ``FOLDER@STAGE``.

    A stage is called by its number, its pass or its id. Raises InputError for what is no model,
    and for a stage that does not exist, with those that do.
    """
    place = Path(text)
    folder, at, name = str(text).rpartition(AT)
    if at and not place.exists() and Path(folder).is_dir():
        return _stage(str(text), Path(folder), name)
    if place.is_dir():
        return _artifact(str(text), place)
    above = place.parent.parent
    if place.parent.name == FOLDER and (above / MANIFEST).is_file():
        manifest = _manifest(above / MANIFEST)
        return Side(str(text), _load(place), manifest, _stage_of_file(place, manifest))
    return Side(str(text), _load(place))


def stages_of(manifest: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """What a manifest says of the stages of its compile; what is no stage is left out."""
    found = manifest.get("stages", ())
    known = found if isinstance(found, list) else ()
    return [s for s in known if isinstance(s, Mapping) and s.keys() >= _NEEDED]


def _load(path: Path) -> Imported:
    return load_model(path, lenient=True)


def _artifact(label: str, folder: Path) -> Side:
    file = folder / MODEL
    if not file.is_file():
        raise InputError(
            f"there is no {MODEL} in this folder", where=label,
            hint="give an ONNX file, or the folder that planish compile wrote",
        )  # fmt: skip
    manifest = _manifest(folder / MANIFEST)
    stage = EMITTED if any(s["id"] == EMITTED for s in stages_of(manifest)) else ""
    return Side(label, _load(file), manifest, stage)


def _stage(label: str, folder: Path, name: str) -> Side:
    manifest = _manifest(folder / MANIFEST)
    stages = stages_of(manifest)
    if not stages:
        raise InputError(
            "there are no stages in this folder", where=str(folder),
            hint="they are part of what planish compile writes; compile the model again",
        )  # fmt: skip
    found = _named(stages, name)
    if found is None:
        ids = [str(stage["id"]) for stage in stages]
        guess = near(name, [*ids, *(str(s["name"]) for s in stages)])
        raise InputError(
            f"there is no stage {name!r}; there are {', '.join(ids)}", where=str(folder), hint=guess
        )
    file = folder / str(found["file"])
    if not file.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"a stage is said to lie outside its folder: {file}", where=str(folder))
    if not file.is_file():
        raise InputError(f"the stage's file {found['file']} is gone", where=str(folder))
    return Side(label, _load(file), manifest, str(found["id"]))


def _named(stages: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    """By id, by number, by pass: of a pass that ran several times the last one."""
    for stage in stages:
        if stage["id"] == name:
            return stage
    if name.isdecimal():
        return stages[int(name)] if int(name) < len(stages) else None
    return next((stage for stage in reversed(stages) if stage["name"] == name), None)


def _stage_of_file(path: Path, manifest: Mapping[str, Any]) -> str:
    file = f"{FOLDER}/{path.name}"
    return next((str(s["id"]) for s in stages_of(manifest) if s["file"] == file), "")


def _manifest(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"the manifest cannot be read: {error}", where=str(path)) from error
    return found if isinstance(found, dict) else {}
