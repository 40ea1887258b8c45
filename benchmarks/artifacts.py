"""Artifacts as the benchmarks look at them: files on disk, and the graph the runtime makes."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

import planish
from benchmarks.data import Array, Feeds, Run
from benchmarks.settings import Settings

MODEL, MANIFEST = "model.onnx", "manifest.json"
MEGABYTE = 1e6
# Ops whose second operand is a weight where it is constant, in the float and the fused spelling.
FLOAT_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "FusedMatMul", "FusedGemm", "FusedConv"})
DEQUANTIZING = frozenset({"DequantizeLinear", "Transpose", "Reshape", "Cast"})


def compile_to(
    folder: Path, model: Path, target: str, feeds: Iterable[Feeds], threads: int, **options: Any
) -> planish.Artifact:
    """``planish.compile`` into ``folder``, replacing what an earlier run left there."""
    return planish.compile(
        model, target, calibration=list(feeds), threads=threads, output=folder, force=True,
        progress=False, **options,
    )  # fmt: skip


def compiled(
    folder: Path, model: Path, feeds: Iterable[Feeds], settings: Settings, **options: Any
) -> planish.Artifact:
    """The same for a benchmark that may take up what an earlier run of it has made."""
    if settings.resume and (folder / MANIFEST).is_file():
        return planish.load(folder)
    return compile_to(folder, model, settings.target, feeds, settings.threads, **options)


def session_run(model: Path, threads: int) -> Run:
    """``run(feeds) -> outputs`` with default session options but the number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def run(feeds: Feeds) -> Sequence[Array]:
        outputs: Sequence[Array] = session.run(None, dict(feeds))
        return outputs

    return run


def optimized(model: Path) -> onnx.ModelProto:
    """The graph that the runtime really executes under default options."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def float_layers(model: Path) -> list[str]:
    """Nodes that multiply by a constant matrix or filter in float as executed, "Op name" each.

    Weights that are stored in int8 and dequantized on every run count: the product is in float.
    """
    graph = optimized(model).graph
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) >= 2}
    for node in graph.node:  # in topological order
        if node.op_type in DEQUANTIZING and node.input[0] in weights:
            weights.add(node.output[0])
    return [
        f"{node.op_type} {node.name}"
        for node in graph.node
        if node.op_type in FLOAT_PRODUCTS and node.input[1] in weights
    ]


def megabytes(model: Path) -> float:
    """Size of a model file with the data files beside it, in 10^6 bytes."""
    paths = [model, *model.parent.glob(f"{model.name}.data*")]
    return sum(path.stat().st_size for path in paths) / MEGABYTE


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def kernel_rows(
    manifest: Mapping[str, Any], keep: Callable[[Mapping[str, Any]], bool]
) -> list[Any]:
    """The manifest's rows of the kernel census that ``keep`` accepts."""
    return [row for row in manifest["kernels"]["sites"] if keep(row)]
