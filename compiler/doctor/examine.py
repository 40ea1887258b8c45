"""Look at a model for a target: what it breaks, what it costs, what to do."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from ...ir.errors import InputError, TargetError, UsageError
from ...ir.graph import all_nodes
from ...ir.load import load_as_written
from ...ir.signature import Signature
from ...ir.types.bound import bound_shapes, symbols
from ...targets.cost.predict import predict
from ...targets.loader import load_target
from ...targets.rules import results
from ...targets.rules.rule import View
from ...targets.rules.table import rule_named
from ...targets.runtime import PROVIDER, open_session
from ...targets.schema import Target
from ...targets.techniques import runs_on_cpu
from ..data.feeds import load_feeds
from ..data.feedset import Feeds
from ..data.usercode import is_function_reference
from ..elsewhere import not_the_target
from ..memory import bindings_of
from ..modelfile import model_file
from ..progress import Progress
from ..reporting.manifest import MANIFEST, read
from ..timing import MIN_ROUNDS, time_alternating
from ..workload import parse_workloads
from .causes import (
    Broken,
    Cost,
    broken_rules,
    causes_of,
    measured_cost,
    predicted_cost,
    unexplained,
    unexplained_cause,
    unknown_cost,
)
from .diagnosis import Cause, Diagnosis, Place, Run, by_operator, ordered
from .executed import Executed, executed
from .feeding import MOST_FEEDS, SIZES, feeds_for, too_large
from .mend import check_output, mend
from .process import record_alone
from .remedies import advice, mendable, with_command
from .trace import Trace, read_trace

SECONDS = 3.0
"""Budget of the profile, and of the timing without the profiler."""
RESULTS = {
    **{rule.id: 0 for rule in results.RULES},
    "quantized-unasked": 1,
    "pair-sums-saturate": 2,
}
"""Rules on what a model computes, not on how fast: the surest to ruin it lowest."""
WITHOUT_VNNI = "x86-avx2"
REFUSED = "onnxruntime refuses the model"
"""How messages begin of models that do not load."""
BUSY, NOTABLE = 1.5, 0.5
"""Times that a run may take of what its nodes do, for runs of more than so many milliseconds."""
CODED = frozenset({"QuantizeLinear", "DequantizeLinear", "MatMulNBits", "GatherBlockQuantized"})


def examine(
    model: str | Path,
    target: str | Path | Target | None = None,
    *,
    calibration: Any = None,
    workload: str | Sequence[str] | None = None,
    threads: int = 0,
    fix: str | Path | None = None,
    progress: Progress,
    seconds: float = SECONDS,
) -> Diagnosis:
    """Why a model is not faster, smaller or right on a target.

    model: an ONNX file or an artifact's folder. target: None for that of the artifact, else
    ``host``. calibration: what to profile it on, as ``load_feeds`` takes it; without any, numbers
    are generated, with the sizes of ``workload`` ("batch=1,seq=128"). threads: of the runtime, 0:
    one a core. fix: where to write a copy in which is mended what can be in the file itself.

    The file is checked against the rules of the target; where this machine is the target, it is
    also run, and every finding carries what it costs. Where the model cannot be run the rules are
    still told, and why it cannot. Raises InputError for what is no ONNX file and for data that does
    not fit it, UsageError, and TargetError for a target that does not exist.
    """
    path, known = _given(model), _target(model, target)
    check_output(fix, known)
    progress.phase("reading the model")
    graph = load_as_written(path)
    view = View(graph, known)
    parse_workloads(workload or (), symbols(graph))  # before any work is done
    if calibration is not None:
        calibration = load_feeds(calibration, Signature.of(graph))
    progress.phase("checking the rules")
    broken = broken_rules(view)
    why = not_the_target(known) if runs_on_cpu(known) else _elsewhere(known)
    run, ran, problem = None, None, why
    if not why:
        run, ran, problem = _measured(
            path, graph, calibration, workload, threads, seconds, progress
        )
    cost, total = _costs(run, ran)
    if why:
        run, cost, total = _predicted(graph, known, workload, threads)
    found = _causes(view, broken, cost, total, ran)
    if problem.startswith(REFUSED) and all(cause.severity != "error" for cause in found):
        found.append(_refused(problem))
    mended = None
    if fix is not None:
        progress.phase("mending")
        mended = mend(
            path, Path(fix), known, calibration=calibration, workload=workload, threads=threads,
            seconds=seconds, runs=ran is not None,
        )  # fmt: skip
    offered = mendable(graph, broken)
    found = [with_command(cause, str(model), known, offered, mended) for cause in found]
    return Diagnosis(
        str(model), known, ordered(found, RESULTS), run, problem, _layers(ran), _quantized(graph),
        tuple(_notes(view, graph, str(model), run)), mended,
    )  # fmt: skip


def _given(model: str | Path) -> Path:
    text = str(model)
    if text.endswith(".py") or is_function_reference(text):
        hint = "export the model to ONNX first, or compile it: `planish compile` takes functions"
        raise UsageError("only ONNX files can be examined", where=text, hint=hint)
    return model_file(model).absolute()


def _target(model: str | Path, target: str | Path | Target | None) -> Target:
    if isinstance(target, Target):
        return target
    if target is not None:
        return load_target(str(target))
    folder = Path(model)
    if folder.is_dir() and (folder / MANIFEST).is_file():
        return load_target(str(read(folder)["target"]))
    return load_target("host")


def _elsewhere(target: Target) -> str:
    runtime = target.runtime
    return f"{target.name} runs {runtime.name} {runtime.provider}".strip() + f", here is {PROVIDER}"


def _measured(
    path: Path, graph: ir.Model, calibration: Any, workload: str | Sequence[str] | None,
    threads: int, seconds: float, progress: Progress,
) -> tuple[Run | None, Executed | None, str]:  # fmt: skip
    """Times on this machine, or the reason why there are none."""
    shortage = too_large(graph)
    if shortage:
        return None, None, shortage
    try:
        feeds, source = feeds_for(graph, calibration, workload)
    except InputError as error:
        return None, None, _said(error)
    chosen = [feeds[index] for index in range(min(len(feeds), MOST_FEEDS))]
    progress.phase("profiling")
    with tempfile.TemporaryDirectory(prefix="planish-") as name:
        folder = Path(name)
        try:
            recorded = record_alone(
                path, chosen, folder, threads=threads, seconds=seconds, entries={}
            )
        except (InputError, TargetError) as error:
            return None, None, _said(error, "" if calibration is not None else _other_feeds(graph))
        trace = read_trace(recorded.trace, skip=recorded.skip, feeds=len(chosen))
        written = onnx.load(recorded.graph, load_external_data=False)
    ran = executed(written, trace, graph)
    progress.phase("timing")
    ms = _plain_ms(path, chosen, trace, threads, seconds)
    spent = by_operator([(row.op, row.ms) for row in ran.rows if row.ms is not None])
    return Run("measured", ms, spent, source, len(chosen), trace.rounds, threads), ran, ""


def _plain_ms(
    path: Path, feeds: Sequence[Feeds], trace: Trace, threads: int, seconds: float
) -> float:
    """Milliseconds of a run without the profiler; with it where runs are long: there it costs
    nothing that could be seen."""
    if trace.ms * len(feeds) * MIN_ROUNDS > 2e3 * seconds:
        return trace.ms
    paired = time_alternating([open_session(path, threads=threads)], feeds, budget=seconds)
    return 1e3 * float(paired.medians[0]) / len(feeds)


def _said(error: InputError | TargetError, other_feeds: str = "") -> str:
    if other_feeds and not error.what.startswith(REFUSED):
        return f"{error.what}; the feeds were generated: {other_feeds}"
    return f"{error.what}; {error.hint}" if error.hint else error.what


def _other_feeds(graph: ir.Model) -> str:
    """How to have the model profiled on others than generated feeds."""
    sizes = "sizes with --workload, or " if symbols(graph) else ""
    return f"give {sizes}data of its own with --calibration"


def _costs(run: Run | None, ran: Executed | None) -> tuple[Cost, float | None]:
    if run is None or ran is None:
        return unknown_cost, None
    return measured_cost(ran), run.nodes_ms


def _predicted(
    graph: ir.Model, target: Target, workload: str | Sequence[str] | None, threads: int
) -> tuple[Run | None, Cost, float | None]:
    """Times from the target's figures; none where it has none."""
    asked = parse_workloads(workload or (), symbols(graph))
    sizes = bindings_of(graph, (), SIZES) | (dict(asked[0].bindings) if asked else {})
    found = predict(graph, target, bound_shapes(graph, sizes), threads)
    rows = zip(graph.graph, found.nodes, strict=True)
    by_node = {node: row.ms for node, row in rows}
    if found.ms is None:
        return None, unknown_cost, None
    known = [(row.op, row.ms) for row in found.nodes if row.ms]
    source = ", ".join(f"{name}={count}" for name, count in sizes.items())
    run = Run("predicted", found.ms, by_operator(known), source, threads=threads, note=found.note)
    return run, predicted_cost(by_node), run.nodes_ms


