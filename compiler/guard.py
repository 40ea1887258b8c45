"""A pass that planish did not write, kept to its contract: called with limits, its answers checked.

It may look at the graph and not touch it, hand over candidates without end, take its time, give
numbers that are none, or raise: each ends in a ``PassError`` that names the file and the line, and
the graph is put back as it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_ir as ir

from ..ir.editing.checks import check_numbers, checked, edit_conflicts
from ..ir.editing.state import State
from ..ir.errors import (
    EndlessError,
    OvertimeError,
    PassError,
    PlanishError,
    TargetError,
    near,
)
from ..ir.graph import all_graphs, all_nodes
from ..ir.rewriter import EditRecord, Rewriter
from ..passes.api import (
    AnalysisKey,
    Candidate,
    Context,
    Pass,
    Perturbation,
    Refusal,
    Semantics,
    T,
)
from ..passes.registry import is_own, place_of
from ..targets.schema import Target
from .data.usercode import place_in
from .data.userimports import importable
from .instruments import StrayEditError
from .timelimit import TimeLimit, TimeUpError

OFFERS, OFFERS_PER_NODE = 1_000, 50
OPERATIONS, OPERATIONS_PER_NODE = 10_000, 200
"""Bounds on what one pass offers and one edit does; nothing sensible comes near them."""


class Guard:
    """What the manager calls instead of a pass; passes of planish itself are called as they are.

    timeout: seconds that one call may take, 0 for any. known: planish wrote the pass, or it was
    never registered, so that no user can ask for it. trusted: it
    is not looked at; the harness does that itself, as it has to see every lie.
    """

    def __init__(self, pass_: Pass, rewriter: Rewriter, timeout: float) -> None:
        self.pass_, self.rewriter, self.timeout = pass_, rewriter, timeout
        written: type[Pass] = type(cast(Pass, getattr(pass_, "inner", pass_)))
        self.known = is_own(written) or not written.place
        self.trusted = self.known or type(pass_).__module__.startswith(f"{__package__}.harness")
        self.edited = False
        self._written, self._file = written, place_of(written).rpartition(":")[0]
        self._state = None if self.trusted else State.at(rewriter.model)
        self._quiet = self._state
        self._size = 0 if self.trusted else sum(1 for _ in all_nodes(rewriter.model))
        self._graphs = () if self.known else tuple(all_graphs(rewriter.model))
        self._stored = _stored_bytes(self._graphs)

    def candidates(self, ctx: Context) -> Iterator[Candidate | Refusal]:
        """What the pass offers."""
        if self.known:
            yield from self.pass_.candidates(self.rewriter.model, ctx)
            return
        found: list[Candidate | Refusal] = []
        limit = math.inf if self.trusted else OFFERS + OFFERS_PER_NODE * self._size
        with self._call("candidates", ctx) as seen:
            for offer in self.pass_.candidates(self.rewriter.model, seen):
                self._check_offer(offer)
                found.append(offer)
                if len(found) > limit:
                    raise EndlessError(f"candidates() yields more than {limit} candidates")
        self._check_untouched("candidates")
        yield from found

    def perturb(self, candidate: Candidate, ctx: Context) -> Perturbation | None:
        """The numeric half of an edit."""
        return self._numbers("perturb", candidate, ctx)

    def outline(self, candidate: Candidate, ctx: Context) -> Perturbation | None:
        """The same with numbers that mean nothing, for a plan."""
        return self._numbers("outline", candidate, ctx)

    def lower(self, candidate: Candidate, perturbation: Perturbation | None, ctx: Context) -> None:
        """Restructure the graph."""
        model = self.rewriter.model
        if self.known:
            self.pass_.lower(model, candidate, perturbation, self.rewriter, ctx)
            return
        before, rewriter = self.rewriter.max_operations, self.rewriter
        self._quiet, self.edited = None, True
        if not self.trusted:
            rewriter = checked(rewriter)
            self.rewriter.max_operations = OPERATIONS + OPERATIONS_PER_NODE * self._size
        try:
            with self._call("lower", ctx) as seen:
                self.pass_.lower(model, candidate, perturbation, rewriter, seen)
        finally:
            self.rewriter.max_operations = before

    def check_edit(self, record: EditRecord) -> None:
        """Raise PassError where an edit left values that declare what they cannot be."""
        lies = [] if self.trusted else list(edit_conflicts(record))
        if lies:
            said = "; ".join(dict.fromkeys(lies))
            raise PassError(f"shapes or types do not fit: {said}")

    def saved(self, stated: int) -> int:
        """Bytes of stored numbers that the edit that was just made saves, measured.

        stated: by the candidate; of planish's own passes that counts.
        """
        if self.known:
            return stated
        before, self._stored = self._stored, _stored_bytes(self._graphs)
        return before - self._stored

    def put_back(self) -> None:
        """After the rewriter's rollback: undo what a pass did behind its back."""
        if self._state is not None and any(True for _ in self._state.differences()):
            self._state.restore()

    def judged(self, error: BaseException) -> BaseException:
        """What the runtime says of a graph that a pass has edited is said of the pass."""
        if isinstance(error, TargetError) and self.edited and not self.known:
            return PassError(f"the graph that the pass leaves does not run: {error.what}")
        return error

    def blame(self, error: PlanishError) -> None:
        """Say where the pass is written that changes graphs; what already says so stays."""
        if not self.known and self._file not in error.where:
            place = self.line_of("lower")
            error.where = f"{place}: {error.where}" if error.where else place

    def without_folder(self, where: str) -> str:
        """A place that goes into an artifact: whose folders are whose is nobody's business."""
        folder = str(Path(self._file).parent)
        return where.replace(f"{folder}/", "") if folder not in (".", "/") else where

    def line_of(self, hook: str) -> str:
        """``file:line`` of a hook of the pass; of the pass where the file has no such line."""
        code = getattr(getattr(self._written, hook, None), "__code__", None)
        if code is not None and code.co_filename == self._file:
            return f"{code.co_filename}:{code.co_firstlineno}"
        return place_of(self._written)

    # -- inside ------------------------------------------------------------------------

    def _numbers(self, hook: str, candidate: Candidate, ctx: Context) -> Perturbation | None:
        model, ask = self.rewriter.model, getattr(self.pass_, hook)
        if self.known or type(self.pass_).perturb is Pass.perturb:
            found: Perturbation | None = ask(model, candidate, ctx)
            return found
        with self._call(hook, ctx) as seen:
            found = ask(model, candidate, seen)
            if not self.trusted:
                self._check_perturbation(found, candidate)
        self._check_untouched(hook)
        return found

    @contextmanager
    def _call(self, hook: str, ctx: Context) -> Iterator[Context]:
        """A call into the pass, its clock running and its folder importable."""
        limit = TimeLimit(self.timeout or 1e8)
        folder = Path(self._file).parent if Path(self._file).is_file() else None
        try:
            with importable(folder), limit.running():
                yield _Paused(ctx, limit)
        except TimeUpError as error:
            raise OvertimeError(
                f"{hook}() took more than {self.timeout:g} seconds",
                where=place_in(error, self._file) or self.line_of(hook),
                hint="look for a loop without end there, or allow more with --pass-timeout",
            ) from error
        except (PassError, AssertionError) as error:
            known = error if isinstance(error, PassError) else _failed(error)
            place = place_in(error, self._file) or self.line_of(hook)
            if self._file not in known.where:
                known.where = f"{place}: {known.where}" if known.where else place
            raise known from error
        except (PlanishError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            known = _failed(error)
            known.where = place_in(error, self._file) or self.line_of(hook)
            raise known from error

    def _check_untouched(self, hook: str) -> None:
        if self.trusted:
            return
        if self._quiet is None:
            self._quiet = State.at(self.rewriter.model)
            return
        found = list(self._quiet.differences())
        if found:
            said = f"the pass changed the graph behind the rewriter's back, in {hook}()"
            raise StrayEditError(f"{said}: {', '.join(found[:3])}", where=self.line_of(hook))

    def _check_offer(self, offer: Any) -> None:
        if isinstance(offer, (Candidate, Refusal)):
            return
        raise PassError(
            f"candidates() yields a {type(offer).__name__}, not a Candidate or Refusal",
            hint="yield Candidate(site, setting)",
        )

    def _check_perturbation(self, found: Any, candidate: Candidate) -> None:
        lossy = self.pass_.semantics is Semantics.LOSSY
        if not isinstance(found, Perturbation) and not (found is None and not lossy):
            raise PassError(
                f"perturb() returns a {type(found).__name__}, not a Perturbation",
                where=f"site {candidate.site}",
                hint="a lossy pass says what changes: its loss is measured from that",
            )
        if found is None:
            return
        model = self.rewriter.model
        values = {str(v.name) for v in model.graph.inputs}
        values.update(str(o.name) for node in model.graph for o in node.outputs)
        for name in (*found.inputs, *found.outputs, *found.fake_quants):
            if name not in values:
                raise PassError(
                    f"the perturbation names {name!r}, which the graph does not compute",
                    hint=near(name, values),
                )
        for name, array in found.tensors.items():
            _check_tensor(name, array, model.graph.initializers.get(name))


def _stored_bytes(graphs: Iterable[ir.Graph]) -> int:
    """Of all constants that something reads."""
    values = (v for graph in graphs for v in graph.initializers.values())
    read = (v.const_value for v in values if v.uses() or v.is_graph_output())
    return sum(tensor.nbytes for tensor in read if tensor is not None)


def _failed(error: BaseException) -> PassError:
    text = " ".join(str(error).split())[:600]
    name = type(error).__name__
    return PassError(f"the pass failed with {name}: {text}" if text else f"the pass raised {name}")


def _check_tensor(name: str, array: Any, value: ir.Value | None) -> None:
    tensor = None if value is None else value.const_value
    if tensor is None:
        raise PassError(f"the perturbation changes {name!r}, which is no stored tensor")
    shape = tuple(tensor.shape.numpy())
    if np.shape(array) != shape or np.asarray(array).dtype != tensor.dtype.numpy():
        given = f"{np.asarray(array).dtype.name}{list(np.shape(array))}"
        wanted = f"{tensor.dtype.numpy().name}{list(shape)}"
        raise PassError(f"the perturbation gives {name!r} as {given}, it is {wanted}")
    check_numbers(name, array, tensor)


class _Paused:
    """A context whose analyses do not count as time of the pass."""

    def __init__(self, inner: Context, limit: TimeLimit) -> None:
        self._inner, self._limit = inner, limit

    @property
    def target(self) -> Target:
        return self._inner.target

    def analysis(self, key: AnalysisKey[T], argument: Any = None) -> T:
        with self._limit.paused():
            return self._inner.analysis(key, argument)

    def remark(self, kind: str, site: str, code: str, sentence: str) -> None:
        self._inner.remark(kind, site, code, sentence)
