"""How the time and memory of a compile grow with the graph, and what its checks cost.

Each compile runs in a fresh process, one thread, and says what CPU time each phase took. Timing
runs are told apart: they last as long as they are allowed to, whatever the size of the graph.
"""

from __future__ import annotations

import json
import math
import pkgutil
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.data import ROOT, calibration_feeds, minilm_task
from benchmarks.figures import Figure, Outcome, at_most
from benchmarks.settings import Settings

LOSSLESS, DYNAMIC = "canonicalize", "canonicalize,quantize{scheme=dynamic}"
WIDTH, HEADS = 32, 2
CHAINS, SITES = (1_000, 10_000, 40_000), (500, 1_000, 2_000)
BLOCKS = 640
"""Transformer blocks with eight sites each: more than 5,000 sites."""
LOCAL_EDITS = 200
MAX_MS, MAX_FULL_MS, MAX_LOCAL_MS, MAX_SHARE = 1.0, 200.0, 50.0, 10.0
COUPLED, MAX_COUPLING = 34, 1.0
"""Blocks of more than 1,000 nodes, and the seconds that their coupling analysis may take."""
MAX_SLOPE = 1.2
"""Exponent of time over size; 2 would be quadratic. Caches and noise cost more than nothing."""

Nodes = list[onnx.NodeProto]
Weights = list[onnx.TensorProto]


# -- graphs ------------------------------------------------------------------------------


