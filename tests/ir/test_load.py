from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from planish.ir.digest import contents_digest, file_digest
from planish.ir.errors import InputError
from planish.ir.load import Imported, load_model
from planish.ir.provenance import ORIGIN_KEY, SCOPE_KEY
from planish.ir.save import to_bytes
from planish.ir.signature import Signature
from planish.ir.verify import violations
from planish.targets.runtime import open_session

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[batch, 2] x, float[2, 2] w) => (float[batch, 2] y)
<float[2, 2] w = {1, 2, 3, 4}>
{
  h = MatMul(x, w)
  half = Constant<value_float = 0.5>()
  scaled = Mul(h, half)
  y = Relu(scaled)
}
"""


def parse(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


def write(folder: Path, model: onnx.ModelProto, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def refused(source: Path | onnx.ModelProto | ir.Model) -> InputError:
    with pytest.raises(InputError) as caught:
        load_model(source)
    error = caught.value
    assert error.hint
    assert "Traceback" not in str(error)
    assert len(str(error).splitlines()) <= 4
    assert all(len(line) < 700 for line in str(error).splitlines())
    if isinstance(source, Path):
        assert str(source) in str(error)
    return error


def attempt(path: Path) -> Imported | InputError:
    try:
        return load_model(path)
    except InputError as error:
        return error


def codes(imported: Imported) -> list[str]:
    return [r.code for r in imported.remarks]


def run(model: ir.Model, **feeds: np.ndarray) -> list[np.ndarray]:
    return list(ReferenceEvaluator(ir.to_proto(model)).run(None, feeds))


# Files that are no models.


def test_no_such_file(tmp_path: Path) -> None:
    write(tmp_path, parse(TEXT), "encoder.onnx")
    error = refused(tmp_path / "decoder.onnx")
    assert "no such model file" in error.what
    assert "encoder.onnx" in error.hint


def test_no_such_file_among_many(tmp_path: Path) -> None:
    for name in [*(f"a{number:02}" for number in range(40)), "minilm", "minilm-int8", "resnet20"]:
        (tmp_path / f"{name}.onnx").touch()
    assert refused(tmp_path / "minlm.onnx").hint.startswith("did you mean 'minilm.onnx'")
    assert refused(tmp_path / "ResNet20").hint == "did you mean 'resnet20.onnx'?"
    assert refused(tmp_path / "vocoder.onnx").hint == (
        "name one of its models: a00.onnx, a01.onnx, a02.onnx, a03.onnx, a04.onnx and 38 more"
    )


def test_no_such_folder(tmp_path: Path) -> None:
    assert "does not exist either" in refused(tmp_path / "missing" / "model.onnx").hint


def test_a_folder(tmp_path: Path) -> None:
    write(tmp_path, parse(TEXT), "encoder.onnx")
    error = refused(tmp_path)
    assert "is a folder" in error.what
    assert "encoder.onnx" in error.hint


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.touch()
    assert "is empty" in refused(path).what


def test_a_device() -> None:
    assert "not a regular file" in refused(Path("/dev/null")).what


def test_something_else_than_a_path() -> None:
    with pytest.raises(InputError, match="cannot be a dict"):
        load_model({})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"PK\x03\x04 and so on", "PyTorch checkpoint"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (gzip.compress(b"model", mtime=0), "gzip"),
        (b"\x1c\x00\x00\x00TFL3\x00", "TensorFlow Lite"),
        (b"import torch\n", "truncated or not an ONNX model"),
        (b"\x00" * 64, "truncated or not an ONNX model"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, data: bytes, sentence: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    assert sentence in refused(path).what


def test_random_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for seed in range(200):
        draw = random.Random(seed)
        path.write_bytes(draw.randbytes(draw.randrange(1, 200)))
        refused(path)


def test_a_truncated_model(tmp_path: Path) -> None:
    data = write(tmp_path, parse(TEXT)).read_bytes()
    path = tmp_path / "truncated.onnx"
    for size in range(1, len(data)):
        path.write_bytes(data[:size])
        refused(path)


def test_a_model_with_a_flipped_byte_loads_or_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path, parse(TEXT)).read_bytes()
    path = tmp_path / "damaged.onnx"
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        found = attempt(path)
        if isinstance(found, Imported):
            assert violations(found.model) == []
        else:
            assert found.hint
            assert str(path) in str(found)


# Models that are no good.


@pytest.mark.parametrize("opset", [1, 6, 27, 28])
def test_opsets_outside_the_range(tmp_path: Path, opset: int) -> None:
    model = parse(TEXT)
    model.opset_import[0].version = opset
    error = refused(write(tmp_path, model))
    assert f"opset {opset}; 7 to 26 are supported" in error.what
    assert "opset_version" in error.hint


@pytest.mark.parametrize("opset", [7, 13, 26])
def test_opsets_inside_the_range(opset: int) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])
    assert load_model(model).model.opset_imports == {"": opset}


@pytest.mark.parametrize("version", [1, 2, 14, 99])
def test_ir_versions_outside_the_range(tmp_path: Path, version: int) -> None:
    model = parse(TEXT)
    model.ir_version = version
    assert f"IR version {version}" in refused(write(tmp_path, model)).what


def test_no_opset(tmp_path: Path) -> None:
    model = parse(TEXT)
    del model.opset_import[:]
    assert "no operator set" in refused(write(tmp_path, model)).what


def test_a_missing_initializer(tmp_path: Path) -> None:
    model = parse(TEXT)
    del model.graph.initializer[:]
    del model.graph.input[1:]
    error = refused(write(tmp_path, model))
    assert "initializer or input is missing" in error.what
    assert "reads 'w', which nothing defines" in error.what


def test_nan_weights(tmp_path: Path) -> None:
    model = parse(TEXT)
    array = np.array([[1, np.nan], [3, 4]], np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))
    error = refused(write(tmp_path, model))
    assert "'w' holds 1 NaN" in error.what


def test_stripped_weights(tmp_path: Path) -> None:
    model = parse(TEXT)
    model.graph.initializer[0].ClearField("float_data")
    model.graph.initializer[0].ClearField("raw_data")
    assert "'w' holds no data" in refused(write(tmp_path, model)).what


def test_weights_of_the_wrong_size(tmp_path: Path) -> None:
    model = parse(TEXT)
    model.graph.initializer[0].ClearField("float_data")
    model.graph.initializer[0].raw_data = b"\0" * 12
    assert "should hold 16" in refused(write(tmp_path, model)).what
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].float_data.extend([1, 2, 3])
    assert "should hold 4" in refused(write(tmp_path, model)).what


def test_an_unknown_data_type(tmp_path: Path) -> None:
    model = parse(TEXT)
    model.graph.initializer[0].data_type = 77
    assert "no known data type" in refused(write(tmp_path, model)).what


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    data = write(tmp_path, parse(TEXT)).read_bytes()
    path = tmp_path / "damaged.onnx"
    path.write_bytes(data.replace(b"scaled", b"scal\xe9d"))
    assert "is no text" in refused(path).what


def test_an_attribute_without_a_type(tmp_path: Path) -> None:
    model = parse(TEXT)
    model.graph.node[1].attribute[0].ClearField("type")
    assert "attribute 'value_float' of Constant" in refused(write(tmp_path, model)).what


def test_an_attribute_without_its_tensor(tmp_path: Path) -> None:
    model = parse(TEXT)
    model.graph.node[1].attribute[0].type = onnx.AttributeProto.TENSOR
    assert "has no value" in refused(write(tmp_path, model)).what


def duplicate_value(model: onnx.ModelProto) -> str:
    model.graph.node[2].output[0] = "h"
    return "value 'h' is defined twice"


def duplicate_input(model: onnx.ModelProto) -> str:
    model.graph.input.append(model.graph.input[0])
    return "input 'x' is defined twice"


def duplicate_initializer(model: onnx.ModelProto) -> str:
    model.graph.initializer.append(model.graph.initializer[0])
    return "initializer 'w' is defined twice"


def duplicate_output(model: onnx.ModelProto) -> str:
    model.graph.output.append(model.graph.output[0])
    return "output 'y' is listed twice"


def unproduced_output(model: onnx.ModelProto) -> str:
    model.graph.output[0].name = "nowhere"
    return "output 'nowhere' of the graph is not computed there"


def unimported_domain(model: onnx.ModelProto) -> str:
    model.graph.node[0].domain = "com.example"
    return "is of domain 'com.example'"


def circle(model: onnx.ModelProto) -> str:
    model.graph.node[0].input[0] = "scaled"
    return "runs in a circle"


@pytest.mark.parametrize(
    "damage",
    [
        duplicate_value,
        duplicate_input,
        duplicate_initializer,
        duplicate_output,
        unproduced_output,
        unimported_domain,
        circle,
    ],
)
def test_invalid_graphs(tmp_path: Path, damage: Callable[[onnx.ModelProto], str]) -> None:
    model = parse(TEXT)
    sentence = damage(model)
    assert sentence in refused(write(tmp_path, model)).what


def test_map_types(tmp_path: Path) -> None:
    model = parse(TEXT)
    kind = model.graph.output[0].type.sequence_type.elem_type.map_type
    kind.key_type = TensorProto.INT64
    kind.value_type.tensor_type.elem_type = TensorProto.FLOAT
    error = refused(write(tmp_path, model))
    assert "'y' is a map" in error.what
    assert "zipmap" in error.hint


def test_errors_about_a_model_in_memory_say_so() -> None:
    model = parse(TEXT)
    model.ir_version = 99
    assert refused(model).where == "the model given"


# Models that are good, and the form they come in.


def test_a_model_comes_in_one_form(tmp_path: Path) -> None:
    path = write(tmp_path, parse(TEXT))
    imported = load_model(str(path))
    graph = imported.model.graph
    assert imported.path == path
    assert imported.file_digest == file_digest(path)
    assert imported.signature == Signature.of(imported.model)
    assert [v.name for v in graph.inputs] == ["x"]
    assert [n.op_type for n in graph] == ["MatMul", "Mul", "Relu"]
    assert set(graph.initializers) == {"w", "half"}
    assert [str(v.shape) for n in graph for v in n.outputs] == ["[batch,2]"] * 3
    assert codes(imported) == ["overridable-dropped"]
    assert violations(imported.model, imported.signature) == []


def test_it_computes_the_same() -> None:
    x = np.array([[1, -2], [3, 4]], np.float32)
    wanted = np.maximum(x @ np.array([[1, 2], [3, 4]], np.float32) * 0.5, 0)
    (found,) = run(load_model(parse(TEXT)).model, x=x)
    np.testing.assert_array_equal(found, wanted)


def test_overridable_initializers_stay_on_request() -> None:
    imported = load_model(parse(TEXT), keep_overridable=True)
    assert [v.name for v in imported.model.graph.inputs] == ["x", "w"]
    assert codes(imported) == []
    x, w = np.ones((1, 2), np.float32), np.zeros((2, 2), np.float32)
    assert run(imported.model, x=x, w=w)[0].sum() == 0
    assert run(imported.model, x=x)[0].sum() == 5


def test_ir_3_becomes_4_without_its_overridable_inputs() -> None:
    model = parse(TEXT)
    model.ir_version = 3
    assert load_model(model).model.ir_version == 4
    del model.graph.node[1]  # the Constant
    model.graph.node[1].input[1] = "w"
    assert load_model(model, keep_overridable=True).model.ir_version == 3


def test_constants_lifted_out_of_a_model_of_ir_3_make_it_one_of_ir_4() -> None:
    model = parse("""
