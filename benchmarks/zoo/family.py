"""What a family of transformers is here: how to build a tiny one, its inputs, and what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]
SIZES: tuple[Mapping[str, int], ...] = (
    {"batch": 2, "tokens": 7, "sources": 6, "past": 3},
    {"batch": 3, "tokens": 5, "sources": 9, "past": 4},
)
"""What free axes are: the first is exported with, both are compared at."""
WORDS = 61
"""Rows of every vocabulary."""


@dataclass(frozen=True)
class Input:
    """One input. kind: token numbers, a mask of ones with zeros behind, or normal floats."""

    name: str
    shape: tuple[int | str, ...]
    kind: Literal["ids", "mask", "floats"]

    def sizes(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape in numbers."""
        return tuple(sizes[n] if isinstance(n, str) else n for n in self.shape)

    def array(self, sizes: Mapping[str, int], random: np.random.Generator) -> Array:
        """An example; a mask leaves two positions of the first row out."""
        shape = self.sizes(sizes)
        if self.kind == "floats":
            return random.normal(size=shape).astype(np.float32)
        if self.kind == "ids":
            return random.integers(3, WORDS - 1, shape)
        found = np.ones(shape, np.int64)
        found[0, -2:] = 0
        return found


@dataclass(frozen=True)
class Family:
    """A tiny model of the transformers library.

    model, config: classes of the library; sizes: what its config is given. part: the module inside
    that is exported, "" the whole. outputs: fields of what it returns. settings: further arguments
    of its forward. heads: for every attention block how many units can be cut (groups of keys and
    values). neurons: for every feed-forward block. cached: the inputs behind the first are keys and
    values of the past by layer, and those of the present are outputs. required: by the issue.
    """

    name: str
    model: str
    config: str
    sizes: Mapping[str, Any]
    inputs: tuple[Input, ...]
    heads: tuple[int, ...]
    neurons: tuple[int, ...]
    part: str = ""
    outputs: tuple[str, ...] = ("last_hidden_state",)
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    cached: bool = False
    required: bool = True

    def feeds(self, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Array]:
        """Seeded examples by input."""
        random = np.random.default_rng(seed)
        return {each.name: each.array(sizes, random) for each in self.inputs}

    @property
    def dynamic(self) -> bool:
        """Whether any axis is free."""
        return any(isinstance(n, str) for each in self.inputs for n in each.shape)
