from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.ir.digest import contents_digest
from planish.ir.errors import InputError
from planish.ir.graph import constant_tensor, opset
from planish.ir.load import load_model
from planish.ir.opset import raised
from planish.ir.provenance import ORIGIN_KEY, SCOPE_KEY
from planish.ir.save import to_bytes
from planish.ir.signature import Signature
from planish.ir.storage import stream
from planish.ir.verify import violations
from planish.targets.runtime import open_session

TEXT = """
<ir_version: 8, opset_import: ["" : 13]>
g (float[n, 16] x) => (float[n, 16] y, float[n, 1] mean)
<int64[1] first = {0}>
{
  [layer] a = MatMul(x, w)
  [act] b = Relu(a)
  [reduce] mean = ReduceMean <axes = [1]> (b)
  [shape] s = Shape(b)
  [norm] c = BatchNormalization(b, scale, bias, running_mean, variance)
  [row] d = Unsqueeze(c, first)
  [back] y = Squeeze(d, first)
}
"""
RNG = np.random.default_rng(2)
TENSORS = {
    "w": RNG.normal(size=(16, 16)).astype(np.float32),
    "scale": RNG.uniform(0.5, 2, 16).astype(np.float32),
    "bias": RNG.normal(size=16).astype(np.float32),
    "running_mean": RNG.normal(size=16).astype(np.float32),
    "variance": RNG.uniform(0.5, 2, 16).astype(np.float32),
}
X = RNG.normal(size=(3, 16)).astype(np.float32)


@pytest.fixture
def model(graphs: ModuleType) -> ir.Model:
    parsed: ir.Model = graphs.parse(TEXT, **TENSORS)
    return parsed


OLD = """
<ir_version: 8, opset_import: ["" : 10]>
g (float[n, m] x) => (OUTPUTS)
{ r = Relu(x) y, mask = Dropout(r) z = Concat<axis = 0>(y, y) }
"""


def test_the_signature_stays(graphs: ModuleType) -> None:
    """The converter would write unk__0 where the size has no name."""
    old = graphs.parse(OLD.replace("OUTPUTS", "float[?, m] z, float[n, m] y"))
    newer = raised(old, 13)
    assert Signature.of(newer) == Signature.of(old)
    assert violations(newer, Signature.of(old)) == []


def test_a_mask_that_would_change_keeps_the_opset(graphs: ModuleType) -> None:
    old = graphs.parse(OLD.replace("OUTPUTS", "float[?, m] z, bool[n, m] mask"))
    with pytest.raises(InputError, match="mask of a Dropout"):
        raised(old, 13)
    assert opset(raised(old, 11)) == 11


OLD_SCAN = """
<ir_version: 3, opset_import: ["" : 8]>
g (float[1, 2] first, float[1, 3, 2] x) => (float[1, 2] last, float[1, 3, 2] z)
{
  last, z = Scan <num_scan_inputs = 1, body = body (float[2] sum_in, float[2] next)
    => (float[2] sum_out, float[2] out) { sum_out = Add(sum_in, next) out = Identity(sum_out) }>
    (, first, x)
}
"""


def test_a_scan_over_batches_keeps_the_opset(graphs: ModuleType) -> None:
    old = graphs.parse(OLD_SCAN)
    with pytest.raises(InputError, match="Scan runs over batches"):
        raised(old, 13)


def test_the_function_and_the_names_stay(model: ir.Model, graphs: ModuleType) -> None:
    before = contents_digest(model)
    newer = raised(model, 18)
    assert opset(newer) == 18
    assert violations(newer) == []
    assert [v.name for v in newer.graph.inputs] == ["x"]
    assert {o.name for n in model.graph for o in n.outputs} <= {
        o.name for n in newer.graph for o in n.outputs
    }
    expected, got = graphs.run(model, {"x": X}), graphs.run(newer, {"x": X})
    assert all(np.array_equal(expected[name], got[name]) for name in expected)
    assert contents_digest(model) == before


def test_nodes_still_know_where_they_come_from(model: ir.Model, graphs: ModuleType) -> None:
    graphs.node(model, "layer").metadata_props[SCOPE_KEY] = "['encoder', 'linear']"
    newer = raised(model, 18)
    assert [n.name for n in newer.graph] == [n.name for n in model.graph]
    assert all(n.metadata_props[ORIGIN_KEY] == n.name for n in newer.graph)
    assert graphs.node(newer, "layer").metadata_props[SCOPE_KEY] == "['encoder', 'linear']"
    assert all(o.type is not None and o.shape is not None for n in newer.graph for o in n.outputs)


