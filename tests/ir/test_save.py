from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.ir.digest import contents_digest
from planish.ir.errors import InputError, PlanishError
from planish.ir.load import load_model
from planish.ir.save import one_file_up_to, save_model, to_bytes, total_bytes
from planish.ir.storage.derived import Derived
from planish.ir.storage.tensors import is_hashed, tensor_digest
from planish.targets.runtime import open_session

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[batch, 64] x, bool c) => (float[batch, 64] y, string[2] s)
{
  h = MatMul(x, w)
  k = MatMul(h, tied)
  b = Add(k, bias)
  y = If(c) <
    then_branch = t () => (t_out) { t_out = MatMul(b, inner) },
    else_branch = e () => (e_out) { e_out = Neg(b) }
  >
  s = Identity(words)
}
"""


def build() -> ir.Model:
    """Weights of 16 KB (one of them held twice, one in a branch), a bias of 256 B, strings."""
    draw = np.random.default_rng(0)
    model = ir.from_onnx_text(TEXT)
    weights = {n: draw.standard_normal((64, 64)).astype(np.float32) for n in ("w", "inner")}
    tensors: dict[str, ir.TensorProtocol] = {n: ir.tensor(a) for n, a in weights.items()}
    tensors["tied"] = tensors["w"]
    tensors["bias"] = ir.tensor(draw.standard_normal(64).astype(np.float32))
    tensors["words"] = ir.StringTensor([b"ab", b"c"], shape=ir.Shape([2]))
    inner = next(n for n in model.graph.all_nodes() if n.op_type == "If")
    branch = inner.attributes["then_branch"].as_graph()
    for name, tensor in tensors.items():
        value = ir.val(name, tensor.dtype, tensor.shape.numpy(), const_value=tensor)
        graph = branch if name == "inner" else model.graph
        for node in graph:
            for index, read in enumerate(node.inputs):
                if read is not None and read.name == name:
                    node.replace_input_with(index, value)
        graph.register_initializer(value)
    return load_model(model).model


@pytest.fixture
def model() -> ir.Model:
    return build()


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def tensors(model: ir.Model) -> list[ir.TensorProtocol | None]:
    return [v.const_value for g in model.graphs() for v in g.initializers.values()]


def test_small_models_are_one_file(model: ir.Model, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    assert save_model(model, path) == [path]
    assert files(tmp_path) == ["model.onnx"]
    assert contents_digest(load_model(path).model) == contents_digest(model)
    assert path.read_bytes() == to_bytes(model)


def test_large_models_have_a_data_file(model: ir.Model, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    limit = total_bytes(model) - 1
    assert save_model(model, path, external_threshold=limit) == [path, tmp_path / "model.onnx.data"]
    assert files(tmp_path) == ["model.onnx", "model.onnx.data"]
    again = load_model(path).model
    assert contents_digest(again) == contents_digest(model)
    lazy = {
        v.name
        for g in again.graphs()
        for v in g.initializers.values()
        if isinstance(v.const_value, ir.ExternalTensor)
    }
    assert lazy == {"w", "tied", "inner"}


def test_the_threshold_is_the_largest_size_in_one_file(model: ir.Model, tmp_path: Path) -> None:
    size = total_bytes(model)
    assert size == 3 * 64 * 64 * 4 + 64 * 4 + 3
    assert len(save_model(model, tmp_path / "a.onnx", external_threshold=size)) == 1


def test_saving_twice_gives_the_same_bytes(model: ir.Model, tmp_path: Path) -> None:
    for threshold in (0, 1 << 30):
        kept = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir(exist_ok=True)
            written = save_model(model, tmp_path / name / "m.onnx", external_threshold=threshold)
            kept.append([f.read_bytes() for f in written])
        assert kept[0] == kept[1]
        written = save_model(model, tmp_path / "two" / "m.onnx", external_threshold=threshold)
        assert [f.read_bytes() for f in written] == kept[0]


def test_saving_what_was_loaded_gives_the_same_bytes(model: ir.Model, tmp_path: Path) -> None:
    for threshold in (0, 1 << 30):
        for name in ("one", "two"):
            (tmp_path / name).mkdir(exist_ok=True)
        first = save_model(model, tmp_path / "one" / "m.onnx", external_threshold=threshold)
        again = load_model(first[0]).model
        second = save_model(again, tmp_path / "two" / "m.onnx", external_threshold=threshold)
        assert [f.name for f in first] == [f.name for f in second]
        assert first[-1].read_bytes() == second[-1].read_bytes()


def test_a_tensor_held_twice_is_written_once(model: ir.Model, tmp_path: Path) -> None:
    _, data = save_model(model, tmp_path / "m.onnx", external_threshold=0)
    assert data.stat().st_size == 2 * 64 * 64 * 4


def test_large_tensors_start_on_a_page(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[600, 600] x) => (float[600, 600] y) { h = Add(x, small) y = Add(h, large) }"""
    arrays = [
        ir.tensor(np.full((1, 600), 2, np.float32), name="small"),
        ir.tensor(np.full((600, 600), 3, np.float32), name="large"),
    ]
    model = ir.from_onnx_text(text, initializers=arrays)
    path, data = save_model(model, tmp_path / "m.onnx", external_threshold=0)
    proto = onnx.load(path, load_external_data=False)
    offsets = [{e.key: e.value for e in t.external_data}["offset"] for t in proto.graph.initializer]
    assert offsets == ["0", "4096"]
    assert data.stat().st_size == 4096 + 600 * 600 * 4
    (found,) = open_session(path, threads=1).run({"x": np.zeros((600, 600), np.float32)})
    np.testing.assert_array_equal(found, np.full((600, 600), 5))