def _causes(
    view: View, broken: Sequence[Broken], cost: Cost, total: float | None, ran: Executed | None
) -> list[Cause]:
    found = causes_of(broken, cost, total, ran)
    if ran is None:
        return found
    left = unexplained(view, broken, ran)
    return [*found, unexplained_cause(left, cost, total, ran)] if left else found


def _refused(problem: str) -> Cause:
    fix = "mend what the runtime names, or export the model again; no rule knows this refusal"
    return Cause("", "error", problem, fix, (Place("", "", ""),))


def _layers(ran: Executed | None) -> tuple[int, int] | None:
    """Executed nodes that multiply by a stored weight: in integers, and all."""
    if ran is None:
        return None
    known = [row.integer for row in ran.rows if row.integer is not None]
    return sum(known), len(known)


def _quantized(graph: ir.Model) -> bool:
    return any(
        node.op_type in CODED or "Integer" in node.op_type or node.op_type.startswith("QLinear")
        for node in all_nodes(graph)
    )


def _notes(view: View, graph: ir.Model, model: str, run: Run | None) -> Iterator[str]:
    """What is no cause, but good to know."""
    target = view.target
    if not len(graph.graph):
        yield "the graph holds no node: there is nothing to compute"
    elif not _quantized(graph) and runs_on_cpu(target):
        yield advice(model, target)
    if run is not None and run.ms is not None and run.ms > BUSY * run.nodes_ms > BUSY * NOTABLE:
        yield (
            f"a run took {run.ms:.3g} ms, its nodes {run.nodes_ms:.3g} ms: this machine is busy "
            "with something else; shares hold, whole times may not"
        )
    if target.arch != "x86_64" or target.int8.saturates or not runs_on_cpu(target):
        return
    elsewhere: Callable[[View], Any] = rule_named("pair-sums-saturate").check
    count = len(list(elsewhere(replace(view, target=load_target(WITHOUT_VNNI), answers={}))))
    if count:
        yield (
            f"on CPUs without VNNI the 16-bit sums of {count} of its layers can saturate: before "
            f"it goes there, run this with --target {WITHOUT_VNNI}"
        )