<ir_version: 3, opset_import: ["" : 9]>
g (float[2] x, bool c) => (float[2] y)
{
  y = If(c) <
    then_branch = t () => (float[2] a) { one = Constant<value_float = 1.0>() a = Add(x, one) },
    else_branch = e () => (float[2] b) { b = Neg(x) }
  >
}
""")
    del model.graph.node[0].attribute[0].g.node[0].attribute[0]
    one = numpy_helper.from_array(np.array(1, np.float32))
    model.graph.node[0].attribute[0].g.node[0].attribute.append(helper.make_attribute("value", one))
    for kept in (False, True):
        imported = load_model(model, keep_overridable=kept).model
        session = open_session(to_bytes(imported), threads=1)
        x = np.zeros(2, np.float32)
        assert session.run({"x": x, "c": np.array(True)})[0].tolist() == [1, 1]


def test_the_source_stays_as_it_is() -> None:
    proto = parse(TEXT)
    before = proto.SerializeToString()
    load_model(proto)
    assert proto.SerializeToString() == before
    model = ir.from_onnx_text(TEXT)
    contents, nodes = contents_digest(model), [n.name for n in model.graph]
    load_model(model)
    assert contents_digest(model) == contents
    assert [n.name for n in model.graph] == nodes
    assert all(ORIGIN_KEY not in n.metadata_props for n in model.graph)


def test_all_front_doors_agree(tmp_path: Path) -> None:
    found = {
        contents_digest(load_model(source).model)
        for source in (parse(TEXT), ir.from_onnx_text(TEXT), write(tmp_path, parse(TEXT)))
    }
    assert len(found) == 1


def test_constants_of_every_kind() -> None:
    model = parse("""
        <ir_version: 8, opset_import: ["" : 17]>
        g () => (float y, float[2] z, int64 i, int64[3] j, float[1] t, float out)
        {
          a = Constant<value_float = 1.5>() y = Identity(a)
          b = Constant<value_floats = [1.0, 2.0]>() z = Identity(b)
          c = Constant<value_int = 7>() i = Identity(c)
          d = Constant<value_ints = [1, 2, 3]>() j = Identity(d)
          e = Constant<value = float[1] {9}>() t = Identity(e)
          out = Constant<value_float = 3.0>()
        }
    """)
    strings = helper.make_node("Constant", [], ["s"], value_strings=[b"a", "ä".encode()])
    model.graph.node.insert(0, strings)
    string = helper.make_node("Constant", [], ["s0"], value_string="ü\0")
    model.graph.node.insert(0, string)
    imported = load_model(model)
    graph = imported.model.graph
    assert [n.op_type for n in graph] == ["Identity"] * 5 + ["Constant"]
    held = {name: v.const_value for name, v in graph.initializers.items()}
    assert all(tensor is not None for tensor in held.values())
    lists = {k: t.numpy().tolist() for k, t in held.items() if t is not None}
    assert lists["a"] == 1.5
    assert lists["c"] == 7
    assert lists["d"] == [1, 2, 3]
    assert lists["e"] == [9]
    assert lists["s"] == [b"a", "ä".encode()]
    assert held["c"].dtype == ir.DataType.INT64  # type: ignore[union-attr]
    assert lists["b"] == [1.0, 2.0]
    outputs = run(imported.model)
    assert [np.asarray(o).tolist() for o in outputs] == [1.5, [1.0, 2.0], 7, [1, 2, 3], [9.0], 3.0]


NESTED = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[2] x, bool c) => (float[2] y)
{
  [n] w = Constant<value = float[2] {1, 2}>()
  [n] y = If(c) <
    then_branch = t () => (y_then) {
      [n] w2 = Constant<value = float[2] {5, 6}>()
      [] y_then = Add(x, w2)
    },
    else_branch = e () => (y_then) {
      [n] w2 = Constant<value = float[2] {7, 8}>()
      [] h = Mul(w2, w)
      [] y_then = Sub(x, h)
    }
  >
}
"""


