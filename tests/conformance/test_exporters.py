"""The handwriting of exporters: PyTorch's own at several opsets, and small graphs in the style of
others, each through import and the lossless pipeline with the outputs of the original.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from planish.ir.load import load_model
from planish.ir.save import to_bytes
from planish.ir.sites import Sites, find_sites
from planish.targets.runtime import open_session

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(9)
IMAGE = RNG.normal(size=(2, 6, 6, 3)).astype(np.float32)
FLOAT = TensorProto.FLOAT


def floats(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def lossless(graphs: ModuleType, model: onnx.ModelProto, feed: dict[str, Array]) -> Sites:
    """The sites of the canonical graph, whose outputs are those of the original."""
    before = open_session(model.SerializeToString(), threads=1, optimize="none").run(feed)
    imported = load_model(model)
    graphs.Bench(imported.model, [feed]).run("canonicalize")
    after = open_session(to_bytes(imported.model), threads=1, optimize="none").run(feed)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)
    return find_sites(imported.model, nested=True)


# -- PyTorch ---------------------------------------------------------------------------


def network() -> Any:
    import torch

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3)
            self.norm = torch.nn.BatchNorm2d(8)
            self.query, self.key = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
            self.drop = torch.nn.Dropout(0.1)
            self.head = torch.nn.Linear(8, 4)

        def forward(self, x: Any) -> Any:
            h = torch.relu(self.norm(self.conv(x))).flatten(2).transpose(1, 2)
            scores = self.query(h) @ self.key(h).transpose(1, 2)
            return self.head(self.drop(h + torch.softmax(scores, -1) @ h))

    torch.manual_seed(0)
    return Block().eval()


@pytest.mark.torch
@pytest.mark.parametrize(
    ("dynamo", "opset"), [(True, 18), (True, 20), (True, 23), (False, 11), (False, 17)]
)
def test_torch(graphs: ModuleType, tmp_path: Path, dynamo: bool, opset: int) -> None:
    import torch

    module, path = network(), tmp_path / "model.onnx"
    x = torch.from_numpy(IMAGE.transpose(0, 3, 1, 2).copy())
    options: dict[str, Any] = (
        {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},), "verbose": False}
        if dynamo
        else {"dynamic_axes": {"x": {0: "n"}}}
    )
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        torch.onnx.export(
            module, (x,), path, dynamo=dynamo, opset_version=opset, input_names=["x"], **options
        )
        expected = module(x).numpy()
    model = onnx.load(path)
    sites = lossless(graphs, model, {"x": x.numpy()})
    assert {"conv", "query", "key", "head"} <= set(sites.by_name)
    [found] = open_session(path, threads=1).run({"x": x.numpy()})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


# -- others, in small ------------------------------------------------------------------


def graph_of(
    nodes: list[onnx.NodeProto],
    x: list[Any],
    y: list[Any],
    weights: dict[str, Array],
    opset: int,
    names: tuple[str, str] = ("x", "y"),
    **more: Any,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(names[0], FLOAT, x)],
        [helper.make_tensor_value_info(names[1], FLOAT, y)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, **{"ir_version": 7} | more)


def test_tf2onnx_writes_channels_last_and_colons(graphs: ModuleType) -> None:
    node = helper.make_node
    model = graph_of(
        [
            node("Transpose", ["serving_default_x:0"], ["f/Conv2D__6:0"], perm=[0, 3, 1, 2]),
            node("Conv", ["f/Conv2D__6:0", "f/Conv2D/ReadVariableOp:0"], ["f/Conv2D:0"]),
            node("Transpose", ["f/Conv2D:0"], ["f/Conv2D__7:0"], perm=[0, 2, 3, 1]),
            node("Add", ["f/Conv2D__7:0", "f/BiasAdd/ReadVariableOp:0"], ["f/BiasAdd:0"]),
            node("Reshape", ["f/BiasAdd:0", "const_fold_opt__9"], ["f/flatten:0"]),
            node(
                "MatMul", ["f/flatten:0", "f/dense/MatMul/ReadVariableOp:0"], ["f/dense/MatMul:0"]
            ),
            node("Identity", ["f/dense/MatMul:0"], ["Identity:0"]),
        ],
        ["unk__10", 6, 6, 3],
        ["unk__11", 5],
        {
            "f/Conv2D/ReadVariableOp:0": floats(4, 3, 3, 3),
            "f/BiasAdd/ReadVariableOp:0": floats(4),
            "const_fold_opt__9": np.array([-1, 64]),
            "f/dense/MatMul/ReadVariableOp:0": floats(64, 5),
        },
        13,
        ("serving_default_x:0", "Identity:0"),
        producer_name="tf2onnx",
    )
    sites = lossless(graphs, model, {"serving_default_x:0": IMAGE})
    assert [site.kind for site in sites] == ["conv", "linear"]


def test_keras2onnx_lists_weights_as_inputs(graphs: ModuleType) -> None:
    node = helper.make_node
    weights = {"dense/kernel:0": floats(4, 5), "dense/bias:0": floats(5)}
    model = graph_of(
        [
            node("MatMul", ["dense_input", "dense/kernel:0"], ["dense0"], name="dense"),
            node("Add", ["dense0", "dense/bias:0"], ["biased_tensor_name"], name="Add"),
            node("Identity", ["biased_tensor_name"], ["dense"], name="identity_a"),
        ],
        ["N", 4],
        ["N", 5],
        weights,
        9,
        ("dense_input", "dense"),
        ir_version=3,
    )
    model.graph.input.extend(
        helper.make_tensor_value_info(k, FLOAT, v.shape) for k, v in weights.items()
    )
    sites = lossless(graphs, model, {"dense_input": floats(2, 4)})
    assert [(s.kind, s.bias is not None) for s in sites] == [("linear", True)]


def test_paddle_writes_weights_as_constants(graphs: ModuleType) -> None:
    node = helper.make_node

    def constant(name: str, array: Array) -> onnx.NodeProto:
        return node("Constant", [], [name], value=numpy_helper.from_array(array, name))

    model = graph_of(
        [
            constant("linear_0.w_0", floats(4, 5)),
            constant("linear_0.b_0", floats(5)),
            constant("shape_0", np.array([-1, 5])),
            node("MatMul", ["x", "linear_0.w_0"], ["p2o.MatMul.1"], name="p2o.MatMul.0"),
            node("Add", ["p2o.MatMul.1", "linear_0.b_0"], ["p2o.Add.1"], name="p2o.Add.0"),
            node("Reshape", ["p2o.Add.1", "shape_0"], ["p2o.Reshape.1"], name="p2o.Reshape.0"),
            node("Identity", ["p2o.Reshape.1"], ["y"], name="p2o.Identity.0"),
        ],
        [-1, 4],
        [-1, 5],
        {},
        11,
        producer_name="PaddlePaddle",
    )
    sites = lossless(graphs, model, {"x": floats(2, 4)})
    assert [(s.kind, s.bias is not None) for s in sites] == [("linear", True)]


def test_matlab_subtracts_a_mean_and_flattens(graphs: ModuleType) -> None:
    node = helper.make_node
    model = graph_of(
        [
            node("Sub", ["imageinput", "imageinput_Mean"], ["imageinput_Sub"]),
            node("Conv", ["imageinput_Sub", "conv_W", "conv_B"], ["conv"], pads=[1, 1, 1, 1]),
            node("Flatten", ["conv"], ["fc_flatten"], axis=1),
            node("Gemm", ["fc_flatten", "fc_W", "fc_B"], ["fc"], transB=1, alpha=1.0, beta=1.0),
            node("Softmax", ["fc"], ["softmax"]),
        ],
        ["BatchSize", 3, 6, 6],
        ["BatchSize", 5],
        {
            "imageinput_Mean": floats(1, 3, 6, 6), "conv_W": floats(4, 3, 3, 3),
            "conv_B": floats(4), "fc_W": floats(5, 144), "fc_B": floats(5),
        },
        9,
        ("imageinput", "softmax"),
        producer_name="MATLAB Deep Learning Toolbox Converter for ONNX Model Format",
    )  # fmt: skip
    sites = lossless(graphs, model, {"imageinput": IMAGE.transpose(0, 3, 1, 2).copy()})
    assert [site.kind for site in sites] == ["conv", "linear"]


def test_caffe2_numbers_its_values(graphs: ModuleType) -> None:
    node = helper.make_node
    weights = {"1": floats(4, 3, 3, 3), "2": floats(4), "5": floats(5, 64), "6": floats(5)}
    model = graph_of(
        [
            node("Conv", ["0", "1", "2"], ["3"], kernel_shape=[3, 3], strides=[1, 1]),
            node("LRN", ["3"], ["n"], size=3, alpha=1e-4, beta=0.75, bias=1.0),
            node("Dropout", ["n"], ["4", "_4_mask"], ratio=0.5),
            node("Reshape", ["4", "shape"], ["flat"]),
            node("Gemm", ["flat", "5", "6"], ["7"], transB=1),
            node("Softmax", ["7"], ["8"]),
        ],
        [2, 3, 6, 6],
        [2, 5],
        weights | {"shape": np.array([2, 64])},
        8,
        ("0", "8"),
        ir_version=3,
    )
    kinds = [(t.name, t.data_type, list(t.dims)) for t in model.graph.initializer]
    model.graph.input.extend(helper.make_tensor_value_info(*kind) for kind in kinds)
    sites = lossless(graphs, model, {"0": IMAGE.transpose(0, 3, 1, 2).copy()})
    assert [site.kind for site in sites] == ["conv", "linear"]


def test_spox_inlines_models_under_its_own_names(graphs: ModuleType) -> None:
    inner = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4] Inline_0__X, float[4, 5] Inline_0__W) => (float[N, 5] Add_0_C)
        { [Inline_0__MatMul_0] m = MatMul(Inline_0__X, Inline_0__W)
          [Constant_0] Constant_0_output = Constant<value_float = 1.0>()
          [Add_0] Add_0_C = Add(Constant_0_output, m) }"""
    )
    inner.graph.initializer.append(numpy_helper.from_array(floats(4, 5), "Inline_0__W"))
    sites = lossless(graphs, inner, {"Inline_0__X": floats(2, 4)})
    assert [site.kind for site in sites] == ["linear"]
    assert all(isinstance(site.weight, ir.Value) for site in sites)
