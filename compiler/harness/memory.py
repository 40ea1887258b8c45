"""What several pipelines have in common on one case: its outputs, its import, the steps they share.

Most of the time of a trial goes there. A pipeline that goes on from a graph that another one left
starts from a copy of it, with a rewriter and a context of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import onnx_ir as ir

if TYPE_CHECKING:
    from .trial import Stage

T = TypeVar("T")


@dataclass(frozen=True)
class Prefix:
    """A graph behind the first ``steps`` of a pipeline, and what was seen on the way."""

    steps: int
    model: ir.Model
    stages: tuple[Stage, ...] = ()


@dataclass
class Memory:
    """Of one case; nobody else may ask it. prefixes: whether steps are shared, or only imports.

    twice: whether each pipeline is run a second time from the start, to compare the files.
    """

    prefixes: bool = True
    twice: bool = True
    _known: dict[Hashable, Any] = field(default_factory=dict)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What was made under this key, made now if nothing was. Nobody changes it."""
        if key not in self._known:
            self._known[key] = make()
        found: T = self._known[key]
        return found

    def longest(self, way: Hashable, texts: tuple[str, ...]) -> Prefix | None:
        """The most steps of a pipeline that were taken already, never all; a copy of the graph.

        way: what else must be alike. texts: the steps.
        """
        for count in range(len(texts) - 1, 0, -1):
            found: Prefix | None = self._known.get((way, texts[:count]))
            if found is not None:
                return Prefix(count, found.model.clone(), found.stages)
        return None

    def put(
        self, way: Hashable, texts: tuple[str, ...], model: ir.Model, stages: tuple[Stage, ...]
    ) -> None:
        """Keep a copy of the graph behind these steps, where steps are shared."""
        if self.prefixes:
            self._known[way, texts] = Prefix(len(texts), model.clone(), stages)
