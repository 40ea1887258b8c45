"""Running the points of a probe: small groups together, disturbed ones again."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from ..runtime import open_session
from .busy import Load, Usage, complaint, disagreement, load_between, read_usage
from .clock import VISITS, Clock, Runnable, Timing, clock_for, time_together
from .graphs import Graph, Key, product
from .points import MAX_COPIES, Grid, Point, points
from .streams import STREAMS, ports

GROUP = 8  # sessions alive at one time
_CHAIN = 64

Say = Callable[[int, int], None]


@dataclass(frozen=True)
class Overheads:
    """Seconds: of a run of a graph of one node, of each further node, of each further port."""

    call: float
    node: float
    port: float


@dataclass(frozen=True)
class Found:
    """Everything timed with one count of threads. microseconds of one node by table and key."""

    threads: int
    overheads: Overheads
    microseconds: dict[tuple[str, Key], float]
    bandwidth: dict[int, float]
    load: Load
    disagreement: float

    @property
    def busy(self) -> str:
        """Why these figures are not to be trusted; "" where they are."""
        return complaint(self.load, self.disagreement)


@dataclass(frozen=True)
class _Timed:
    """The runs of a graph, and what one of them holds."""

    timing: Timing
    nodes: int
    ports: int

    def of_node(self, overheads: Overheads) -> float:
        """Microseconds of one node; never less than half the cost of an empty one."""
        around = overheads.call + self.ports * overheads.port
        return 1e6 * max((self.timing.seconds - around) / self.nodes, overheads.node / 2, 1e-8)

    def merged(self, other: _Timed) -> _Timed:
        return replace(self, timing=self.timing.merged(other.timing))


def measure(
    grid: Grid,
    threads: int,
    *,
    budget: float = 80.0,
    say: Say = lambda done, of: None,
    clock: Clock = time.monotonic,
    usage: Callable[[], Usage | None] = read_usage,
) -> Found:
    """Time every point of a grid within about ``budget`` seconds.

    On a busy machine what was disturbed most is timed again as long as the budget lasts; on a
    slow one points are visited less often, and the last ones are left out.
    """
    before, end = usage(), clock() + budget
    overheads = measure_overheads(threads)
    todo = points(grid)
    timed: dict[Point, _Timed] = {}
    for group in _groups(todo):
        if timed and clock() > end:
            break
        late = (end - clock()) / budget < 1 - len(timed) / len(todo)
        timed.update(_time(group, threads, 1 if late else VISITS))
        say(len(timed), len(todo))
    load = load_between(before, usage())
    if complaint(load, disagreement([t.timing for t in timed.values()])):
        for group in _groups(by_disturbance(timed)):
            if clock() > end:
                break
            timed.update((p, timed[p].merged(t)) for p, t in _time(group, threads, 1).items())
    return Found(
        threads,
        overheads,
        {(p.table, p.key): t.of_node(overheads) for p, t in timed.items()},
        {size: measure_bandwidth(size, threads, overheads) for size in grid.weights},
        load,
        disagreement([t.timing for t in timed.values()]),
    )


def measure_overheads(threads: int) -> Overheads:
    """What the runtime adds around nodes, from graphs of nodes that do next to nothing."""
    unary = STREAMS["unary"]
    graphs = [unary((1,), 1), unary((1,), _CHAIN), ports((1,), MAX_COPIES)]
    runs = [_run(graph, threads) for graph in graphs]
    timings = time_together(runs, clock=clock_for(threads))
    one, many, beside = (timing.seconds for timing in timings)
    node = max(1e-8, (many - one) / (_CHAIN - 1))
    port = max(0.0, (beside - one) / (MAX_COPIES - 1) - node)
    return Overheads(max(0.0, one - node), node, port)


def measure_bandwidth(size: int, threads: int, overheads: Overheads) -> float:
    """GB/s with which a row times a matrix of ``size`` bytes reads the matrix."""
    depth = min(1024, size // 256)
    run = _run(product((1, depth, size // 4 // depth), 1), threads)
    (timing,) = time_together([run], clock=clock_for(threads))
    return size / max(1e-9, timing.seconds - overheads.call) / 1e9


def by_disturbance(timed: Mapping[Point, _Timed]) -> list[Point]:
    """All points, those whose visits disagree most first."""
    return sorted(timed, key=lambda point: -timed[point].timing.disagreement)


def _time(group: Sequence[Point], threads: int, visits: int) -> dict[Point, _Timed]:
    graphs = [point.graph() for point in group]
    runs = [_run(graph, threads) for graph in graphs]
    timings = time_together(runs, visits=visits, clock=clock_for(threads))
    return {
        point: _Timed(timing, graph.nodes, graph.ports)
        for point, graph, timing in zip(group, graphs, timings, strict=True)
    }


def _run(graph: Graph, threads: int) -> Runnable:
    session = open_session(graph.model, threads=threads)
    return functools.partial(session.run_outputs, [graph.fetch], graph.feeds)


def _groups(todo: Iterable[Point]) -> Iterator[list[Point]]:
    rest = iter(todo)
    while group := list(islice(rest, GROUP)):
        yield group