def test_weights_are_shared_and_not_copied(model: ir.Model, graphs: ModuleType) -> None:
    newer = raised(model, 18)
    assert constant_tensor(graphs.value(newer, "w")) is constant_tensor(graphs.value(model, "w"))


def test_a_model_that_is_new_enough_is_left_alone(model: ir.Model) -> None:
    assert raised(model, 13) is model
    assert raised(model, 7) is model


def test_what_cannot_be_converted_is_said(graphs: ModuleType) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 12]>
    g (float[2] x) => (float[2] y) { a = Relu(x) y = Invented(a) }
    """
    model = graphs.parse(text)
    before = contents_digest(model)
    with pytest.raises(InputError, match="opset 12 cannot be raised to 18: Invented is unknown"):
        raised(model, 18)
    assert contents_digest(model) == before


def test_weights_in_files_are_found_again(tmp_path: Path) -> None:
    text = """<ir_version: 7, opset_import: ["" : 11]>
    g (float[n, 4] x, bool b) => (float[n, 4] y) {
      s = Add(x, small)
      y = If (b) <then_branch = t () => (float[n, 4] p) { p = MatMul(s, large) },
                  else_branch = e () => (float[n, 4] q) { q = Add(s, inner) }>
    }"""
    proto = onnx.parser.parse_model(text)
    arrays = {"small": np.ones(4), "large": np.eye(4), "inner": np.full((16, 4), 2.0)}
    tensors = {k: onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in arrays.items()}
    proto.graph.initializer.extend([tensors["small"], tensors["large"]])
    branch = next(a.g for a in proto.graph.node[1].attribute if a.name == "else_branch")
    branch.initializer.append(tensors["inner"])
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    newer = raised(load_model(path).model, 13)
    x = np.zeros((16, 4), np.float32)
    for b, expected in ((True, 1.0), (False, 3.0)):
        [y] = open_session(to_bytes(newer), threads=1).run({"x": x, "b": np.array(b)})
        np.testing.assert_array_equal(y, np.full((16, 4), expected))


BODIES = """
<ir_version: 7, opset_import: ["" : 11]>
g (float[n, 16] x, bool c) => (float[n, 16] y)
{
  h = MatMul(x, w)
  y = If(c) <
    then_branch = t () => (t_out) { t_out = MatMul(h, inner) },
    else_branch = e () => (e_out) { e_out = Neg(h) }
  >
}
"""


def test_no_large_weight_is_read_wherever_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = np.random.default_rng(0).standard_normal((2, 16, 16)).astype(np.float32)
    (tmp_path / "weights.bin").write_bytes(weights.tobytes())
    proto = ir.to_proto(ir.from_onnx_text(BODIES))
    body = next(a.g for n in proto.graph.node for a in n.attribute if a.name == "then_branch")
    for place, graph in enumerate((proto.graph, body)):
        tensor = onnx.TensorProto(name="w" if graph is proto.graph else "inner", dims=(16, 16))
        tensor.data_type, tensor.data_location = onnx.TensorProto.FLOAT, onnx.TensorProto.EXTERNAL
        for key, value in (("location", "weights.bin"), ("offset", 1024 * place)):
            tensor.external_data.add(key=key, value=str(value))
        graph.initializer.append(tensor)
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    model = load_model(tmp_path / "model.onnx").model

    def read(tensor: ir.ExternalTensor, size: int) -> None:
        raise AssertionError(f"{tensor.name} was read")

    with monkeypatch.context() as patch:
        patch.setattr(stream, "_of_file", read)
        newer = raised(model, 13)
    found = {n: v.const_value for g in newer.graphs() for n, v in g.initializers.items()}
    for name, wanted in zip(("w", "inner"), weights, strict=True):
        kept = found[name]
        assert isinstance(kept, ir.ExternalTensor)
        assert np.array_equal(kept.numpy(), wanted)
    assert violations(newer) == []


def test_a_size_that_the_converter_made_up_names_nothing() -> None:
    """It calls the open axis of the input, and that of a slice which is empty, by one name."""
    text = """<ir_version: 8, opset_import: ["" : 10]>
    g (float[?, 3] x) => (float[m, 3] y) <int64[1] zero = {0}> {
      a = Slice(x, zero, zero, zero)
      y = Relu(a)
    }"""
    newer = raised(load_model(ir.from_onnx_text(text)).model, 13)
    assert opset(newer) == 13
    sliced = next(iter(newer.graph)).outputs[0]
    assert sliced.shape is not None
    assert [d if isinstance(d, int) else d.value for d in sliced.shape] == [None, 3]
