"""What was done to a graph, step by step, so that it can be taken back and done again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Action = Callable[[], object]


@dataclass
class Journal:
    """The steps done so far, oldest first; each knows how to go back and forth."""

    _steps: list[tuple[Action, Action]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._steps)

    def record(self, undo: Action, redo: Action) -> None:
        """Remember a step that was just done."""
        self._steps.append((undo, redo))

    def back(self, mark: int) -> list[Action]:
        """Undo all steps after the first ``mark``, newest first; returns what does them again."""
        undone = self._steps[mark:]
        del self._steps[mark:]
        for undo, _ in reversed(undone):
            undo()
        return [redo for _, redo in undone]

    def peek(self, mark: int, look: Callable[[], str]) -> str:
        """What ``look`` says of the graph as it was at ``mark``; the graph is then as it is now."""
        steps = self._steps[mark:]
        for undo, _ in reversed(steps):
            undo()
        try:
            return look()
        finally:
            for _, redo in steps:
                redo()
