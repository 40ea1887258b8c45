"""What TensorRT's rules say of models as tools make them, counted again from the files.

No TensorRT runs here: that a finding is one is confirmed by what stands in the file and by what
NVIDIA's parser says of it, not by a build.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization import QuantType

from planish.cli import main
from planish.ir.load import load_as_written
from planish.targets.loader import load_target
from planish.targets.rules.rule import Violation
from planish.targets.rules.table import check_model

A100 = "nvidia-a100"
SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
LAYERS = ["MatMul", "Gemm", "Conv"]
INT8 = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8, "per_channel": True}
OPTIONS: dict[str, dict[str, Any]] = {
    "unsigned": {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8},
    "symmetric": {**INT8, "extra_options": SYMMETRIC},
    "inputs only": {
        **INT8, "op_types_to_quantize": LAYERS,
        "extra_options": {**SYMMETRIC, "OpTypesToExcludeOutputQuantization": LAYERS},
    },
}  # fmt: skip


class Feeds(quantization.CalibrationDataReader):  # type: ignore[misc]
    """A few feeds, one after the other."""

    def __init__(self, feeds: Iterator[dict[str, Any]]) -> None:
        self.feeds = feeds

    def get_next(self) -> dict[str, Any] | None:
        return next(self.feeds, None)


@pytest.fixture(scope="module")
def minilm(
    task: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """``minilm(options)``: MiniLM by onnxruntime's own quantize_static."""
    folder = tmp_path_factory.mktemp("tensorrt")
    source = task("minilm")

    def build(options: str) -> Path:
        path = folder / f"{options}.onnx"
        if not path.exists():
            feeds = Feeds(iter(list(source.calibration(1))))
            quantization.quantize_static(source.model, path, feeds, **OPTIONS[options])
        return path

    return build


def checked(path: Path | str, target: str = A100) -> list[Violation]:
    return list(check_model(load_as_written(path), load_target(target)))


def counted(path: Path | str) -> dict[str, int]:
    """How many nodes break each rule that is no note."""
    return dict(Counter(v.rule for v in checked(path) if v.severity != "note"))


def recounted(path: Path) -> dict[str, int]:
    """The same for codes, from the file alone: nodes, initializers and who reads whom."""
    graph = onnx.load(path).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found: Counter[str] = Counter()
    for node in graph.node:
        own = node.op_type == "QuantizeLinear" or node.input[0] in stored
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or not own:
            continue
        zero = stored[node.input[2]]
        found["trt-zero-point"] += bool(zero.any())
        found["trt-uint8-codes"] += zero.dtype == np.uint8
        found["trt-bias-quantized"] += zero.dtype == np.int32
    return {rule: count for rule, count in found.items() if count}


COMPUTING = frozenset("MatMul Gemm Conv Add MaxPool GlobalAveragePool".split())
MOVING = frozenset(
    "Concat Expand Gather Pad QuantizeLinear DequantizeLinear Reshape Slice Split Squeeze "
    "Transpose Unsqueeze".split()
)


def pairs_for_nothing(path: Path) -> int:
    """QuantizeLinear nodes of activations from which no path of moves leads to a computing node."""
    graph = onnx.load(path).graph
    stored = {tensor.name for tensor in graph.initializer}
    fixed = stored | {n.output[0] for n in graph.node if n.input and n.input[0] in stored}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def computes(node: onnx.NodeProto) -> bool:
        return node.op_type in COMPUTING and not (node.op_type == "Add" and fixed & {*node.input})

    def useful(name: str) -> bool:
        return any(
            computes(node) or (node.op_type in MOVING and any(map(useful, node.output)))
            for node in readers.get(name, [])
        )

    quantizers = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    return sum(not useful(n.output[0]) for n in quantizers if n.input[0] not in stored)


@pytest.mark.parametrize("target", [A100, "nvidia-t4", "nvidia-h100", "nvidia-b200"])
@pytest.mark.parametrize("name", ["minilm", "resnet20", "squeezenet"])
def test_float_models_give_nothing_but_notes(
    name: str, target: str, task: Callable[[str], Any], data: Path
) -> None:
    paths = {
        "resnet20": data / "resnet_cifar10" / "resnet20.onnx",
        "squeezenet": data / "squeezenet_deepcompression" / "squeezenet_decoded_fp32.onnx",
    }
    found = checked(paths.get(name) or task(name).model, target)
    assert {v.severity for v in found} == {"note"}
    assert {"trt-float32-stays", "trt-dynamic-shape"} <= {v.rule for v in found}


@pytest.mark.parametrize("options", ["unsigned", "inputs only"])
def test_static_minilm(options: str, minilm: Callable[[str], Path]) -> None:
    path = minilm(options)
    found = counted(path)
    nothing = found.pop("trt-pair-without-layer", 0)
    assert nothing == pairs_for_nothing(path)
    assert found == recounted(path)
    assert bool(found) is (options == "unsigned")
    assert bool(nothing) is (options == "unsigned")


def test_operators_that_multiply_integers_are_refused(
    task: Callable[[str], Any], tmp_path: Path
) -> None:
    path = tmp_path / "dynamic.onnx"
    quantization.quantize_dynamic(task("minilm").model, path)
    kinds = Counter(node.op_type for node in onnx.load(path).graph.node)
    found = Counter(v.op for v in checked(path) if v.rule == "trt-integer-operator")
    assert found == {op: kinds[op] for op in ("DynamicQuantizeLinear", "MatMulInteger")}
    assert all(found.values())


def test_residuals_of_a_quantized_resnet(data: Path, tmp_path: Path) -> None:
    """Pairs on both operands of an Add keep it from the convolution; pairs on inputs do not."""
    source = data / "resnet_cifar10" / "resnet20.onnx"
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(size=(4, 3, 32, 32)).astype(np.float32)} for _ in range(2)]
    rules = {}
    for options in ("symmetric", "inputs only"):
        path = tmp_path / f"{options}.onnx"
        quantization.quantize_static(source, path, Feeds(iter(feeds)), **OPTIONS[options])
        rules[options] = counted(path)
    adds = sum(node.op_type == "Add" for node in onnx.load(source).graph.node)
    assert rules["symmetric"]["trt-residual-pair"] == adds == 9
    assert rules["symmetric"]["trt-pair-without-layer"] == pairs_for_nothing(
        path.with_stem("symmetric")
    )
    assert rules["inputs only"] == {}


def test_the_command_on_an_nvidia_target(
    minilm: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["targets", "check", str(minilm("unsigned")), "--target", A100]
    assert main(words) == 10
    text = capfd.readouterr().out
    assert (
        f"error  trt-uint8-codes: {recounted(minilm('unsigned'))['trt-uint8-codes']} nodes" in text
    )
    assert "try: quantize to int8" in text
    assert main([*words, "--json"]) == 10
    document = json.loads(capfd.readouterr().out)
    assert document["counts"]["error"] == sum(recounted(minilm("unsigned")).values())
    idle = {entry["rule"]: entry["why"] for entry in document["not_applied"]}
    assert idle["weight-axis"].startswith("a rule of ONNX Runtime on CPUs")
    assert idle["trt-operator-too-new"] == "the target names no newest version"