def test_names_become_unique_and_the_signature_keeps_its() -> None:
    imported = load_model(parse(NESTED))
    nodes = list(imported.model.graph.all_nodes())
    names = [n.name for n in nodes]
    assert len(set(names)) == len(names)
    values = [v.name or "" for n in nodes for v in n.outputs]
    weights = [name for g in imported.model.graphs() for name in g.initializers]
    assert len(set(values + weights)) == len(values) + len(weights)
    assert [v.name for v in imported.model.graph.outputs] == ["y"]
    x = np.array([10, 20], np.float32)
    for c, wanted in ((True, x + np.array([5, 6])), (False, x - np.array([7, 8]) * [1, 2])):
        (found,) = run(imported.model, x=x, c=np.array(c))
        np.testing.assert_array_equal(found, wanted)


def test_constants_of_branches_are_lifted_into_the_branch() -> None:
    imported = load_model(parse(NESTED))
    assert all(n.op_type != "Constant" for n in imported.model.graph.all_nodes())
    assert [len(g.initializers) for g in imported.model.graphs()] == [1, 1, 1]


def test_an_inner_name_that_hides_an_outer_one_is_renamed() -> None:
    text = NESTED.replace("y_then", "w").replace("Mul(w2, w)", "Mul(w2, x)")
    imported = load_model(parse(text))
    assert violations(imported.model) == []
    x = np.array([10, 20], np.float32)
    (found,) = run(imported.model, x=x, c=np.array(False))
    np.testing.assert_array_equal(found, x - np.array([7, 8]) * x)