def chain(nodes: int) -> onnx.ModelProto:
    """``nodes`` nodes one behind the other: MatMul by a 4x4 weight, Relu, and so on."""
    random, made, weights, value = np.random.default_rng(0), Nodes(), Weights(), "x"
    for i in range(nodes // 2):
        weight = (random.normal(size=(4, 4)) / 2).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{i}"))
        last = "y" if i == nodes // 2 - 1 else f"r{i}"
        made.append(helper.make_node("MatMul", [value, f"w{i}"], [f"m{i}"], name=f"matmul{i}"))
        made.append(helper.make_node("Relu", [f"m{i}"], [last], name=f"relu{i}"))
        value = last
    return _model(made, weights, ["batch", 4])


def transformer(blocks: int) -> onnx.ModelProto:
    """Blocks of attention and feed-forward layers over [batch, tokens, 32], all sizes dynamic.

    A block has six linear layers, an attention and a feed-forward site, and 31 nodes.
    """
    random, made, weights, value = np.random.default_rng(0), Nodes(), Weights(), "x"
    for name, shape in (("split", [0, 0, HEADS, WIDTH // HEADS]), ("join", [0, 0, WIDTH])):
        weights.append(numpy_helper.from_array(np.array(shape, np.int64), name))
    weights.append(numpy_helper.from_array(np.array((WIDTH // HEADS) ** -0.5, np.float32), "scale"))
    for i in range(blocks):
        value = _Block(f"encoder.layer.{i}", random, made, weights).block(value)
    made.append(helper.make_node("Identity", [value], ["y"], name="last"))
    return _model(made, weights, ["batch", "tokens", WIDTH])


@dataclass
class _Block:
    """Writes one transformer block, its values and nodes named as PyTorch's exporter does."""

    path: str
    random: np.random.Generator
    nodes: Nodes
    weights: Weights

    def block(self, x: str) -> str:
        """Attention and feed-forward, each behind a norm and beside a residual."""
        normed = self.norm("norm1", x)
        q, k, v = (self.heads(name, self.linear(name, normed, 1, 1)) for name in "qkv")
        scores = self.node(
            "MatMul", "scores", q, self.node("Transpose", "kt", k, perm=[0, 1, 3, 2])
        )
        scaled = self.node("Mul", "scaled", scores, "scale")
        mixed = self.node("MatMul", "mixed", self.node("Softmax", "softmax", scaled, axis=-1), v)
        back = self.node("Transpose", "back", mixed, perm=[0, 2, 1, 3])
        joined = self.node("Reshape", "joined", back, "join")
        x = self.node("Add", "residual1", x, self.linear("o", joined, 1, 1))
        hidden = self.node("Relu", "act", self.linear("up", self.norm("norm2", x), 1, 2))
        return self.node("Add", "residual2", x, self.linear("down", hidden, 2, 1))

    def linear(self, name: str, x: str, rows: int, columns: int) -> str:
        shape = rows * WIDTH, columns * WIDTH
        weight = self.weight(f"{name}.weight", self.random.normal(size=shape) * shape[0] ** -0.5)
        bias = self.weight(f"{name}.bias", self.random.normal(size=shape[1]) * 0.1)
        return self.node(
            "Add", f"{name}/Add", self.node("MatMul", f"{name}/MatMul", x, weight), bias
        )

    def heads(self, name: str, x: str) -> str:
        split = self.node("Reshape", f"{name}/split", x, "split")
        return self.node("Transpose", f"{name}/heads", split, perm=[0, 2, 1, 3])

    def norm(self, name: str, x: str) -> str:
        scale = self.weight(f"{name}.weight", np.ones(WIDTH))
        shift = self.weight(f"{name}.bias", np.zeros(WIDTH))
        return self.node("LayerNormalization", name, x, scale, shift, axis=-1)

    def weight(self, name: str, array: np.ndarray) -> str:
        made = numpy_helper.from_array(array.astype(np.float32), f"{self.path}.{name}")
        self.weights.append(made)
        return str(made.name)

    def node(self, op: str, name: str, *inputs: str, **attributes: Any) -> str:
        title = f"/{self.path.replace('.', '/')}/{name}"
        made = helper.make_node(op, inputs, [f"{title}_output_0"], name=title, **attributes)
        self.nodes.append(made)
        return str(made.output[0])


def _model(nodes: Nodes, weights: Weights, shape: list[Any]) -> onnx.ModelProto:
    face = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in "xy"]
    graph = helper.make_graph(nodes, "net", face[:1], face[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def linear_sites(sites: int) -> onnx.ModelProto:
    """The transformer with at least that many linear sites."""
    return transformer(math.ceil(sites / 6))


GRAPHS: dict[str, Callable[[int], onnx.ModelProto]] = {
    "chain": chain,
    "transformer": transformer,
    "sites": linear_sites,
}


# -- one compile, in a process of its own ------------------------------------------------


@dataclass
class Phases:
    """Seconds of each phase of a compile, told by what it reports; a ``Progress``."""

    clock: Callable[[], float] = time.perf_counter
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _name: str = "start"
    _since: float = field(init=False)

    def __post_init__(self) -> None:
        self._since = self.clock()

    def phase(self, name: str, total: int | None = None) -> None:
        """The present phase ends here."""
        now = self.clock()
        self.seconds[self._name] += now - self._since
        self._name, self._since = name, now

    def advance(self) -> None:
        """Nothing: steps are not timed."""

    def note(self, text: str) -> None:
        """Nothing: notes are not shown."""


def compiled(kind: str, size: int, pipeline: str, folder: Path) -> dict[str, Any]:
    """Compile a generated graph; CPU seconds by phase, nodes, and peak bytes of this process.

    In one thread CPU seconds are those of the clock, less what other processes took.
    """
    from planish.compiler.driver import compile_model

    model = GRAPHS[kind](size)
    path = folder / f"{kind}-{size}.onnx"
    onnx.save(model, path)
    nodes = len(model.graph.node)
    del model
    before, phases, start = _peak(), Phases(time.process_time), time.perf_counter()
    built = compile_model(
        path, "host", pipeline=pipeline, output=folder / f"{kind}-{size}", force=True, threads=1,
        progress=phases,
    )  # fmt: skip
    total = time.perf_counter() - start
    phases.phase("end")
    shutil.rmtree(built.folder, ignore_errors=True)
    path.unlink()
    return {
        "nodes": nodes,
        "edits": len(built.result.edits),
        "wall": total,
        "seconds": sum(phases.seconds.values()),
        "timing": sum(s for name, s in phases.seconds.items() if name.startswith("timing")),
        "phases": {name: round(s, 3) for name, s in phases.seconds.items()},
        "peak_bytes": _peak() - before,
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _fresh(kind: str, size: int, pipeline: str, settings: Settings) -> dict[str, Any]:
    settings.workdir.mkdir(parents=True, exist_ok=True)
    words = [
        sys.executable, "-m", "benchmarks.scaling", kind, str(size), pipeline,
        str(settings.workdir),
    ]  # fmt: skip
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, cwd=ROOT)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# -- benchmarks --------------------------------------------------------------------------


def scaling(settings: Settings) -> Outcome:
    """Lossless compiles of growing graphs: time and memory a node, and the slope of both."""
    runs = [("chain", size, _fresh("chain", size, LOSSLESS, settings)) for size in CHAINS]
    blocks = [BLOCKS // 4, BLOCKS]
    runs += [("transformer", n, _fresh("transformer", n, LOSSLESS, settings)) for n in blocks]
    figures = [
        at_most(f"{kind} of {r['nodes']} nodes, without timing runs", _per(r, "nodes"), MAX_MS,
                "ms a node")
        for kind, _, r in runs
    ]  # fmt: skip
    for kind in ("chain", "transformer"):
        figures += _slopes(kind, [r for k, _, r in runs if k == kind], "nodes")
    return _outcome("Lossless compiles of large graphs, one thread", runs, "nodes", figures)


def sites(settings: Settings) -> Outcome:
    """Dynamic int8 of growing numbers of linear layers: time a site, and its slope."""
    runs = [("sites", size, _fresh("sites", size, DYNAMIC, settings)) for size in SITES]
    figures = _slopes("sites", [r for _, _, r in runs], "edits")
    return _outcome("Dynamic int8 of many layers, one thread", runs, "edits", figures)


def coupling(settings: Settings) -> Outcome:
    """CPU seconds in which the axes that are cut together are found."""
    runs = [(blocks, *_coupled(blocks)) for blocks in (COUPLED // 2, COUPLED, 4 * COUPLED)]
    seconds = {blocks: taken for blocks, _, _, taken in runs}
    return Outcome(
        "Coupling analysis of transformers, one thread, median of 5",
        ("blocks", "nodes", "groups", "seconds"),
        tuple((str(b), str(n), str(g), f"{taken:.3f}") for b, n, g, taken in runs),
        (at_most("coupling analysis of 1,000 nodes", seconds[COUPLED], MAX_COUPLING, "s"),),
    )


def _coupled(blocks: int) -> tuple[int, int, float]:
    """Nodes, groups that can be cut, and seconds of the analysis, sites known."""
    from planish.ir.axes.find import find_axis_groups
    from planish.ir.load import load_model
    from planish.ir.sites import find_sites

    loaded = load_model(transformer(blocks)).model
    known, taken, groups = find_sites(loaded), list[float](), 0
    for _ in range(5):
        with _stopwatch(taken):
            groups = len(find_axis_groups(loaded, known).cuttable())
    return len(loaded.graph), groups, statistics.median(taken)


def net_cost(settings: Settings) -> Outcome:
    """What structural checks and digests cost: on 10,000 nodes, after an edit, in MiniLM."""
    full, local = _checks(chain(10_000))
    share, seconds = _share(settings)
    return Outcome(
        "Verification and digests",
        ("what", "figure"),
        (
            ("verify and contents digest of 10,000 nodes", f"{full:.1f} ms"),
            ("both after a local edit", f"{local:.3f} ms"),
            ("both in a compile of MiniLM, static int8", f"{share:.2f} % of {seconds:.1f} s"),
        ),
        (
            at_most("full check of 10,000 nodes", full, MAX_FULL_MS, "ms"),
            at_most("check after a local edit", local, MAX_LOCAL_MS, "ms"),
            at_most("share of MiniLM's compile", share, MAX_SHARE, "%"),
        ),
    )


def _checks(model: onnx.ModelProto) -> tuple[float, float]:
    """Milliseconds of the full checks, tensors hashed before, and of those after an edit."""
    from planish.ir.digest import contents_digest
    from planish.ir.load import load_model
    from planish.ir.rewriter import Rewriter
    from planish.ir.signature import Signature
    from planish.ir.verify import verify

    loaded = load_model(model).model
    signature, rewriter = Signature.of(loaded), Rewriter(loaded)
    contents_digest(loaded)
    full: list[float] = []
    local: list[float] = []
    for _ in range(5):
        with _stopwatch(full):
            verify(loaded, signature)
            contents_digest(loaded)
    nodes = list(loaded.graph)
    for i in range(LOCAL_EDITS):
        node = nodes[2 * (i * 37 % (len(nodes) // 2))]
        with rewriter.edit("local") as record:
            made = rewriter.insert("Neg", [node.outputs[0]], after=node)
            rewriter.replace_uses(
                node.outputs[0], made.outputs[0], only=[u.node for u in node.outputs[0].uses()
                                                       if u.node is not made]
            )  # fmt: skip
        with _stopwatch(local):
            rewriter.verify(record, signature)
            assert rewriter.moved(record)
    return 1e3 * statistics.median(full), 1e3 * max(statistics.median(local), local[0])


@contextmanager
def _stopwatch(into: list[float]) -> Iterator[None]:
    start = time.process_time()
    yield
    into.append(time.process_time() - start)


CHECKS = (
    "planish.ir.load.violations",
    "planish.compiler.workshop.verify",
    "planish.compiler.instruments.verify",
    "planish.compiler.instruments.strays",
    "planish.compiler.instruments.Look.at",
    "planish.compiler.instruments.contents_digest",
    "planish.compiler.outcome.contents_digest",
    "planish.compiler.context.cone_digests",
    "planish.ir.rewriter.Rewriter.moved",
    "planish.ir.rewriter.Rewriter.verify",
)
"""Every place where a compile verifies or hashes a graph."""


def _share(settings: Settings) -> tuple[float, float]:
    """Percent of a MiniLM compile (timing runs left out) that goes into ``CHECKS``; its seconds."""
    from planish.compiler.driver import compile_model

    spent: list[float] = []
    phases = Phases(time.process_time)
    with ExitStack() as stack:
        for place in CHECKS:
            stack.enter_context(_timed(place, spent))
        start = time.process_time()
        compile_model(
            minilm_task(settings.workdir).model, settings.target, threads=settings.threads,
            pipeline="canonicalize,equalize,quantize{scheme=static}", force=True,
            calibration=calibration_feeds(0), output=settings.workdir / "minilm-net-cost",
            progress=phases,
        )  # fmt: skip
        total = time.process_time() - start
    phases.phase("end")
    total -= sum(s for name, s in phases.seconds.items() if name.startswith("timing"))
    return 100 * sum(spent) / total, total


@contextmanager
def _timed(place: str, spent: list[float]) -> Iterator[None]:
    """Every call of the function at ``place`` adds its seconds."""
    original = pkgutil.resolve_name(place)

    def watched(*arguments: Any, **named: Any) -> Any:
        with _stopwatch(spent):
            result = original(*arguments, **named)
            return list(result) if isinstance(result, Iterator) else result

    with mock.patch(place, watched):
        yield


def _per(run: dict[str, Any], what: str) -> float:
    """Milliseconds a node or edit, timing runs left out."""
    return 1e3 * float(run["seconds"] - run["timing"]) / max(int(run[what]), 1)


def _slopes(kind: str, runs: Sequence[dict[str, Any]], what: str) -> list[Figure]:
    """Exponents of time and memory over size, between the two largest."""
    small, large = runs[-2], runs[-1]
    growth = math.log(large[what] / small[what])
    work = [r["seconds"] - r["timing"] for r in (small, large)]
    peaks = [max(r["peak_bytes"], 1) for r in (small, large)]
    return [
        at_most(f"{kind}: exponent of time", math.log(work[1] / work[0]) / growth, MAX_SLOPE),
        at_most(f"{kind}: exponent of memory", math.log(peaks[1] / peaks[0]) / growth, MAX_SLOPE),
    ]


def _outcome(
    title: str, runs: Sequence[tuple[str, int, dict[str, Any]]], what: str, figures: list[Figure]
) -> Outcome:
    rows = tuple(
        (
            kind, str(r["nodes"]), str(r["edits"]), f"{r['seconds']:.1f}", f"{r['timing']:.1f}",
            f"{_per(r, what):.3f}", f"{r['peak_bytes'] / 1e6:.0f}",
        )
        for kind, _, r in runs
    )  # fmt: skip
    columns = ("graph", "nodes", "edits", "seconds", "of them timing runs", f"ms per {what[:-1]}",
               "MB more at the peak")  # fmt: skip
    notes = tuple(f"{k} {r['nodes']}: {r['phases']}" for k, _, r in runs)
    return Outcome(title, columns, rows, tuple(figures), notes)


if __name__ == "__main__":
    kind, size, pipeline, folder = sys.argv[1:5]
    print(json.dumps(compiled(kind, int(size), pipeline, Path(folder))))