def test_packed_types_survive(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
        g () => (float[3001] y) { y = DequantizeLinear(q, scale) }"""
    codes = np.arange(3001) % 16 - 8
    arrays = [
        ir.tensor(codes.astype(ml_dtypes.int4), name="q", dtype=ir.DataType.INT4),
        ir.tensor(np.float32(0.5), name="scale"),
    ]
    model = ir.from_onnx_text(text, initializers=arrays)
    for threshold in (0, 1 << 30):
        path = save_model(model, tmp_path / "m.onnx", external_threshold=threshold)[0]
        assert contents_digest(load_model(path).model) == contents_digest(model)
        (found,) = open_session(path, threads=1).run({})
        np.testing.assert_array_equal(found, codes * 0.5)


def test_the_model_stays_as_it_is(model: ir.Model, tmp_path: Path) -> None:
    before, held = contents_digest(model), tensors(model)
    save_model(model, tmp_path / "a.onnx")
    save_model(model, tmp_path / "b.onnx", external_threshold=0)
    to_bytes(model, ir_version=9)
    assert all(a is b for a, b in zip(tensors(model), held, strict=True))
    assert contents_digest(model) == before
    assert model.ir_version == 8


def test_the_ir_version_can_be_set(model: ir.Model, tmp_path: Path) -> None:
    path, _ = save_model(model, tmp_path / "m.onnx", external_threshold=0, ir_version=9)
    assert onnx.load(path, load_external_data=False).ir_version == 9
    assert onnx.load_from_string(to_bytes(model, ir_version=10)).ir_version == 10


def test_external_attributes_do_not_dangle(tmp_path: Path) -> None:
    array = np.arange(512, dtype=np.float32)
    (tmp_path / "old.bin").write_bytes(array.tobytes())
    tensor = ir.ExternalTensor(
        "old.bin", 0, 2048, ir.DataType.FLOAT, shape=ir.Shape([512]), name="t", base_dir=tmp_path
    )
    node = ir.node("Constant", [], {"value": tensor})
    node.outputs[0].name = "y"
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([512])
    graph = ir.Graph([], node.outputs, nodes=[node], opset_imports={"": 17}, name="g")
    (tmp_path / "new").mkdir()
    path = tmp_path / "new" / "m.onnx"
    save_model(ir.Model(graph, ir_version=8), path)
    np.testing.assert_array_equal(open_session(path, threads=1).run({})[0], array)


# The files a model came from.


def lazy(model: ir.Model, folder: Path) -> tuple[ir.Model, Path, bytes]:
    """The model loaded from ``model.onnx`` and ``model.onnx.data``, and the bytes of the latter."""
    path, data = save_model(model, folder / "model.onnx", external_threshold=0)
    return load_model(path).model, path, data.read_bytes()


def test_saving_over_the_source_takes_another_data_file(model: ir.Model, tmp_path: Path) -> None:
    loaded, path, data = lazy(model, tmp_path)
    written = save_model(loaded, path, external_threshold=0)
    assert [f.name for f in written] == ["model.onnx", "model.onnx-1.data"]
    assert (tmp_path / "model.onnx.data").read_bytes() == data
    assert contents_digest(load_model(path).model) == contents_digest(model)
    assert contents_digest(loaded) == contents_digest(model)


def test_a_view_of_the_source_stays_true(model: ir.Model, tmp_path: Path) -> None:
    loaded, path, _ = lazy(model, tmp_path)
    tensor = loaded.graph.initializers["w"].const_value
    assert tensor is not None
    view = tensor.numpy()
    wanted = view.copy()
    save_model(loaded, path, external_threshold=0)
    save_model(loaded, path)
    np.testing.assert_array_equal(view, wanted)


def test_saving_inline_over_the_source_leaves_its_data(model: ir.Model, tmp_path: Path) -> None:
    loaded, path, data = lazy(model, tmp_path)
    assert save_model(loaded, path) == [path]
    assert (tmp_path / "model.onnx.data").read_bytes() == data
    assert contents_digest(load_model(path).model) == contents_digest(model)
    assert contents_digest(loaded) == contents_digest(model)


def test_a_link_to_the_source_is_the_source(model: ir.Model, tmp_path: Path) -> None:
    loaded, _, data = lazy(model, tmp_path)
    (tmp_path / "copy.onnx.data").symlink_to("model.onnx.data")
    written = save_model(loaded, tmp_path / "copy.onnx", external_threshold=0)
    assert written[1].name == "copy.onnx-1.data"
    assert (tmp_path / "model.onnx.data").read_bytes() == data


def test_the_model_file_cannot_take_the_place_of_the_data(model: ir.Model, tmp_path: Path) -> None:
    loaded, _, data = lazy(model, tmp_path)
    with pytest.raises(PlanishError, match="weights are read from"):
        save_model(loaded, tmp_path / "model.onnx.data")
    assert (tmp_path / "model.onnx.data").read_bytes() == data


# What can go wrong.


def failing(error: BaseException) -> ir.Model:
    """A model whose last weight cannot be read."""
    model = build()

    def read() -> ir.TensorProtocol:
        raise error

    for value in model.graph.initializers.values():
        if value.name == "tied":
            value.const_value = ir.LazyTensor(read, ir.DataType.FLOAT, ir.Shape([64, 64]))
    return model


@pytest.mark.parametrize("threshold", [0, 1 << 30])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("lost")])
def test_an_interrupted_save_leaves_what_was_there(
    tmp_path: Path, threshold: int, error: BaseException
) -> None:
    path = tmp_path / "model.onnx"
    save_model(build(), path, external_threshold=threshold)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    broken = failing(error)
    with pytest.raises(type(error)):
        save_model(broken, path, external_threshold=threshold)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before
    # and the model holds its own tensors again
    assert isinstance(broken.graph.initializers["tied"].const_value, ir.LazyTensor)
    assert isinstance(broken.graph.initializers["w"].const_value, ir.Tensor)


def test_a_folder_that_does_not_exist(model: ir.Model, tmp_path: Path) -> None:
    with pytest.raises(PlanishError) as caught:
        save_model(model, tmp_path / "missing" / "model.onnx")
    assert str(tmp_path / "missing") in str(caught.value)


def test_a_folder_of_that_name(model: ir.Model, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(PlanishError, match="a folder has its name"):
        save_model(model, tmp_path / "model.onnx")
    assert files(tmp_path) == ["model.onnx"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_writable(model: ir.Model, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(PlanishError, match="cannot be saved"):
        save_model(model, tmp_path / "model.onnx")
    tmp_path.chmod(0o755)


def test_a_source_that_has_gone(model: ir.Model, tmp_path: Path) -> None:
    loaded, path, _ = lazy(model, tmp_path)
    (tmp_path / "model.onnx.data").unlink()
    before = path.read_bytes()
    with pytest.raises(PlanishError, match="cannot be read: No such file"):
        save_model(loaded, path, external_threshold=0)
    assert path.read_bytes() == before
    assert files(tmp_path) == ["model.onnx"]


def test_two_gigabytes_do_not_fit_into_one_message(model: ir.Model) -> None:
    def refuse() -> ir.TensorProtocol:
        raise AssertionError("the weight was read")

    huge = ir.LazyTensor(refuse, ir.DataType.FLOAT, ir.Shape([64, 1 << 24]))
    model.graph.initializers["tied"].const_value = huge
    with pytest.raises(PlanishError, match=r"4\.3 GB does not fit"):
        to_bytes(model)


CHILD = """
import resource, sys
from pathlib import Path
import numpy as np, onnx_ir as ir
from planish.ir.errors import PlanishError
from planish.ir.save import save_model

folder, threshold, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
model = ir.from_onnx_text('''<ir_version: 8, opset_import: ["" : 17]>
    g (float[512, 512] x) => (float[512, 512] y) { y = MatMul(x, w) }''',
    initializers=[ir.tensor(np.ones((512, 512), np.float32), name="w")])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    save_model(model, folder / "model.onnx", external_threshold=threshold)
except PlanishError as error:
    print(error)
    sys.exit(11)
"""


def save_in_child(folder: Path, threshold: int, limit: int) -> None:
    """Save a model of 1 MB where there is no room for it."""
    (folder / "model.onnx").write_bytes(b"the old one")
    arguments = [sys.executable, "-c", CHILD, str(folder), str(threshold), str(limit)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 11, done.stderr
    assert "there is no room for the model" in done.stdout
    assert "free some space" in done.stdout


@pytest.mark.parametrize("threshold", [0, 1 << 30])
def test_a_file_size_limit(tmp_path: Path, threshold: int) -> None:
    save_in_child(tmp_path, threshold, 100_000)
    assert files(tmp_path) == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_bytes() == b"the old one"


@pytest.mark.parametrize("threshold", [0, 1 << 30])
def test_a_full_disk(tmp_path: Path, threshold: int) -> None:
    """On a real file system of 256 KB, in a mount namespace of its own."""
    unshare = shutil.which("unshare")
    script = textwrap.dedent("""
        mount -t tmpfs -o size=256k none "$1" || exit 77
        printf 'the old one' > "$1/model.onnx"
        shift
        "$@"
        status=$?
        [ "$(ls -A "$FOLDER")" = model.onnx ] || status=1
        [ "$(cat "$FOLDER/model.onnx")" = 'the old one' ] || status=1
        exit $status
    """)
    if unshare is None:
        pytest.skip("no unshare here")
    prefix = [unshare, "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(threshold), "0"]
    done = subprocess.run(
        [*prefix, str(tmp_path), *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "FOLDER": str(tmp_path)},
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no mount namespaces here")
    assert done.returncode == 11, done.stderr
    assert "there is no room for the model" in done.stdout


# Real models.


def test_structural_models_survive_a_round_trip(tasks: ModuleType, tmp_path: Path) -> None:
    ran = 0
    for each in tasks.structural():
        try:
            model = load_model(each.path).model
        except InputError:
            continue
        for threshold in (0, 1 << 30):
            path = save_model(model, tmp_path / "m.onnx", external_threshold=threshold)[0]
            assert contents_digest(load_model(path).model) == contents_digest(model), each.name
        if each.feeds is not None:
            compare(each.path, path, each.feeds, each.name)
            ran += 1
    assert ran >= 60


def compare(before: Path, after: Path, feeds: dict[str, Any], name: str) -> None:
    """Both files give the same numbers with the runtime's own rewriting switched off."""
    sessions = [open_session(p, threads=1, optimize="none") for p in (before, after)]
    wanted, found = ([np.asarray(a) for a in flat(s.run(feeds))] for s in sessions)
    for a, b in zip(wanted, found, strict=True):
        if a.dtype.kind == "f":
            np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(b, a, err_msg=name)


def flat(outputs: Sequence[object]) -> list[object]:
    return [x for o in outputs for x in (o if isinstance(o, list) else [o])]


def test_how_much_goes_into_one_file_can_be_said(model: ir.Model, tmp_path: Path) -> None:
    with one_file_up_to(16):
        assert len(save_model(model, tmp_path / "a.onnx")) == 2
        assert len(save_model(model, tmp_path / "b.onnx", external_threshold=1 << 20)) == 1
    assert len(save_model(model, tmp_path / "c.onnx")) == 1


@pytest.mark.parametrize("threshold", [0, 1 << 30])
def test_hashes_are_made_while_writing(model: ir.Model, tmp_path: Path, threshold: int) -> None:
    record: dict[Path, str] = {}
    written = save_model(model, tmp_path / "m.onnx", external_threshold=threshold, record=record)
    assert record == {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in written}
    save_model(model, tmp_path / "n.onnx", external_threshold=threshold)
    plain = (tmp_path / "n.onnx").read_bytes()
    assert plain.replace(b"n.onnx.data", b"m.onnx.data") == (tmp_path / "m.onnx").read_bytes()


def test_digests_of_tensors_are_made_while_writing(tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)
    for hash_tensors in (True, False):
        made = ir.from_onnx_text(
            '<ir_version: 10, opset_import: ["" : 20]> '
            "g (float[n, 30] x) => (float[n, 40] y) { y = MatMul(x, w) }",
            initializers=[ir.tensor(array.T.copy(), name="w")],
        )
        tensor = Derived(ir.tensor(array), True)
        made.graph.initializers["w"].const_value = tensor
        path = tmp_path / f"{hash_tensors}.onnx"
        save_model(made, path, external_threshold=0, record={}, hash_tensors=hash_tensors)
        assert is_hashed(tensor) is hash_tensors
        assert tensor_digest(tensor) == tensor_digest(ir.tensor(array.T.copy()))