def test_origins_are_stamped() -> None:
    imported = load_model(parse(NESTED))
    for node in imported.model.graph.all_nodes():
        assert node.metadata_props[ORIGIN_KEY] == node.name
    assert "If_0" not in {n.name for n in imported.model.graph}
    unnamed = load_model(parse(TEXT))
    assert [n.name for n in unnamed.model.graph] == ["MatMul_0", "Mul_1", "Relu_2"]


def test_exporters_notes_go_and_module_paths_stay() -> None:
    model = parse(TEXT)
    node = model.graph.node[0]
    node.doc_string = "/home/somebody/model.py(17): forward"
    for key, value in {
        SCOPE_KEY: "['', 'encoder.layer.0']",
        "pkg.torch.onnx.class_hierarchy": "['M', 'Linear']",
        "pkg.torch.onnx.stack_trace": 'File "/home/somebody/model.py"',
        "pkg.torch.onnx.fx_node": "%linear : ...",
        "namespace": ": __main__.M/encoder: __main__.Encoder",
        "pkg.onnxscript.rewriter.rule_name": "rule",
        "mine": "kept",
    }.items():
        node.metadata_props.add(key=key, value=value)
    model.metadata_props.add(key="pkg.torch.export.graph_signature", value="dump")
    model.metadata_props.add(key="license", value="mit")
    found = load_model(model).model
    kept = next(iter(found.graph)).metadata_props
    assert set(kept) == {SCOPE_KEY, "mine", ORIGIN_KEY}
    assert found.metadata_props == {"license": "mit"}
    assert b"somebody" not in ir.to_proto(found).SerializeToString()


