"""The rules: what must hold of every trial of a pass. A rule sees; it runs nothing but what tells
a difference from rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ...ir.errors import (
    EndlessError,
    PassError,
    PlanishError,
    TargetError,
    UsageError,
    VerifyError,
)
from ...ir.save import to_bytes
from ...passes.api import Semantics
from ...targets.techniques import runs_on_cpu
from ..instruments import BrokenPromiseError, StrayEditError
from ..quality.equality import difference, whole_graph_tolerance
from ..quality.noise import is_noise
from .declared import claims
from .execute import Outputs, run_all
from .trial import IMPORT, Runs, Stage, Stop, Trial

SIGNATURE = "signature: "


@dataclass(frozen=True)
class Found:
    """What breaks a rule, and in which stage."""

    sentence: str
    stage: str = ""


@dataclass(frozen=True)
class Rule:
    """A rule by its stable name. summary: what must hold, one sentence."""

    name: str
    summary: str
    check: Callable[[Trial], Iterable[Found]]


# -- how the way ended ---------------------------------------------------------------------


def _crash(trial: Trial) -> Iterator[Found]:
    stop = trial.stop
    if stop is None:
        return
    cause = stop.error.__cause__ if type(stop.error) is PassError else stop.error
    if cause is not None and not isinstance(cause, PlanishError):
        yield Found(f"{type(cause).__name__}: {_line(str(cause))}", stop.stage)


def _refused(trial: Trial) -> Iterator[Found]:
    stop = trial.stop
    if stop is None or stop.running or list(_crash(trial)):
        return
    if trial.optimized is None and isinstance(stop.error, TargetError):
        return  # with its optimisations on the runtime refuses the original, too
    told = (BrokenPromiseError, EndlessError, StrayEditError, UsageError, VerifyError)
    if isinstance(stop.error, PlanishError) and not isinstance(stop.error, told):
        yield Found(_line(stop.error.what), stop.stage)


def _termination(trial: Trial) -> Iterator[Found]:
    if trial.stop is not None and isinstance(trial.stop.error, EndlessError):
        yield Found(_line(trial.stop.error.what), trial.stop.stage)
    for stage in trial.stages:
        if stage.again:
            yield Found(f"a second run makes {stage.again} more edits", stage.name)


# -- structure -----------------------------------------------------------------------------


def _broken(trial: Trial) -> Iterator[Found]:
    """Structural problems wherever they came to light, those of the signature among them."""
    for stage in trial.stages:
        yield from (Found(problem, stage.name) for problem in stage.problems)
        rejected = (r for r in stage.remarks if r.code == "not-well-formed")
        yield from (
            Found(_line(r.sentence.partition("well formed: ")[2]), stage.name) for r in rejected
        )
    if trial.stop is not None and isinstance(trial.stop.error, VerifyError):
        yield from (Found(v, trial.stop.stage) for v in trial.stop.error.violations)
    if trial.final is not None and not any(s.problems for s in trial.stages):
        yield from (Found(problem, "the finished graph") for problem in trial.final.problems)


def _verify(trial: Trial) -> Iterator[Found]:
    return (found for found in _broken(trial) if SIGNATURE not in found.sentence)


def _signature(trial: Trial) -> Iterator[Found]:
    for place in (*trial.stages, trial.stop):
        if place is not None:
            yield from (Found(sentence, _name(place)) for sentence in place.faces)
    if trial.final is None or trial.signature is None:
        return
    for sentence in trial.signature.difference(trial.final.signature):
        yield Found(f"in the file, {sentence}")
    names = list(trial.plain[0]) if trial.plain else []
    if isinstance(trial.final.plain, tuple) and list(trial.final.plain[0]) != names:
        yield Found(f"the original's outputs are {names}, now {list(trial.final.plain[0])}")


def _name(place: Stage | Stop) -> str:
    return place.name if isinstance(place, Stage) else place.stage


def _shapes(trial: Trial) -> Iterator[Found]:
    theirs = claims(trial.case.model) if trial.untrue else {}
    for item in trial.untrue:
        if item.name not in theirs or theirs[item.name] != item.claim:
            yield Found(item.sentence, IMPORT)
    known = {item.name for item in trial.untrue}
    for item in trial.final.untrue if trial.final else ():
        if item.name not in known:
            yield Found(item.sentence, "the finished graph")


# -- numbers -------------------------------------------------------------------------------


def _bits(trial: Trial) -> Iterator[Found]:
    yield from _told(trial, Semantics.EXACT)
    for stage in trial.stages:
        if stage.promise is Semantics.EXACT:
            yield from _differences(trial, stage)
    final = trial.final
    if final is not None and isinstance(final.plain, tuple) and trial.stages:
        last = trial.stages[-1].after
        yield from _compared(trial, last, final.plain, None, "the file")


def _tolerance(trial: Trial) -> Iterator[Found]:
    yield from _told(trial, Semantics.REASSOCIATES)
    for stage in trial.stages:
        if stage.promise is Semantics.REASSOCIATES:
            yield from _differences(trial, stage)
        if stage.promise is Semantics.LOSSY:
            yield from _not_finite(trial, stage)
    yield from _optimised(trial)


def _told(trial: Trial, promise: Semantics) -> Iterator[Found]:
    stop = trial.stop
    error = None if stop is None else stop.error
    if stop is not None and isinstance(error, BrokenPromiseError) and error.promise is promise:
        yield Found(_line(error.what), stop.stage)


def _differences(trial: Trial, stage: Stage) -> Iterator[Found]:
    return _compared(trial, stage.before, stage.after, stage.tolerance, stage.name)


def _compared(
    trial: Trial, before: Runs, after: Runs, tolerance: float | None, stage: str
) -> Iterator[Found]:
    for number, (old, new) in enumerate(zip(before, after, strict=True), 1):
        for name in old:
            if name not in trial.settled or name not in new:
                continue
            found = difference(old[name], new[name], tolerance)
            if found and not (tolerance and _is_noise(trial, number - 1, name, old, new)):
                yield Found(f"output {name!r} on feed {number}: {found}", stage)
                return


def _is_noise(trial: Trial, number: int, name: str, old: Outputs, new: Outputs) -> bool:
    """Whether rounding alone makes the difference; of a graph that has come to its end."""
    feed = trial.case.feeds[number]

    def run(model: ir.Model) -> Outputs:
        return run_all(to_bytes(model), (feed,))[0]

    return trial.final is not None and is_noise(trial.final.model, name, old[name], new[name], run)


def _not_finite(trial: Trial, stage: Stage) -> Iterator[Found]:
    for old, new in zip(stage.before, stage.after, strict=True):
        for name in old:
            if name in trial.settled and _finite(old[name]) and not _finite(new.get(name)):
                yield Found(f"output {name!r} is not finite any more", stage.name)
                return


def _finite(value: Any) -> bool:
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return bool(np.isfinite(value).all())
    return True


def _optimised(trial: Trial) -> Iterator[Found]:
    """With the runtime's optimisations on, too, where nothing lossy was done.

    Outputs that are nothing but rounding say nothing.
    """
    final = trial.final
    if final is None or trial.optimized is None or not isinstance(final.optimized, tuple):
        return
    if any(stage.promise is Semantics.LOSSY for stage in trial.stages):
        return
    tolerance = whole_graph_tolerance(final.model)
    yield from _compared(trial, trial.optimized, final.optimized, tolerance, "optimised")


def _expected(trial: Trial) -> Iterator[Found]:
    case, final = trial.case, trial.final
    if case.expected is None or final is None or not isinstance(final.plain, tuple):
        return
    if any(stage.promise is Semantics.LOSSY for stage in trial.stages):
        return
    for number, stored in enumerate(case.expected):
        if stored is None or not _met(trial, stored, list(trial.plain[number].values())):
            continue  # the original, too, misses it in this runtime
        if not _met(trial, stored, list(final.plain[number].values())):
            yield Found(f"the stored outputs of feed {number + 1} are missed")
            return


def _met(trial: Trial, stored: tuple[Any, ...], got: list[Any]) -> bool:
    if len(stored) != len(got):
        return False
    names = list(trial.plain[0])
    return all(
        name not in trial.settled or _near(trial, a, b)
        for name, a, b in zip(names, stored, got, strict=True)
    )


def _near(trial: Trial, stored: Any, got: Any) -> bool:
    if isinstance(stored, np.ndarray) and stored.dtype.kind == "f" and isinstance(got, np.ndarray):
        rtol, atol = trial.case.rtol, trial.case.atol
        if stored.shape != got.shape:
            return False
        return bool(np.allclose(got, stored, rtol=rtol, atol=atol, equal_nan=True))
    if isinstance(stored, list) and isinstance(got, list):
        pairs = zip(stored, got, strict=False)
        return len(stored) == len(got) and all(_near(trial, a, b) for a, b in pairs)
    return difference(stored, got, None) is None


# -- edits ---------------------------------------------------------------------------------


def _region(trial: Trial) -> Iterator[Found]:
    for stage in trial.stages:
        for remark in stage.remarks:
            if remark.code == "region-differs":
                yield Found(f"at {remark.site}, {_line(remark.sentence)}", stage.name)


def _digest(trial: Trial) -> Iterator[Found]:
    for place in (*trial.stages, trial.stop):
        if place is not None:
            yield from (Found(sentence, _name(place)) for sentence in place.touched)
    for stage in trial.stages:
        if stage.moved != bool(stage.edits) and not stage.touched:
            did = "moved" if stage.moved else "did not move"
            yield Found(f"{stage.edits} edits, but the contents digest {did}", stage.name)


def _rollback(trial: Trial) -> Iterator[Found]:
    stop = trial.stop
    if stop is not None and isinstance(stop.error, StrayEditError):
        yield Found(_line(stop.error.what), stop.stage)
    elif stop is not None and not stop.restored:
        yield Found("the failing pass left the graph changed", stop.stage)
    if trial.final is not None and not trial.final.restored:
        yield Found("rolling back does not restore the imported graph")


def _round_trip(trial: Trial) -> Iterator[Found]:
    if trial.final is not None and len(set(trial.final.digests)) > 1:
        yield Found("saved and loaded again, the contents digest is another")


def _deterministic(trial: Trial) -> Iterator[Found]:
    if trial.final is None or trial.final.second is None:
        return
    second = trial.final.second
    if isinstance(second, Exception):
        yield Found(f"the second time it fails: {type(second).__name__}: {_line(str(second))}")
    elif second != trial.final.file:
        yield Found("done twice from the start, the files differ")


def _runs(trial: Trial) -> Iterator[Found]:
    final, stop = trial.final, trial.stop
    if stop is not None and stop.running and isinstance(stop.error, PlanishError):
        yield Found(_line(stop.error.what), stop.stage)
    if final is None:
        return
    if isinstance(final.plain, PlanishError):
        yield Found(f"optimisations off: {_line(final.plain.what)}")
    if isinstance(final.optimized, PlanishError) and _runs_optimised(trial):
        yield Found(f"optimisations on: {_line(final.optimized.what)}")


def _runs_optimised(trial: Trial) -> bool:
    """Whether the runtime at hand, its optimisations on, is the one that the target means.

    ONNX Runtime's CPU provider makes kernels of what it reads that know no 8-bit floats.
    """
    return trial.optimized is not None and runs_on_cpu(trial.subject.load_target())


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


RULES: tuple[Rule, ...] = (
    Rule("crash", "nothing is raised but planish's own errors", _crash),
    Rule(
        "refused", "a model that the runtime runs is taken, by import and by every pass", _refused
    ),
    Rule("verify", "the graph obeys every structural rule after each edit", _verify),
    Rule("signature", "inputs and outputs keep names, order, dtypes and shapes", _signature),
    Rule("bits", "where EXACT is promised every bit of the outputs is the same", _bits),
    Rule("tolerance", "elsewhere outputs stay within the stated tolerance, and finite", _tolerance),
    Rule("region", "each lowered region computes its perturbed reference", _region),
    Rule("digest", "edits are reported if and only if the contents digest moved", _digest),
    Rule("termination", "work is bounded, and a second run changes nothing", _termination),
    Rule("shapes", "declared dtypes and shapes are those that the runtime computes", _shapes),
    Rule("rollback", "rolling back restores the graph, after a failure too", _rollback),
    Rule("round-trip", "saved and loaded again the contents are the same", _round_trip),
    Rule(
        "deterministic",
        "done twice from the start the files are equal, byte by byte",
        _deterministic,
    ),
    Rule("runs", "the result loads and runs, optimisations off and on", _runs),
    Rule("expected", "stored outputs that the original meets are met", _expected),
)
"""What is checked, in the order of a report."""
