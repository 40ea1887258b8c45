"""MiniLM and ResNet-20 for NVIDIA GPUs: valid, within the rules, and as accurate as they were.

Scored with ``reference.onnx``; no engine is built. A fixed sample of what
``benchmarks/run.py tensorrt`` measures in full.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import onnx
import pytest

import planish
from benchmarks.artifacts import compile_to, session_run
from benchmarks.tensorrt import broken, invalid, verifies

INT8, FP8, HALF = (
    "canonicalize,quantize{scheme=static}",
    "canonicalize,quantize-float8",
    "canonicalize",
)

CASES = pytest.mark.parametrize(
    ("target", "pipeline", "name"),
    [("nvidia-a100", INT8, "quantize"), ("nvidia-h100", FP8, "quantize-float8")],
    ids=["int8", "fp8"],
)


def made(task: Any, folder: Path, target: str, pipeline: str, feeds: int) -> planish.Artifact:
    data = islice(task.calibration(), feeds)
    return compile_to(folder, task.model, target, data, 1, pipeline=pipeline)


def sound(artifact: planish.Artifact, target: str, name: str, layers: int) -> None:
    assert artifact.exit_code == 11
    assert (broken(artifact.path, target), invalid(artifact.path)) == ((), "")
    assert verifies(artifact.path)
    sites = [e for e in artifact.manifest["edits"] if e["pass"] == name]
    assert len(sites) >= layers
    assert any(e["setting"] == "float16" for e in artifact.manifest["edits"])


def in_half_precision(graph: onnx.GraphProto) -> None:
    """Every convolution, also those with channels that folded batch norms left next to nothing."""
    made = {name: node for node in graph.node for name in node.output}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    backs = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    assert {types[node.input[1]] for node in backs} == {onnx.TensorProto.FLOAT16}
    assert len({node.input[0] for node in backs}) == len(backs)
    for conv in (node for node in graph.node if node.op_type == "Conv"):
        weight = made.get(conv.input[1])
        kind = types[conv.input[1] if weight is None else weight.input[1]]
        assert kind == onnx.TensorProto.FLOAT16


@CASES
def test_resnet20(
    target: str, pipeline: str, name: str, task: Callable[[str], Any], tmp_path: Path
) -> None:
    resnet = task("resnet20")
    artifact = made(resnet, tmp_path / "out", target, pipeline, 4)
    sound(artifact, target, name, 11 if name == "quantize-float8" else 17)
    in_half_precision(onnx.load(artifact.path / "model.onnx").graph)
    assert artifact.manifest["speed"]["predicted"]["ratio"] > 1.5
    top1 = resnet.evaluate(session_run(artifact.runnable, 1)).metrics["top1"]
    assert resnet.baseline["top1"] - top1 <= 0.5


@pytest.mark.torch
def test_minilm_keeps_the_direction_of_its_embeddings(
    task: Callable[[str], Any], tmp_path: Path
) -> None:
    """In float16: attention masks of -3.4e38 and all, within the rules of every operator."""
    artifact = made(task("minilm"), tmp_path / "out", "nvidia-a100", HALF, 2)
    sound(artifact, "nvidia-a100", "tensorrt", 1)
    assert artifact.manifest["quality"]["drift"]["last_hidden_state"]["cosine"] >= 0.9999
    assert "mask-bounded" in {r["code"] for r in artifact.manifest["remarks"]}
