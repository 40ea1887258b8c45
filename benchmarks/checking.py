"""TensorRT's rules on quantized MiniLMs of other tools: NVIDIA's own, and ONNX Runtime's.

What NVIDIA Model Optimizer writes for TensorRT should give nothing but notes: a rule that finds
more there is suspect. What ONNX Runtime writes by default should not pass. No TensorRT runs here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import quantization
from onnxruntime.quantization import QuantFormat, QuantType

from benchmarks.data import minilm_task
from benchmarks.figures import Outcome, holds, skipped
from benchmarks.peers import checked, install
from benchmarks.settings import Settings
from planish.ir.load import load_as_written
from planish.targets.loader import load_target
from planish.targets.rules.table import check_model

A100, H100 = "nvidia-a100", "nvidia-h100"
ENVIRONMENT = "modelopt"
WORKER = Path(__file__).with_name("checking_worker.py")
_LAYERS = ["MatMul", "Gemm", "Conv"]
_SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
_INT8 = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8, "per_channel": True}


@dataclass(frozen=True)
class Case:
    """A model of a tool. found: the rules that it must break, but for notes.

    mode, dtype: of Model Optimizer. options: of ``quantize_static``, None for dynamic.
    """

    name: str
    found: frozenset[str] = frozenset()
    target: str = A100
    mode: str = ""
    dtype: str = "fp16"
    options: dict[str, Any] | None = None


_NOTHING = frozenset({"trt-pair-without-layer"})
_ASYMMETRIC = frozenset({"trt-zero-point", "trt-bias-quantized"}) | _NOTHING
CASES = (
    Case("Model Optimizer, int8", mode="int8"),
    Case("Model Optimizer, int8, the rest in float32", mode="int8", dtype="fp32"),
    Case("Model Optimizer, FP8", target=H100, mode="fp8"),
    Case("Model Optimizer, FP8, for a GPU without", frozenset({"trt-float8-lacking"}), mode="fp8"),
    Case("Model Optimizer, int4 weights", mode="int4"),
    Case("onnxruntime static", _ASYMMETRIC, options={}),
    Case(
        "onnxruntime static, uint8 activations", _ASYMMETRIC | {"trt-uint8-codes"},
        options={"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8},
    ),
    Case(
        "onnxruntime static, symmetric", _NOTHING, options={**_INT8, "extra_options": _SYMMETRIC}
    ),
    Case(
        "onnxruntime static, symmetric, inputs of layers only",
        options={
            **_INT8, "op_types_to_quantize": _LAYERS,
            "extra_options": {**_SYMMETRIC, "OpTypesToExcludeOutputQuantization": _LAYERS},
        },
    ),
    Case(
        "onnxruntime static, QOperator",
        _NOTHING | {"trt-integer-operator", "trt-operator-unknown", "trt-zero-point",
                    "trt-codes-elsewhere"},
        options={"quant_format": QuantFormat.QOperator},
    ),
    Case(
        "onnxruntime dynamic",
        frozenset({"trt-integer-operator", "trt-uint8-inside", "trt-zero-point",
                   "trt-uint8-codes"}),
    ),
)  # fmt: skip


class Feeds(quantization.CalibrationDataReader):  # type: ignore[misc]
    """A few feeds, one after the other."""

    def __init__(self, feeds: Iterator[dict[str, Any]]) -> None:
        self.feeds = feeds

    def get_next(self) -> dict[str, Any] | None:
        return next(self.feeds, None)


def tensorrt(settings: Settings) -> Outcome:
    """Which rules each model breaks, and how often."""
    rows, figures = [], []
    for case in CASES:
        try:
            path = made(case, settings)
        except RuntimeError as problem:
            figures.append(skipped(case.name, said(case.found), str(problem)))
            continue
        found = Counter(
            (violation.severity, violation.rule)
            for violation in check_model(load_as_written(path), load_target(case.target))
        )
        rows += [(case.name, case.target, *kind, str(count)) for kind, count in found.items()]
        broken = frozenset(rule for severity, rule in found if severity != "note")
        figures.append(holds(case.name, broken == case.found, said(broken), said(case.found)))
    return Outcome(
        "TensorRT's rules on MiniLM as other tools quantize it",
        ("model", "target", "severity", "rule", "nodes"), tuple(rows), tuple(figures),
    )  # fmt: skip


def said(rules: frozenset[str]) -> str:
    """Rules as a figure names them."""
    return ", ".join(sorted(rules)) or "nothing but notes"


def made(case: Case, settings: Settings) -> Path:
    """The model of a case, made unless an earlier run left it. Raises RuntimeError."""
    task, folder = minilm_task(settings.workdir), settings.workdir / "checking"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{'-'.join(case.name.replace(',', '').split())}.onnx"
    if settings.resume and path.exists():
        return path
    if case.mode:
        return by_model_optimizer(case, task, path, settings.workdir)
    if case.options is None:
        quantization.quantize_dynamic(task.model, path)
    else:
        feeds = Feeds(iter(list(task.calibration(2))))
        quantization.quantize_static(task.model, path, feeds, **case.options)
    return path


def by_model_optimizer(case: Case, task: Any, path: Path, workdir: Path) -> Path:
    """NVIDIA's tool, in an environment of its own. Raises RuntimeError where it has none."""
    environment = install(ENVIRONMENT, workdir)
    if environment.python is None:
        raise RuntimeError(environment.reason)
    feed = path.with_suffix(".npz")
    np.savez(feed, **next(iter(task.calibration(1))))
    words = [task.model, feed, case.mode, case.dtype, path]
    checked(str(environment.python), str(WORKER), *map(str, words))
    return path
