"""What is no pair of models, or hardly one: a clear message, or a right answer."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from planish.compiler.diffing import compare
from planish.compiler.stages import Recorder
from planish.ir.diff.replay import patch_of, replay, store_of
from planish.ir.digest import contents_digest
from planish.ir.errors import InputError
from planish.ir.load import load_model

RNG = np.random.default_rng(5)


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    held: Mapping[str, np.ndarray] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
    outputs: int = 8,
) -> Path:
    """From x [b, 8] to y [b, outputs]; the path."""
    face = [helper.make_tensor_value_info(n, 1, ["b", s]) for n, s in (("x", 8), ("y", outputs))]
    weights = [numpy_helper.from_array(array, name) for name, array in (held or {}).items()]
    graph = helper.make_graph(nodes, "net", face[:1], face[1:], weights)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, functions=list(functions), opset_imports=opsets, ir_version=10)
    onnx.save(model, path)
    return path


def relu(made: str = "y", read: str = "x") -> onnx.NodeProto:
    return helper.make_node("Relu", [read], [made])


def test_functions_on_one_side_inlined_on_the_other(tmp_path: Path) -> None:
    body = [helper.make_node("MatMul", ["p", "w"], ["m"]), relu("q", "m")]
    function = helper.make_function("own", "Layer", ["p", "w"], ["q"], body,
                                    [helper.make_opsetid("", 20)])  # fmt: skip
    call = [helper.make_node("Layer", [a, w], [b], domain="own")
            for a, w, b in (("x", "v", "h"), ("h", "w", "y"))]  # fmt: skip
    plain = [helper.make_node("MatMul", ["x", "v"], ["a"]), relu("h", "a"),
             helper.make_node("MatMul", ["h", "w"], ["c"]), relu("y", "c")]  # fmt: skip
    held = {n: RNG.normal(size=(8, 8)).astype(np.float32) for n in "vw"}
    called = save(tmp_path / "called.onnx", call, held, [function])
    spelled = save(tmp_path / "spelled.onnx", plain, held)
    for pair in ((called, spelled), (spelled, called)):
        found = compare(*pair)
        assert found.graph.hunks == ()
        assert found.graph.unchanged == 4
    changed = save(tmp_path / "changed.onnx", call, held | {"w": 2 * held["w"]}, [function])
    (hunk,) = compare(spelled, changed).graph.hunks
    assert hunk.kind == "modified"


def test_a_cycle(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.onnx", [relu()])
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), relu("b", "a"), relu("y", "b")]
    cyclic = save(tmp_path / "cyclic.onnx", nodes)
    for pair in ((whole, cyclic), (cyclic, whole)):
        with pytest.raises(InputError, match="cycle") as error:
            compare(*pair)
        assert "cyclic.onnx" in str(error.value.where)


def test_unrelated_models(tmp_path: Path) -> None:
    """Other inputs, other outputs, nothing in common: all of it is told, and can be played."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), relu("y", "h")]
    weight = RNG.normal(size=(8, 4)).astype(np.float32)
    one = save(tmp_path / "one.onnx", nodes, {"w": weight}, outputs=4)
    other = tmp_path / "other.onnx"
    face = [helper.make_tensor_value_info(n, 1, [3]) for n in "pq"]
    onnx.save(helper.make_model(
        helper.make_graph([helper.make_node("Sin", ["p"], ["q"])], "g", face[:1], face[1:]),
        opset_imports=[helper.make_opsetid("", 18)], ir_version=9), other)  # fmt: skip
    found = compare(one, other)
    assert found
    assert found.graph.unchanged == 0
    assert len(found.graph.face) == 4
    assert "opset ai.onnx: 20 -> 18" in str(found)
    made = replay(found.before.model, patch_of(found.graph), store_of(found.after.model))
    assert contents_digest(made) == contents_digest(found.after.model)


def test_a_file_beyond_what_onnx_can_hold(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.onnx", [relu()])
    with (tmp_path / "huge.onnx").open("wb") as file:
        file.truncate(3 << 30)  # takes no room
    with pytest.raises(InputError, match=r"ends at 2\.1 GB"):
        compare(whole, tmp_path / "huge.onnx")


def test_many_equal_nodes(tmp_path: Path) -> None:
    """Nothing tells 3,000 nodes of a chain apart but their order."""
    names = ["x", *(f"v{i}" for i in range(2999)), "y"]
    chain = [relu(b, a) for a, b in itertools.pairwise(names)]
    one = save(tmp_path / "one.onnx", chain)
    chain[1500].op_type = "Sigmoid"
    found = compare(one, save(tmp_path / "other.onnx", chain))
    assert found.graph.unchanged == 2999
    assert [hunk.kind for hunk in found.graph.hunks] == ["replaced"]


@pytest.mark.parametrize(
    "damage", ["{", "[]", '{"stages": 3}', '{"stages": [3, {"id": "1"}], "digests": 4}']
)
def test_a_damaged_manifest(tmp_path: Path, damage: str) -> None:
    save(tmp_path / "model.onnx", [relu()])
    (tmp_path / "manifest.json").write_text(damage)
    if damage == "{":
        with pytest.raises(InputError, match="manifest"):
            compare(tmp_path, tmp_path)
    else:
        assert not compare(tmp_path, tmp_path)
    with pytest.raises(InputError, match=r"manifest|no stages"):
        compare(tmp_path, f"{tmp_path}@1")


def test_a_stage_whose_file_is_gone(tmp_path: Path) -> None:
    save(tmp_path / "model.onnx", [relu()])
    recorder = Recorder()
    recorder.start(load_model(tmp_path / "model.onnx").model)
    stage = recorder.taken()[0].to_json()
    (tmp_path / "manifest.json").write_text(json.dumps({"stages": [stage]}))
    with pytest.raises(InputError, match=r"stages/00-imported\.onnx is gone"):
        compare(tmp_path, f"{tmp_path}@0")
    (tmp_path / "manifest.json").write_text(json.dumps({"stages": [stage | {"file": "../x.onnx"}]}))
    with pytest.raises(InputError, match="outside its folder"):
        compare(tmp_path, f"{tmp_path}@0")
