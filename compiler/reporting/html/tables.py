"""Rows of a document, each once: what refers to one holds its place."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any


class Table:
    """Rows in the order in which they came first."""

    def __init__(self) -> None:
        self._place: dict[Hashable, int] = {}

    def add(self, row: Hashable) -> int:
        """The place of a row, which is the present one of an equal row."""
        return self._place.setdefault(row, len(self._place))

    @property
    def rows(self) -> list[Any]:
        """All of them."""
        return list(self._place)
