"""What was done to a graph and what was decided about it: edits and remarks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal

import onnx_ir as ir

from .graph import all_nodes

ORIGIN_KEY = "planish.origin"
EDIT_KEY = "planish.edit"
SCOPE_KEY = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True)
class Remark:
    """A decision about one site: applied, missed (could not) or refused (would not).

    code: a stable, greppable reason such as ``too-small``. sentence: the same for a reader.
    """

    kind: Literal["applied", "missed", "refused", "note"]
    pass_name: str
    site: str
    code: str
    sentence: str

    def to_json(self) -> dict[str, str]:
        """The remark as the manifest holds it."""
        return {
            "kind": self.kind,
            "pass": self.pass_name,
            "site": self.site,
            "code": self.code,
            "sentence": self.sentence,
        }


@dataclass(frozen=True)
class Edit:
    """One applied candidate.

    before and after: names of the nodes it took out and put in (``origins`` are the names
    those nodes had in the user's model). loss: relative squared error of the edited
    region's outputs, sum((y' - y)^2) / sum(y^2), None for edits that promise no loss.
    runtime_loss: the same of what the runtime's kernel adds to that, where it rounds activations
    by itself. output_loss: the same of the model's outputs, of this edit alone, where the compile
    weighs that. operations: of the layer in one run, where known. saving: bytes of weights saved
    (negative: grown). lineage: ``exact`` when recorded by the rewriter, ``inferred`` when found
    afterwards.
    """

    id: str
    pass_name: str
    site: str
    setting: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    loss: float | None = None
    saving: int = 0
    lineage: Literal["exact", "inferred"] = "exact"
    details: Mapping[str, Any] = field(default_factory=dict)
    runtime_loss: float | None = None
    output_loss: float | None = None
    operations: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The edit as the manifest holds it."""
        return {
            "id": self.id,
            "pass": self.pass_name,
            "site": self.site,
            "setting": self.setting,
            "before": list(self.before),
            "after": list(self.after),
            "origins": list(self.origins),
            "loss": self.loss,
            "runtime_loss": self.runtime_loss,
            "output_loss": None if self.output_loss == inf else self.output_loss,
            "operations": self.operations,
            "saving_bytes": self.saving,
            "lineage": self.lineage,
            "details": dict(self.details),
        }


@contextmanager
def without_implied_origins(model: ir.Model) -> Iterator[None]:
    """The origin of every node that is still its own is gone meanwhile: the name says the same.

    A node keeps its stamp only where it stands for others. For a model that is being written, as
    the rewriter and the names of sites read the stamps.
    """
    implied = [n for n in all_nodes(model) if n.metadata_props.get(ORIGIN_KEY) == n.name]
    kept = [dict(node.metadata_props) for node in implied]  # a key that comes back comes last
    for node in implied:
        del node.metadata_props[ORIGIN_KEY]
    try:
        yield
    finally:
        for node, properties in zip(implied, kept, strict=True):
            node.metadata_props.clear()
            node.metadata_props.update(properties)
