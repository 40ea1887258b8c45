"""Make a failing case small: delta debugging on ONNX models.

Source: Zeller, Hildebrandt, "Simplifying and isolating failure-inducing input" (2002). Every
intermediate is a model that ONNX's checker accepts (where it accepted the original) and that the
runtime runs on its feeds. Nothing is drawn at random, so the same case shrinks to the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import onnx

from .bodies import smaller_bodies
from .case import Case
from .cuts import Types, bypassed, induced, node_count, recorded, with_outputs
from .execute import run_all
from .sizes import plainer_nodes, smaller_sizes, tidier

T = TypeVar("T")
Interesting = Callable[[Case], bool]
Changes = Callable[[Case], Iterator[Case]]
"""Cases that are smaller in some way."""

DEFAULT_BUDGET = 600
"""Cases tried; a case takes some tenths of a second."""


def shrink(
    case: Case,
    interesting: Interesting,
    budget: int = DEFAULT_BUDGET,
    more: Sequence[Changes] = (),
) -> Case:
    """The smallest case found that is still interesting; ``case`` itself where none is.

    interesting: whether a case shows the same failure; it is asked at most ``budget`` times, and
    only about models that ONNX's checker and the runtime accept, where they accept the first one.
    Stored outputs are dropped with the first change. more: further ways to make a case smaller,
    tried last.
    """
    runs = _runs(case)
    search = _Search(case, interesting, budget, runs and _checked(case.model), runs)
    size = None
    while search.left > 0 and size != _size(search.case):
        size = _size(search.case)
        for step in (*STEPS, *map(_each, more)):
            step(search)
    return search.case


@dataclass
class _Search:
    """The smallest case so far. left: how often ``interesting`` may still be asked.

    strict, runs: whether ONNX's checker and the runtime have to accept every case.
    """

    case: Case
    interesting: Interesting
    left: int
    strict: bool
    runs: bool

    def take(self, candidate: Case | None) -> bool:
        """Whether the candidate is valid and interesting; it is then the case to go on from."""
        if candidate is None or self.left <= 0 or not self._valid(candidate):
            return False
        self.left -= 1
        if not self.interesting(candidate):
            return False
        self.case = candidate
        return True

    def _valid(self, case: Case) -> bool:
        if self.strict and not _checked(case.model):
            return False
        return not self.runs or _runs(case)


def minimized(items: list[T], keep: Callable[[list[T]], bool]) -> list[T]:
    """Items without any chunk whose absence ``keep`` accepts: halves, quarters, … single ones."""
    size = max(len(items) // 2, 1)
    while size:
        start = 0
        while start < len(items) and len(items) > 1:
            rest = items[:start] + items[start + size :]
            if rest and keep(rest):
                items = rest
            else:
                start += size
        size //= 2
    return items


def _fewer_feeds(search: _Search) -> None:
    for feed in search.case.feeds[: len(search.case.feeds) if len(search.case.feeds) > 1 else 0]:
        if search.take(replace(search.case, feeds=(feed,), expected=None)):
            return


def _fewer_nodes(search: _Search) -> None:
    case, values = search.case, recorded(search.case)
    if values is None:
        return
    types = Types.of(case.model)
    minimized(
        list(range(node_count(case))),
        lambda kept: search.take(induced(case, frozenset(kept), values, types)),
    )


def _fewer_outputs(search: _Search) -> None:
    case = search.case
    names = [o.name for o in case.model.graph.output]
    minimized(names, lambda kept: search.take(with_outputs(case, kept)))


def _bypasses(search: _Search) -> None:
    index = 0
    while index < node_count(search.case):
        tried = any(search.take(candidate) for candidate in bypassed(search.case, index))
        index += 0 if tried else 1


def _each(make: Changes) -> Callable[[_Search], None]:
    """A step that takes the first candidate that will do, and asks for candidates anew."""

    def step(search: _Search) -> None:
        while any(search.take(candidate) for candidate in make(search.case)):
            pass

    return step


STEPS: tuple[Callable[[_Search], None], ...] = (
    _fewer_feeds,
    _fewer_nodes,
    _fewer_outputs,
    _bypasses,
    _each(smaller_bodies),
    _each(smaller_sizes),
    _each(plainer_nodes),
    _each(tidier),
)


def _checked(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model)
    except Exception:
        return False
    return True


def _runs(case: Case) -> bool:
    """Whether the runtime takes the model and its feeds."""
    try:
        run_all(case.model.SerializeToString(), case.feeds)
    except Exception:  # the runtime's Python side raises what it likes
        return False
    return True


def _size(case: Case) -> tuple[int, int, int]:
    return node_count(case), len(case.feeds), case.model.ByteSize()