def test_unsorted_nodes_are_sorted_with_a_remark() -> None:
    model = parse(TEXT)
    nodes = list(reversed(model.graph.node))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    imported = load_model(model)
    assert "sorted" in codes(imported)
    assert contents_digest(imported.model) == contents_digest(load_model(parse(TEXT)).model)


def test_the_other_spelling_of_the_standard_domain() -> None:
    model = parse(TEXT)
    model.opset_import[0].domain = "ai.onnx"
    for node in model.graph.node:
        node.domain = "ai.onnx"
    imported = load_model(model)
    assert imported.model.opset_imports == {"": 17}
    assert contents_digest(imported.model) == contents_digest(load_model(parse(TEXT)).model)


def test_custom_operators_are_left_alone() -> None:
    model = parse("""
        <ir_version: 8, opset_import: ["" : 17, "com.example" : 3]>
        g (float[2] x) => (float[2] y) { h = com.example.Op<mode = "fast">(x) y = Relu(h) }
    """)
    imported = load_model(model)
    assert [n.op_type for n in imported.model.graph] == ["Op", "Relu"]
    assert codes(imported) == []


def test_sparse_initializers_and_constants_become_dense() -> None:
    model = parse("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2, 3] x) => (float[2, 3] y) { h = Add(x, flat) y = Add(h, grid) }
    """)
    values = numpy_helper.from_array(np.array([1.5, -2], np.float32), "flat")
    indices = numpy_helper.from_array(np.array([1, 5], np.int64))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 3]))
    values = numpy_helper.from_array(np.array([7], np.float32), "")
    pairs = numpy_helper.from_array(np.array([[1, 0]], np.int64))
    sparse = helper.make_sparse_tensor(values, pairs, [2, 3])
    model.graph.node.insert(0, helper.make_node("Constant", [], ["grid"], sparse_value=sparse))
    imported = load_model(model)
    assert codes(imported) == ["sparse-made-dense"]
    (found,) = run(imported.model, x=np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(found, [[0, 1.5, 0], [7, 0, -2]])


def test_a_sparse_index_outside_its_shape(tmp_path: Path) -> None:
    model = parse("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] y) { y = Add(x, w) }
    """)
    values = numpy_helper.from_array(np.array([1.5], np.float32), "w")
    indices = numpy_helper.from_array(np.array([2], np.int64))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2]))
    assert "outside its shape" in refused(write(tmp_path, model)).what


FUNCTIONS = """
<ir_version: 8, opset_import: ["" : 17, "my" : 1]>
g (float[2] x) => (float[2] y, float[2] z, float[2] same)
{
  y = my.outer<alpha = 0.25>(x)
  z = my.outer(x)
  same = my.identity(x)
}
<domain: "my", opset_import: ["" : 17, "my" : 1]>
outer <alpha: float = 0.5> (p) => (q) { h = my.inner<alpha: float = @alpha>(p) q = Neg(h) }
<domain: "my", opset_import: ["" : 17]>
inner <alpha> (p) => (q) { q = LeakyRelu<alpha: float = @alpha>(p) }
<domain: "my", opset_import: ["" : 17]>
identity (p) => (p) { unused = Neg(p) }
<domain: "my", opset_import: ["" : 17]>
never_called (p) => (q) { q = Neg(p) }
"""


