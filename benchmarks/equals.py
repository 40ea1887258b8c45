"""Equal models timed against each other: the clock behind every verdict, held to the truth."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from benchmarks.figures import Outcome, at_most
from benchmarks.settings import Settings
from planish.compiler.choose import verdict_on
from planish.compiler.quality.statistics import Ratio
from planish.compiler.timing import time_alternating
from planish.targets.runtime import open_session

SIZES: Mapping[str, tuple[int, ...]] = {
    "64 wide, 2 layers": (64, 64, 64),
    "1024 wide, 3 layers": (256, 1024, 1024, 10),
    "1024 wide, 12 layers": (1024,) * 13,
}
THREADS = (0, 1, 2)
"""0: as many as the runtime takes by itself."""
PAIRS, ROWS, FEEDS = 10, 4, 4
MOST_APART, MOST_WRONG = 5.0, 2.0


def equals(settings: Settings) -> Outcome:
    """Pairs of sessions of one file: how far apart they are, and how often one would win."""
    found = {
        (name, threads): _pairs(name, threads, settings.workdir)
        for name, threads in itertools.product(SIZES, THREADS)
    }
    everything = [ratio for ratios in found.values() for ratio in ratios]
    wrong = 100 * len([ratio for ratio in everything if _decided(ratio)]) / len(everything)
    return Outcome(
        f"equal models against each other, {PAIRS} pairs each, opened anew",
        ("model", "threads", "ratios", "called faster or slower"),
        tuple(
            (name, str(threads or "default"), f"{min(_values(ratios)):.3f} to "
             f"{max(_values(ratios)):.3f}", str(len([r for r in ratios if _decided(r)])))
            for (name, threads), ratios in found.items()
        ),
        (
            at_most("equal models, furthest apart", max(map(_apart, everything)), MOST_APART, "%"),
            at_most("equal models, called faster or slower", wrong, MOST_WRONG, "%"),
        ),
    )  # fmt: skip


def _pairs(name: str, threads: int, folder: Path) -> list[Ratio]:
    path, feeds = _model(SIZES[name], folder)
    found = []
    for _ in range(PAIRS):
        sessions = [open_session(path, threads=threads) for _ in range(2)]
        found.append(time_alternating(sessions, feeds).ratio(0, 1))
    return found


def _model(sizes: tuple[int, ...], folder: Path) -> tuple[Path, list[dict[str, np.ndarray]]]:
    """A chain of linear layers with Relu between them, and feeds of ``ROWS`` rows."""
    random = np.random.default_rng(0)
    values, nodes, weights = [ir.val("x", ir.DataType.FLOAT, ["rows", sizes[0]])], [], []
    for number, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        data = random.normal(0, (2 / inputs) ** 0.5, (inputs, outputs)).astype(np.float32)
        weights.append(ir.Value(name=f"w{number}", const_value=ir.tensor(data, name=f"w{number}")))
        nodes.append(ir.node("MatMul", [values[-1], weights[-1]]))
        nodes.append(ir.node("Relu", [nodes[-1].outputs[0]]))
        values.append(nodes[-1].outputs[0])
    last = values[-1]
    last.name, last.dtype, last.shape = "y", ir.DataType.FLOAT, ir.Shape(["rows", sizes[-1]])
    graph = ir.Graph(
        values[:1], [last], nodes=nodes, initializers=weights, opset_imports={"": 17}, name="chain"
    )
    path = folder / f"chain-{'-'.join(map(str, sizes))}.onnx"
    ir.save(ir.Model(graph, ir_version=9), path)
    rows = (random.normal(size=(ROWS, sizes[0])).astype(np.float32) for _ in range(FEEDS))
    return path, [{"x": each} for each in rows]


def _decided(ratio: Ratio) -> bool:
    return verdict_on(ratio) != "no-gain"


def _values(ratios: list[Ratio]) -> list[float]:
    return [ratio.value for ratio in ratios]


def _apart(ratio: Ratio) -> float:
    """Percent."""
    return 100 * (max(ratio.value, 1 / ratio.value) - 1)
