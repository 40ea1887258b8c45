"""Where a generator's decisions come from: a seed, or Hypothesis, which can shrink them."""

from __future__ import annotations

import functools
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


class Draws(ABC):
    """Decisions. The first option, the lowest number and "no" are the simplest ones."""

    @abstractmethod
    def integer(self, low: int, high: int) -> int:
        """A number from low to high, both included."""

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return options[self.integer(0, len(options) - 1)]

    def weighted(self, options: Sequence[tuple[int, T]]) -> T:
        """One of the options, each as likely as its integer weight."""
        ticket = self.integer(0, sum(weight for weight, _ in options) - 1)
        for weight, option in options:
            ticket -= weight
            if ticket < 0:
                return option
        raise AssertionError("the weights sum up to more than the ticket")

    def chance(self, percent: int) -> bool:
        """Yes in so many of a hundred cases."""
        return self.integer(0, 99) >= 100 - percent

    def noise(self) -> np.random.Generator:
        """A source of numbers that mean nothing to the structure."""
        return np.random.default_rng(self.integer(0, 2**31 - 1))


class SeededDraws(Draws):
    """Decisions that depend on a seed and an index alone, the same on every machine."""

    def __init__(self, seed: int, index: int) -> None:
        self._random = random.Random(f"{seed}/{index}")

    def integer(self, low: int, high: int) -> int:
        return self._random.randint(low, high)


class DrawnDraws(Draws):
    """Decisions by Hypothesis. draw: what ``hypothesis.strategies.composite`` hands in."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        return int(self._draw(_integers(low, high)))


@functools.lru_cache(maxsize=1024)
def _integers(low: int, high: int) -> Any:
    from hypothesis import strategies

    return strategies.integers(low, high)
