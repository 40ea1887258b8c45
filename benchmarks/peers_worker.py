"""What one peer makes of a model: ``python peers_worker.py PEER MODEL FEEDS OUTPUT KIND``.

Runs in the peer's own environment, which knows neither planish nor the evaluation data. FEEDS is
a folder of ``.npz`` files, one a feed; KIND is "transformer" or "any". Settings are those that the
peer's documentation recommends for the CPU; docs/benchmarks.md lists them.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter

Feeds = Mapping[str, Any]
MATMUL_BLOCK = 32
QDQ_OPSET = 13
"""Scales per channel need it; the tools ask for it, or refuse what is older."""


class Folder:
    """Feeds of a folder in order, each read when it is needed."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.npz"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        with np.load(self.paths[index]) as file:
            return {name: file[name] for name in file.files}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))


class Reader:
    """Feeds in the form that onnxruntime.quantization asks for."""

    def __init__(self, feeds: Iterable[Feeds]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> Feeds | None:
        """The next feed, None after the last."""
        return next(self.feeds, None)


def onnxruntime_dynamic(model: Path, feeds: Path, output: Path, kind: str) -> None:
    """``quantize_dynamic`` with its defaults, after the preprocessing; of a transformer after the
    tool that fuses its layers, as the documentation asks."""
    from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        source = fused(model, Folder(feeds), Path(folder)) if kind == "transformer" else model
        quantize_dynamic(prepared(source, Path(folder)), output)


def fused(model: Path, feeds: Folder, folder: Path) -> Path:
    """The model after ``onnxruntime.transformers.optimizer``, heads and width as it finds them;
    as it was where that fails, or answers otherwise."""
    output = folder / "fused.onnx"
    try:
        tool = importlib.import_module("onnxruntime.transformers.optimizer")
        made = tool.optimize_model(str(model), "bert", num_heads=0, hidden_size=0, opt_level=0)
        made.save_model_to_file(str(output))
        before, after = answers(model, feeds[0]), answers(output, feeds[0])
        if all(np.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(before, after, strict=True)):
            return output
        print("the fused model answers otherwise: left out", file=sys.stderr)
    except Exception as error:
        print(f"layers cannot be fused: {error}", file=sys.stderr)
    return model


def answers(model: Path, feed: Feeds) -> list[Any]:
    """The outputs for one feed."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    outputs: list[Any] = session.run(None, dict(feed))
    return outputs


def onnxruntime_static(model: Path, feeds: Path, output: Path, kind: str) -> None:
    """``quantize_static`` with its defaults: Q/DQ, S8S8, min-max; after the preprocessing."""
    quantized_statically(model, Folder(feeds), output)


def onnxruntime_static_u8s8(model: Path, feeds: Path, output: Path, kind: str) -> None:
    """``quantize_static`` with unsigned activations and a scale per channel of the weights."""
    from onnxruntime.quantization import QuantType

    quantized_statically(
        model, Folder(feeds), output, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        per_channel=True,
    )  # fmt: skip


def quantized_statically(model: Path, feeds: Iterable[Feeds], output: Path, **options: Any) -> None:
    """``quantize_static`` over all feeds, after the preprocessing that it asks for."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    CalibrationDataReader.register(Reader)
    with tempfile.TemporaryDirectory() as folder:
        quantize_static(prepared(model, Path(folder)), output, Reader(feeds), **options)


def prepared(model: Path, folder: Path) -> Path:
    """The model after ``quant_pre_process``; without symbolic shapes where these fail, and as it
    is where all of it fails (the tool itself only recommends it)."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    output, newer = folder / "prepared.onnx", folder / "newer.onnx"
    onnx.save(raised(model), newer)
    for skip in (False, True):
        try:
            with contextlib.chdir(folder):  # it leaves files behind where it stands
                quant_pre_process(str(newer), str(output), skip_symbolic_shape=skip)
        except Exception as error:
            print(f"quant_pre_process failed: {error}", file=sys.stderr)
        else:
            return output
    return newer


def raised(model: Path) -> onnx.ModelProto:
    """The model at the opset that the tools want, as its user would convert it; as it is where
    onnx cannot convert it."""
    loaded = onnx.load(model)
    versions = [item.version for item in loaded.opset_import if item.domain in ("", "ai.onnx")]
    if not versions or versions[0] >= QDQ_OPSET:
        return loaded
    try:
        return onnx.version_converter.convert_version(loaded, QDQ_OPSET)
    except Exception as error:
        print(f"onnx cannot raise the opset: {error}", file=sys.stderr)
        return loaded


def onnxruntime_int4(model: Path, feeds: Path, output: Path, kind: str) -> None:
    """``MatMulNBitsQuantizer`` with its defaults but the block that everybody publishes, 32."""
    quantizer = importlib.import_module("onnxruntime.quantization.matmul_nbits_quantizer")
    made = quantizer.MatMulNBitsQuantizer(onnx.load(model), block_size=MATMUL_BLOCK)
    made.process()
    made.model.save_model_to_file(str(output), use_external_data_format=False)


def nncf(model: Path, feeds: Path, output: Path, kind: str) -> None:
    """``nncf.quantize`` with its defaults; the model type where the model is a transformer."""
    library = importlib.import_module("nncf")
    given = Folder(feeds)
    quantized = library.quantize(
        raised(model),
        library.Dataset(given),
        model_type=library.ModelType.TRANSFORMER if kind == "transformer" else None,
        subset_size=len(given),
    )
    onnx.save(quantized, output)


def olive_static(model: Path, feeds: Path, output: Path, kind: str) -> None:
    """Olive's graph clean-up and ``OnnxStaticQuantization`` with their defaults."""
    olive(model, feeds, output, {
        "clean": {"type": "OnnxPeepholeOptimizer"},
        "quantize": {"type": "OnnxStaticQuantization", "data_config": "feeds"},
    })  # fmt: skip


def olive_int4(model: Path, feeds: Path, output: Path, kind: str) -> None:
    """Olive's ``OnnxBlockWiseRtnQuantization``: 4 bits in blocks, as ``olive quantize`` does."""
    rtn = {"type": "OnnxBlockWiseRtnQuantization", "block_size": MATMUL_BLOCK}
    olive(model, feeds, output, {"quantize": rtn})


def olive(model: Path, feeds: Path, output: Path, passes: Mapping[str, Any]) -> None:
    """Run passes of Olive on the CPU and keep the last model."""
    os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"
    registry = importlib.import_module("olive.data.registry").Registry
    registry.register_dataset("bench_feeds")(lambda folder, **_: Folder(Path(folder)))
    data = {
        "name": "feeds",
        "type": "DataContainer",
        "load_dataset_config": {"type": "bench_feeds", "params": {"folder": str(feeds)}},
        "pre_process_data_config": {"type": "skip_pre_process"},
        "dataloader_config": {"type": "no_auto_batch_dataloader"},
    }
    cpu = {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}
    with tempfile.TemporaryDirectory() as folder:
        newer = Path(folder, "newer.onnx")
        onnx.save(raised(model), newer)
        importlib.import_module("olive.workflows").run({
            "input_model": {"type": "ONNXModel", "model_path": str(newer)},
            "systems": {"local": {"type": "LocalSystem", "accelerators": [cpu]}},
            "data_configs": [data],
            "passes": dict(passes),
            "host": "local", "target": "local",
            "cache_dir": f"{folder}/cache", "output_dir": f"{folder}/out",
        })  # fmt: skip
        made = sorted(Path(folder, "out").rglob("*.onnx"))
        if len(made) != 1:
            raise RuntimeError(f"Olive wrote {len(made)} models")
        onnx.save(onnx.load(made[0]), output)


def onnxsim(model: Path, feeds: Path, output: Path, kind: str) -> None:
    """``onnxsim.simplify`` with its defaults; float stays float."""
    simplified, same = importlib.import_module("onnxsim").simplify(onnx.load(model))
    if not same:
        raise RuntimeError("the simplified model does not answer as the original")
    onnx.save(simplified, output)


Maker = Callable[[Path, Path, Path, str], None]
MAKERS: Mapping[str, Maker] = {
    "onnxruntime-dynamic": onnxruntime_dynamic,
    "onnxruntime-static": onnxruntime_static,
    "onnxruntime-static-u8s8": onnxruntime_static_u8s8,
    "onnxruntime-int4": onnxruntime_int4,
    "nncf": nncf,
    "olive-static": olive_static,
    "olive-int4": olive_int4,
    "onnxsim": onnxsim,
}
"""By the name on the command line; (model, folder of feeds, output, kind) each."""


def main(words: Sequence[str]) -> None:
    """Make one model."""
    peer, model, feeds, output, kind = words
    MAKERS[peer](Path(model), Path(feeds), Path(output), kind)


if __name__ == "__main__":
    main(sys.argv[1:])
