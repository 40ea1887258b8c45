"""stories260K as the benchmarks score it: text that it makes itself, perplexity, its layers."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.artifacts import session_run
from benchmarks.data import Array, Feeds, Run, tasks

BEGIN = 1
MADE_LENGTH = 128  # tokens, the begin token among them
SCORED, CALIBRATING = 64, 32  # sequences that the model makes for either purpose
SEED = 0


@dataclass(frozen=True)
class Layer:
    """A product with a constant matrix: value that goes in, name of the weight, float32 [K, N]."""

    input: str
    weight: str
    matrix: Array


def model_path(workdir: Path) -> Path:
    """The exported model; made on first use."""
    path: Path = tasks().stories260k(workdir).model
    return path


def layers(model: onnx.ModelProto) -> list[Layer]:
    """All products with a constant matrix, in order; the last one is the head."""
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    return [
        Layer(node.input[0], node.input[1], numpy_helper.to_array(held[node.input[1]]))
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in held
    ]


def with_weights(model: onnx.ModelProto, weights: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy in which other matrices take the named ones' places."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in weights:
            values = np.ascontiguousarray(weights[tensor.name], dtype=np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return copy


def grams(
    model: onnx.ModelProto, feeds: Iterable[Feeds], workdir: Path, threads: int
) -> dict[str, Array]:
    """sum of x x^T over all tokens, float64 [K, K], by the value that goes into a layer."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    names = list(dict.fromkeys(layer.input for layer in layers(model)))
    del tapped.graph.output[:]
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    run = runner(tapped, workdir, threads)
    sums: dict[str, Array] = {}
    for feed in feeds:
        for name, x in zip(names, run(feed), strict=True):
            rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
            sums[name] = sums.get(name, 0) + rows.T @ rows
    return sums


def runner(model: onnx.ModelProto, workdir: Path, threads: int) -> Run:
    """The model as the runtime runs it."""
    path = workdir / "stories-changed.onnx"
    onnx.save(model, path)
    return session_run(path, threads)


@functools.cache
def made_text(model: Path, threads: int) -> Array:
    """Token ids [96, 128] that the model samples from its own distribution, the same every time."""
    run = session_run(model, threads)
    draw = np.random.default_rng(SEED)
    ids = np.full((SCORED + CALIBRATING, 1), BEGIN, np.int64)
    while ids.shape[1] < MADE_LENGTH:
        chances = np.exp(log_chances(run({"ids": ids})[0][:, -1]))
        reached = chances.cumsum(axis=1) > draw.random((len(ids), 1))
        ids = np.concatenate([ids, reached.argmax(axis=1)[:, None]], axis=1)
    return ids


def calibration(workdir: Path, threads: int) -> list[Feeds]:
    """Stories and self-made text of which nothing is scored."""
    made = made_text(model_path(workdir), threads)[SCORED:]
    return [{"ids": made}, *tasks().stories260k(workdir).calibration()]


def perplexity_of_made_text(run: Run, model: Path, threads: int) -> float:
    """Per token, over the sequences that ``model``, the float one, made for scoring."""
    ids = made_text(model, threads)[:SCORED]
    chances = log_chances(run({"ids": ids[:, :-1]})[0])
    return float(np.exp(-np.take_along_axis(chances, ids[:, 1:, None], axis=-1).mean()))


def perplexity_of_stories(run: Run, workdir: Path) -> float:
    """Per token, over the 120 stories of the task."""
    metrics = tasks().stories260k(workdir).evaluate(run).metrics
    return float(metrics["ppl"])


def log_chances(logits: Array) -> Array:
    """Logarithm of softmax along the last axis, float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
