"""Names of layers as their authors know them, from each source that a graph can have."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from planish.ir.finding.naming import common_path, layer_name, node_path, parameter_path, scope_path
from planish.ir.provenance import ORIGIN_KEY, SCOPE_KEY


def node(name: str = "", scopes: str = "", origin: str = "") -> ir.Node:
    made = ir.node("MatMul", [], name=name)
    if scopes:
        made.metadata_props[SCOPE_KEY] = scopes
    if origin:
        made.metadata_props[ORIGIN_KEY] = origin
    return made


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("encoder.layer.0.query.weight", "encoder.layer.0.query"),
        ("encoder.layer.0.query.weight_transposed", "encoder.layer.0.query"),
        ("encoder.layer.0.query.weight_quantized_2", "encoder.layer.0.query"),
        ("layer1.0.conv1.weight_bias", "layer1.0.conv1"),
        ("layers.0.self_attn.in_proj_weight", "layers.0.self_attn.in_proj"),
        ("fire2/conv1x1_1.w", "fire2.conv1x1_1"),
        ("bert/encoder/layer_0/dense/kernel:0", "bert.encoder.layer_0.dense"),
        ("fc1.bias", "fc1"),
        ("weight", None),
        ("val_67", None),
        ("val_67.weight", None),
        ("onnx::MatMul_1820", None),
        ("Parameter193", None),
        ("1178", None),
        ("const_fold_opt__428", None),
        ("jax2tf_get_logits_/Const_24:0", None),
        ("/layers/Constant_1_output_0", None),
    ],
)
def test_the_module_in_the_name_of_a_parameter(name: str, path: str | None) -> None:
    assert parameter_path(ir.val(name)) == path


def test_no_parameter_no_path() -> None:
    assert parameter_path(None) is None
    assert parameter_path(ir.val(None)) is None


@pytest.mark.parametrize(
    ("scopes", "path"),
    [
        ("['', 'bert', 'bert.encoder', 'bert.encoder.q', 'linear']", "bert.encoder.q"),
        ("['', 'linear_3']", None),
        ("['_empty_nn_module_stack_from_metadata_hook', 'sym_size']", None),
        ("not a list", None),
        ("[", None),
        ("['only']", None),
    ],
)
def test_the_innermost_module_of_the_scopes(scopes: str, path: str | None) -> None:
    assert scope_path(node(scopes=scopes)) == path


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("/encoder/layer.0/attention/self/query/MatMul", "encoder.layer.0.attention.self.query"),
        ("/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"),
        ("/conv/Conv", "conv"),
        ("/body/layers.0.0/mlp/fc/fc.2/MatMul_1", "body.layers.0.0.mlp.fc.2"),
        ("/MatMul", None),
        ("bert/encoder/layer_0/query/MatMul", "bert.encoder.layer_0.query"),
        ("net/Conv_0/Conv2D", "net.Conv_0"),
        ("model/conv1d/Conv1D", "model.conv1d"),
        ("net/dense/Tensordot/MatMul_1", "net.dense"),
        ("Conv_41", None),
        ("node_linear_3", None),
        ("", None),
    ],
)
def test_node_names_that_are_paths(name: str, path: str | None) -> None:
    assert node_path(node(name)) == path


def test_a_rewritten_node_is_called_after_the_first_of_its_origins() -> None:
    made = node("matmul_3", origin="/encoder/q/Gemm|/encoder/q/Add")
    assert node_path(made) == "encoder.q"


def test_the_weight_speaks_before_the_scope() -> None:
    """PyTorch folds a batch norm into the convolution and leaves the norm's scope on it."""
    folded = node(scopes="['', 'layer1.0', 'layer1.0.bn1', 'batch_norm']")
    weight = ir.val("layer1.0.conv1.weight")
    assert layer_name([folded], weight, None, alone=True) == "layer1.0.conv1"


def test_a_shared_weight_names_no_layer_that_has_another_name() -> None:
    weight = ir.val("embeddings.word.weight")
    head = node(scopes="['', 'head', 'linear']")
    assert layer_name([head], weight, None, alone=False) == "head"
    assert layer_name([node()], weight, None, alone=False) == "embeddings.word"


def test_a_bias_that_several_layers_read_names_none() -> None:
    bias = ir.val("h.0.attn.bias")
    layer = ir.node("Add", [ir.val("x"), bias])
    assert layer_name([layer], ir.val("val_3"), bias, alone=True) == "h.0.attn"
    ir.node("Add", [ir.val("z"), bias])
    assert layer_name([layer], ir.val("val_3"), bias, alone=True) is None


def test_common_paths_end_at_whole_parts() -> None:
    assert common_path(["a.b.query", "a.b.key"]) == "a.b"
    assert common_path(["a.query", "a.quick"]) == "a"
    assert common_path(["fc1", "fc2"]) == ""
    assert common_path([]) == ""
