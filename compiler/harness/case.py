"""A case: a model, what to feed it, and, where somebody stored them, the outputs to expect."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx

Feed = Mapping[str, Any]
"""By input name: a numpy array, a list of arrays for a sequence, None for an absent optional."""


@dataclass(frozen=True)
class Case:
    """One model to try a pass on; nobody changes ``model``.

    name: unique in its suite, and readable. expected: the stored outputs of each feed, in the
    order of the model's outputs; None (for all, or for one feed): what the original computes in
    the runtime is the reference. rtol, atol: for ``expected`` only.
    """

    name: str
    model: onnx.ModelProto
    feeds: tuple[Feed, ...]
    expected: tuple[tuple[Any, ...] | None, ...] | None = None
    rtol: float = 1e-3
    atol: float = 1e-5


@dataclass(frozen=True)
class Suite:
    """A named collection of cases. summary: one sentence. cases: yields them, made when asked."""

    name: str
    summary: str
    cases: Callable[[], Iterator[Case]]
