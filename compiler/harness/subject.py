"""What is tested: a pipeline on a target, and how closely its results must agree."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from ...passes.api import Pass
from ...targets.loader import load_target
from ...targets.schema import Target
from ..pipeline import Step, parse
from ..workshop import instantiate

DEFAULT_TARGET = "generic"


@dataclass(frozen=True)
class Subject:
    """A pipeline as text, such as ``canonicalize`` or ``canonicalize,quantize{scheme=dynamic}``.

    target: a target's name or file. exact: bits must be equal whatever the passes promise
    (False: as they promise).
    """

    pipeline: str
    target: str = DEFAULT_TARGET
    exact: bool = False

    def passes(self) -> list[tuple[Step, Pass]]:
        """New passes, options resolved. Raises UsageError for unknown names and options."""
        return instantiate(parse(self.pipeline))

    def load_target(self) -> Target:
        """The target's description, read once. Raises UsageError, TargetError."""
        return _target(self.target)

    def __str__(self) -> str:
        return f"{self.pipeline} for {self.target}"


@functools.cache
def _target(name: str) -> Target:
    return load_target(name)