def test_functions_are_inlined() -> None:
    imported = load_model(parse(FUNCTIONS))
    assert not imported.model.functions
    assert {n.domain for n in imported.model.graph} == {""}
    assert [v.name for v in imported.model.graph.inputs] == ["x"]
    assert [v.name for v in imported.model.graph.outputs] == ["y", "z", "same"]
    x = np.array([-4, 2], np.float32)
    found = run(imported.model, x=x)
    for array, wanted in zip(found, ([1, -2], [2, -2], [-4, 2]), strict=True):
        np.testing.assert_array_equal(array, wanted)


def test_a_function_for_another_opset_stays_with_a_remark() -> None:
    imported = load_model(
        parse(
            FUNCTIONS.replace('opset_import: ["" : 17]>\ninner', 'opset_import: ["" : 15]>\ninner')
        )
    )
    assert codes(imported) == ["function-kept"]
    assert [f.name for f in imported.model.functions.values()] == ["inner"]
    assert violations(imported.model) == []
    session = open_session(to_bytes(imported.model), threads=1)
    (found, *_) = session.run({"x": np.array([-4, 2], np.float32)})
    np.testing.assert_array_equal(found, [1, -2])


def test_functions_in_a_circle_are_refused(tmp_path: Path) -> None:
    model = parse(FUNCTIONS.replace("q = LeakyRelu<alpha: float = @alpha>(p)", "q = my.outer(p)"))
    model.functions[1].opset_import.add(domain="my", version=1)
    error = refused(write(tmp_path, model))
    assert "cannot be inlined" in error.what


def test_shapes_that_cannot_be_inferred_are_a_remark() -> None:
    imported = load_model(parse(TEXT.replace("float[batch, 2] x", "float[batch, 3] x")))
    assert "shapes-unknown" in codes(imported)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_what_pytorch_exports_comes_in() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    example = torch.randn(2, 5, 16)
    program = torch.onnx.export(
        layer, (example,), dynamo=True, dynamic_shapes=({0: "batch", 1: "length"},), verbose=False
    )
    imported = load_model(program.model)
    assert imported.remarks == ()
    assert imported.signature.inputs[0].shape == ("batch", "length", 16)
    assert all(v.shape is not None for n in imported.model.graph for v in n.outputs)
    assert contents_digest(imported.model) == contents_digest(load_model(program.model_proto).model)
    kept = {key for n in imported.model.graph for key in n.metadata_props}
    assert kept == {SCOPE_KEY, ORIGIN_KEY}
    feeds = {imported.signature.inputs[0].name: example.numpy()}
    (found,) = open_session(to_bytes(imported.model), threads=1).run(feeds)
    np.testing.assert_allclose(found, layer(example).detach().numpy(), atol=1e-5)


# Real models.


def test_every_structural_model_loads_or_is_refused_in_plain_words(tasks: ModuleType) -> None:
    loaded = 0
    for each in tasks.structural():
        imported = attempt(each.path)
        if isinstance(imported, InputError):
            assert str(each.path) in str(imported)
            assert imported.hint
            assert each.feeds is None or each.name in REFUSED
            continue
        loaded += 1
        assert violations(imported.model, imported.signature) == []
        assert all(
            n.domain != "" or n.op_type != "Constant" or n.outputs[0].is_graph_output()
            for n in imported.model.graph.all_nodes()
        )
        assert len(imported.model.functions) == codes(imported).count("function-kept")
    assert loaded >= 79


REFUSED = {
    "contrib_transformers/gpt2_past.onnx",  # computes '284' twice, with different values
    "ml/lr_mnist_scikit.onnx",  # returns a map
}


@pytest.mark.parametrize(
    "file",
    [
        "resnet_cifar10/resnet20.onnx",
        "silero_vad/silero_vad.onnx",
        "yolox_nano/model/yolox_nano.onnx",
        "squeezenet_deepcompression/squeezenet_decoded_fp32.onnx",
    ],
)
def test_truncated_real_models(data: Path, tmp_path: Path, file: str) -> None:
    whole = (data / file).read_bytes()
    load_model(data / file)
    path = tmp_path / "truncated.onnx"
    for part in (0.999, 0.5, 0.01):
        path.write_bytes(whole[: int(len(whole) * part)])
        assert "truncated" in refused(path).what
