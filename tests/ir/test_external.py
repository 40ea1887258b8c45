from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from planish.ir.digest import contents_digest
from planish.ir.errors import InputError
from planish.ir.load import load_model

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def write(folder: Path, location: str = "weights.bin", **entries: object) -> Path:
    """A model whose weight is said to lie at ``location``, 4 bytes into the file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 3])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": 4, "length": 24, **entries}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [tensor],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def write_weights(path: Path) -> None:
    path.write_bytes(b"\0" * 4 + WEIGHT.tobytes())


def refused(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        load_model(path)
    error = caught.value
    assert str(path) in str(error)
    assert error.hint
    assert len(str(error).splitlines()) <= 4
    return error


def test_weights_stay_on_disk_and_are_found(tmp_path: Path) -> None:
    write_weights(tmp_path / "weights.bin")
    imported = load_model(write(tmp_path))
    (value,) = imported.model.graph.initializers.values()
    assert isinstance(value.const_value, ir.ExternalTensor)
    np.testing.assert_array_equal(value.const_value.numpy(), WEIGHT)


def test_import_leaves_no_weight_mapped(tmp_path: Path) -> None:
    write_weights(tmp_path / "weights.bin")
    imported = load_model(write(tmp_path))
    contents_digest(imported.model)
    (value,) = imported.model.graph.initializers.values()
    assert isinstance(value.const_value, ir.ExternalTensor)
    assert value.const_value.raw is None


def test_a_changed_working_directory_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_weights(tmp_path / "weights.bin")
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    imported = load_model("model.onnx")
    monkeypatch.chdir("/")
    (value,) = imported.model.graph.initializers.values()
    assert value.const_value is not None
    np.testing.assert_array_equal(value.const_value.numpy(), WEIGHT)


def test_the_file_digest_covers_the_weights(tmp_path: Path) -> None:
    write_weights(tmp_path / "weights.bin")
    before = load_model(write(tmp_path))
    contents = contents_digest(before.model)
    (tmp_path / "weights.bin").write_bytes(b"\1" * 28)
    after = load_model(tmp_path / "model.onnx")
    assert before.file_digest != after.file_digest
    assert contents_digest(after.model) != contents


def test_a_folder_below_is_inside(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    write_weights(tmp_path / "parts" / "weights.bin")
    load_model(write(tmp_path, "parts/../parts/weights.bin"))


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    write_weights(tmp_path / "real.bin")
    (tmp_path / "weights.bin").symlink_to("real.bin")
    load_model(write(tmp_path))


def test_missing(tmp_path: Path) -> None:
    error = refused(write(tmp_path))
    assert "'w'" in error.what
    assert "missing" in error.what
    assert "weights.bin" in error.hint


def test_too_short(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\0" * 27)
    assert "the file ends at 27 bytes, 28 are needed" in refused(write(tmp_path)).what


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").mkdir()
    assert "not a regular file" in refused(write(tmp_path)).what


def test_a_length_that_does_not_fit_the_shape(tmp_path: Path) -> None:
    write_weights(tmp_path / "weights.bin")
    assert "20 bytes" in refused(write(tmp_path, length=20)).what


def test_a_negative_offset(tmp_path: Path) -> None:
    write_weights(tmp_path / "weights.bin")
    refused(write(tmp_path, offset=-4))


def test_an_offset_that_is_no_number(tmp_path: Path) -> None:
    write_weights(tmp_path / "weights.bin")
    refused(write(tmp_path, offset="four"))


@pytest.mark.parametrize("location", ["", ".", "..", "a\0b", "x" * 5000])
def test_locations_that_are_no_file(tmp_path: Path, location: str) -> None:
    refused(write(tmp_path, location=location))


def parent(folder: Path) -> str:
    return "../outside.bin"


def hidden_parent(folder: Path) -> str:
    return "a/../../outside.bin"


def absolute(folder: Path) -> str:
    return str(folder.parent / "outside.bin")


def link(folder: Path) -> str:
    (folder / "link.bin").symlink_to(folder.parent / "outside.bin")
    return "link.bin"


def linked_folder(folder: Path) -> str:
    (folder / "link").symlink_to(folder.parent)
    return "link/outside.bin"


@pytest.mark.parametrize("escape", [parent, hidden_parent, absolute, link, linked_folder])
def test_weights_outside_the_folder(tmp_path: Path, escape: Callable[[Path], str]) -> None:
    write_weights(tmp_path / "outside.bin")
    folder = tmp_path / "model"
    folder.mkdir()
    location = escape(folder)
    error = refused(write(folder, location))
    assert location[:60] in error.what  # what is longer is cut
    assert "outside the model's folder" in error.what or "not a path inside" in error.what


def test_an_address_in_memory(tmp_path: Path) -> None:
    assert "address in memory" in refused(write(tmp_path, "*/_ORT_MEM_ADDR_/*", offset=4096)).what


def test_a_hard_link(tmp_path: Path) -> None:
    write_weights(tmp_path / "outside.bin")
    (tmp_path / "model").mkdir()
    os.link(tmp_path / "outside.bin", tmp_path / "model" / "weights.bin")
    assert "hard links" in refused(write(tmp_path / "model")).what


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_not_readable(tmp_path: Path) -> None:
    write_weights(tmp_path / "weights.bin")
    (tmp_path / "weights.bin").chmod(0)
    assert "not readable" in refused(write(tmp_path)).what


def test_a_proto_in_memory_does_not_say_where(tmp_path: Path) -> None:
    write_weights(tmp_path / "weights.bin")
    proto = onnx.load(write(tmp_path), load_external_data=False)
    with pytest.raises(InputError, match="does not say in which folder") as caught:
        load_model(proto)
    assert "path" in caught.value.hint


def test_an_external_constant_is_lifted(tmp_path: Path) -> None:
    write_weights(tmp_path / "weights.bin")
    proto = onnx.load(write(tmp_path), load_external_data=False)
    tensor = proto.graph.initializer.pop()
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    path = tmp_path / "constant.onnx"
    path.write_bytes(proto.SerializeToString())
    (value,) = load_model(path).model.graph.initializers.values()
    assert value.const_value is not None
    np.testing.assert_array_equal(value.const_value.numpy(), WEIGHT)
