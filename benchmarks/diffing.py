"""How fast, and how right, nodes are matched in large graphs whose names are destroyed."""

from __future__ import annotations

import gc
import statistics
import time
from dataclasses import dataclass

import onnx

from benchmarks.figures import Figure, Outcome, at_most
from benchmarks.scaling import chain, transformer
from benchmarks.settings import Settings

SIZES, EVERY = (1_000, 10_000, 40_000), 20
"""Nodes of the graphs, and one in how many is rewritten."""
MAX_SECONDS = 5.0


@dataclass(frozen=True)
class Matched:
    """CPU seconds of matching; pairs that are right, wrong, and missed."""

    seconds: float
    right: int
    wrong: int
    missed: int


def rewritten(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[int, int]]:
    """One node in ``EVERY`` replaced by two, all names new; and which node is which."""
    after, truth, nodes = onnx.ModelProto(), dict[int, int](), list[onnx.NodeProto]()
    after.CopyFrom(model)
    for index, node in enumerate(model.graph.node):
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        if index % EVERY == EVERY // 2:
            copied.output[0] += "_first"
            nodes += [copied, onnx.helper.make_node("Neg", [copied.output[0]], node.output)]
            copied.op_type = f"{copied.op_type}Like"
            copied.domain = "rewritten"
        else:
            truth[index] = len(nodes)
            nodes.append(copied)
    del after.graph.node[:]
    after.graph.node.extend(nodes)
    del after.graph.value_info[:]
    after.opset_import.append(onnx.helper.make_opsetid("rewritten", 1))
    _rename(after)
    return after, truth


def _rename(model: onnx.ModelProto) -> None:
    kept = {v.name for v in (*model.graph.input, *model.graph.output)}
    names: dict[str, str] = {}

    def new(name: str) -> str:
        return name if name in kept else names.setdefault(name, f"v{len(names)}")

    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
    for tensor in model.graph.initializer:
        tensor.name = new(tensor.name)


def matched(model: onnx.ModelProto) -> Matched:
    """Match a model with its rewritten self; the best of three."""
    from planish.ir.diff.match import match
    from planish.ir.diff.pool import Pool
    from planish.ir.load import load_model

    after, truth = rewritten(model)
    taken = []
    for _ in range(3):
        models = load_model(model).model, load_model(after).model  # digests are kept by tensor
        gc.collect()
        gc.disable()
        start = time.process_time()
        pairs = match(Pool.of(models[0]), Pool.of(models[1])).pairs
        taken.append(time.process_time() - start)
        gc.enable()
    wrong = sum(a in truth and truth[a] != b for a, b in pairs.items())
    missed = sum(a not in pairs for a in truth)
    return Matched(statistics.median(taken), len(truth) - wrong - missed, wrong, missed)


def diff(settings: Settings) -> Outcome:
    """Chains and transformers, one node in twenty replaced by two, all names destroyed."""
    rows, figures = list[tuple[str, ...]](), list[Figure]()
    for size in SIZES:
        for kind, model in (("chain", chain(size)), ("transformer", transformer(size // 30))):
            found, name = matched(model), f"{kind} of {size:,} nodes"
            rows.append((name, f"{found.seconds:.2f}", str(found.right), str(found.wrong),
                         str(found.missed)))  # fmt: skip
            figures.append(at_most(f"{name}: wrong or missed pairs", found.wrong + found.missed, 0))
            if size == max(SIZES):
                figures.append(at_most(f"{name}: CPU time", found.seconds, MAX_SECONDS, "s"))
    return Outcome(
        f"Matching without names, one node in {EVERY} rewritten, one thread",
        ("graph", "CPU s", "right", "wrong", "missed"), tuple(rows), tuple(figures),
    )  # fmt: skip
