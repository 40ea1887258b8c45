"""How ONNX Runtime runs a model on an NVIDIA GPU: ``provider.json`` and the script that uses it.

Options are named as the documentation of the CUDA and TensorRT execution providers names them
(onnxruntime.ai); no provider was run where this was written.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx

from ..result import CompileResult, Engine, Provider
from . import selftest
from .engineshapes import for_provider, is_open, untold_provider
from .report import environment

PROVIDER, RUN = "provider.json", "run_onnxruntime.py"
SCHEMA = "planish-provider/1"
CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
STANDARD = frozenset({"", "ai.onnx", "com.microsoft"})
KEEP_PAIRS = {"session.disable_quant_qdq": "1"}
"""ONNX Runtime would move Q/DQ about before the provider sees them."""


def with_cuda(result: CompileResult, folder: Path) -> Provider:
    """The provider's options in a file, and the script; what the artifact says of them."""
    convolves = any(node.op_type == "Conv" for node in _graph(folder).node)
    options = {"device_id": "0"}
    if convolves:
        # Convolutions are timed at the first run of a shape: for each new one where axes are open.
        search = "HEURISTIC" if _open_axes(folder) else "EXHAUSTIVE"
        options |= {"cudnn_conv_algo_search": search, "cudnn_conv_use_max_workspace": "1"}
    found = replace(result.provider or Provider(), name=CUDA, options=options)
    _write(found, folder)
    return found


def with_tensorrt(result: CompileResult, folder: Path) -> Provider:
    """The same for the provider that builds engines; without files where it takes no such model."""
    engine, given = result.engine, result.provider or Provider()
    assert engine is not None
    graph = onnx.load(folder / selftest.MODEL, load_external_data=False)
    foreign = sorted({node.domain for node in graph.graph.node} - STANDARD)
    if foreign:
        missing = f"ONNX Runtime knows no operators of the domain {', '.join(foreign)}"
        return replace(given, missing=missing)
    if missing := _untold(engine):
        return replace(given, missing=missing)
    pairs = any(node.op_type == "QuantizeLinear" for node in graph.graph.node)
    found = replace(
        given, name=TENSORRT, options=_tensorrt_options(engine), weak=_weak(graph.graph),
        entries=KEEP_PAIRS if pairs else {},
    )  # fmt: skip
    _write(found, folder)
    return found


def _untold(engine: Engine) -> str:
    """Why the provider cannot be told the shapes of inputs; "" where it can."""
    names = untold_provider(engine)
    if not names:
        return ""
    these = "these inputs" if len(names) > 1 else "this input"
    return (
        "it splits its options for shapes at commas and colons, and so cannot be told that of "
        f"{', '.join(map(repr, names))}; rename {these} in the model and compile it again, or "
        "build the engine with the kit"
    )


def _tensorrt_options(engine: Engine) -> dict[str, str]:
    """Strongly typed: no precision is asked for, the graph's types are kept to."""
    options = {
        "device_id": "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "onnxruntime-cache",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": "onnxruntime-cache",
        "trt_fp16_enable": "0",
        "trt_bf16_enable": "0",
        "trt_int8_enable": "0",
    }
    if engine.sparsity:
        options["trt_sparsity_enable"] = "1"
    if is_open(engine):
        for which in ("min", "opt", "max"):
            options[f"trt_profile_{which}_shapes"] = for_provider(engine, which)
    return options


def _weak(graph: onnx.GraphProto) -> dict[str, str]:
    """What allows the types of the graph where the provider builds weakly typed networks."""
    types = {tensor.data_type for tensor in graph.initializer}
    kinds = {
        "trt_fp16_enable": onnx.TensorProto.FLOAT16,
        "trt_bf16_enable": onnx.TensorProto.BFLOAT16,
        "trt_int8_enable": onnx.TensorProto.INT8,
    }
    return {option: "1" for option, kind in kinds.items() if kind in types}


def _write(provider: Provider, folder: Path) -> None:
    document = {
        "schema": SCHEMA,
        "model": selftest.MODEL,
        "min_version": provider.min_version,
        "provider": provider.name,
        "provider_options": dict(provider.options),
        "weakly_typed": dict(provider.weak),
        "session_entries": dict(provider.entries),
    }
    text = json.dumps(document, indent=2) + "\n"
    (folder / PROVIDER).write_text(text, encoding="utf8", newline="\n")
    logic = Path(selftest.__file__).read_text("utf8")
    script = environment().get_template("onnxruntime_run.py.j2").render(logic=logic)
    (folder / RUN).write_text(script, encoding="utf8", newline="\n")
    (folder / RUN).chmod(0o755)


def _graph(folder: Path) -> onnx.GraphProto:
    return onnx.load(folder / selftest.MODEL, load_external_data=False).graph


def _open_axes(folder: Path) -> bool:
    graph = _graph(folder)
    weights = {tensor.name for tensor in graph.initializer}
    ports = [value for value in graph.input if value.name not in weights]
    dims = (d for value in ports for d in value.type.tensor_type.shape.dim)
    return any(not d.HasField("dim_value") for d in dims)
