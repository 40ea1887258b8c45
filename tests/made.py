"""A small real model, and a result of a compile as the driver would hand it over."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from planish.compiler.reporting.artifact import write_artifact
from planish.compiler.result import (
    CompileResult,
    Kernels,
    Plan,
    Quality,
    QualityRow,
    Sample,
    SiteKernel,
    Speed,
    Trial,
)
from planish.ir.provenance import Edit, Remark
from planish.targets.runtime import open_session

TEXT = """
<ir_version: 9, opset_import: ["" : 17]>
scorer (float[batch, 4] x) => (float[batch, 3] y, int64[batch] label) {
    product = MatMul(x, "weight")
    y = Add(product, "bias")
    label = ArgMax <axis = 1, keepdims = 0> (y)
}
"""


def save_model(path: Path) -> None:
    """x [batch, 4] -> y = x W + b [batch, 3] and label = argmax y [batch]."""
    random = np.random.default_rng(3)
    tensors = [
        ir.tensor(random.normal(size=(4, 3)).astype(np.float32), name="weight"),
        ir.tensor(random.normal(size=3).astype(np.float32), name="bias"),
    ]
    ir.save(ir.from_onnx_text(TEXT, initializers=tensors), path)


def samples(model: Path, count: int = 3) -> tuple[Sample, ...]:
    """Feeds with the model's own answers; the "original" answers differ a little."""
    random = np.random.default_rng(4)
    session = open_session(model)
    made = []
    for batch in range(1, count + 1):
        x = random.normal(size=(batch, 4)).astype(np.float32)
        y, label = session.run({"x": x})
        noisy = (y + 0.01 * random.normal(size=y.shape)).astype(np.float32)
        made.append(Sample({"x": x}, {"y": y, "label": label}, {"y": noisy, "label": label}))
    return tuple(made)


def edits() -> tuple[Edit, ...]:
    return (
        Edit("e1", "canonicalize", "", "fold", before=("Constant_1",)),
        Edit("e2", "quantize", "encoder.layer.0.query", "static-int8", ("m1",), ("q1", "d1", "m1"),
             ("/query/MatMul",), 0.0012, 4_000_000,
             details={"method": "mse", "scale": np.float32(0.5)}),
        Edit("e3", "quantize", "encoder.layer.1.up|down", "static-int8", ("m2",), ("q2",), ("m2",),
             0.0041, 8_000_000),
        Edit("e4", "quantize", "embeddings.word", "table-int8", ("g",), ("g2",), ("g",), 1e-5, 999),
    )  # fmt: skip


def remarks() -> tuple[Remark, ...]:
    return (
        Remark("refused", "quantize", "pooler.dense", "too-small", "3 rows are too few for int8."),
        Remark("refused", "quantize", "head", "too-small", "3 rows are too few for int8."),
        Remark("missed", "equalize", "block2", "shared-input", "Its input feeds two layers."),
        Remark("note", "quantize", "", "mask", "input 'mask' was taken for the token mask"),
        Remark("applied", "quantize", "encoder.layer.0.query", "quantized", "done"),
    )


def result(**changes: Any) -> CompileResult:
    """A result with something in every field but samples; ``changes`` replaces fields."""
    full = CompileResult(
        source="models/scorer.onnx", target="host", resolved_target="x86-avx512-vnni",
        goal="latency",
        speed=Speed("faster", 10.84, 4.0, 2.71, 2.66, 2.75, rounds=12, feeds=40, threads=2),
        quality=Quality(
            "within-budget", "drop <= 0.3", "drop 0.18 <= 0.3",
            rows=(QualityRow("spearman", 82.03, 81.85, 0.18, -0.05, 0.29, 1379),
                  QualityRow("spearman, long", 80.1, 79.7, 0.4, samples=200)),
            drift={"y": {"cosine": 0.9921, "sqnr_db": 21.3, "cosine_min": 0.9},
                   "label": {"top1": 99.5}},
            samples=1379, coverage={"encoder.layer.0.query": 0.0003},
        ),
        kernels=Kernels({"MatMulInteger": 2, "MatMul": 1},
                        (SiteKernel("encoder.layer.0.query", "MatMulInteger", True),
                         SiteKernel("head", "MatMul", False, "too small for int8")),
                        ("fused 2 nodes into QAttention",)),
        plan=Plan("canonicalize,quantize(method=mse)", {"quantize": ("block9",)}, ("cast-first",)),
        bytes_before=90_900_000, bytes_after=22_900_000,
        parameters_before=22_713_216, parameters_after=22_713_216,
        edits=edits(), remarks=remarks(),
        trials=(
            Trial("quantize(static)", 22_900_000, 2.71, "within-budget", True, "the fastest"),
            Trial("quantize(dynamic)", 22_800_000, None, "over-budget", False, "not timed"),
        ),
        digests={"model": "ab" * 16}, environment={"onnxruntime": "1.31.1", "cpu": "a|b"},
        seconds={"load": 0.5, "calibrate": 12.25}, peak_rss_bytes=1_200_000_000,
        notes=("padding is likely",), command="planish compile models/scorer.onnx",
        tolerance={"y": 1e-4}, settings={"seed": 0, "max_drop": "0.3"},
    )  # fmt: skip
    return dataclasses.replace(full, **changes)


def artifact(folder: Path, **changes: Any) -> CompileResult:
    """Write a whole artifact into ``folder``, which is created; its result."""
    folder.mkdir()
    save_model(folder / "model.onnx")
    made = result(**({"samples": samples(folder / "model.onnx")} | changes))
    write_artifact(made, folder)
    return made
