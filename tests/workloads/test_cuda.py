"""Real models for ONNX Runtime's CUDA provider: within its rules, and as accurate as they were.

Scored with ``reference.onnx``, and with ``model.onnx`` itself on the CPU; nothing runs on a GPU. A
fixed sample of what ``benchmarks/run.py onnxruntime-cuda`` measures in full.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import onnx
import pytest

from benchmarks.artifacts import MODEL, compile_to, session_run
from benchmarks.cuda import TARGET
from benchmarks.tensorrt import broken, invalid, verifies


@pytest.mark.parametrize(
    ("name", "metric", "pipeline", "most", "op"),
    [
        ("resnet20", "top1", "canonicalize", 0.5, "Conv"),
        ("tsp20", "", "canonicalize,weight-only{bits=8}", 0.5, "MatMulNBits"),
    ],
)
def test_a_model_keeps_its_metric_in_half_precision(
    name: str, metric: str, pipeline: str, most: float, op: str, task: Callable[[str], Any],
    tmp_path: Path,
) -> None:  # fmt: skip
    found = task(name)
    data = islice(found.calibration(), 4)
    made = compile_to(tmp_path / "out", found.model, TARGET, data, 1, pipeline=pipeline)
    assert made.exit_code == 11
    assert (broken(made.path, TARGET), invalid(made.path)) == ((), "")
    assert verifies(made.path)
    graph = onnx.load(made.path / MODEL).graph
    assert any(node.op_type == op for node in graph.node)
    assert any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer)
    metric = metric or found.metric
    before, sign = found.baseline[metric], 1 if found.higher_is_better else -1
    for model in (made.runnable, made.path / MODEL):
        after = found.evaluate(session_run(model, 1)).metrics[metric]
        assert 100 * sign * (before - after) / abs(before) <= most, model.name
