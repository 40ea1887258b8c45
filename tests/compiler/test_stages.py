"""The graph between the passes: in the artifact, small, and comparable."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest

from planish.compiler.diffing import compare
from planish.compiler.sides import side_of
from planish.compiler.stages import Recorder
from planish.ir.diff.replay import patch_of, replay, store_of
from planish.ir.digest import contents_digest
from planish.ir.errors import InputError
from planish.ir.load import load_model

PIPELINE = "canonicalize,equalize,quantize{scheme=dynamic}"


@pytest.fixture(scope="module")
def folder(kit: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact; its input lies beside it."""
    place = tmp_path_factory.mktemp("stages")
    onnx.save(kit.chain(2), place / "model.onnx")
    kit.compiled(kit.chain(2), place / "out", pipeline=PIPELINE, max_drift="cosine=0.5")
    return place / "out"


def manifest(folder: Path) -> list[dict[str, Any]]:
    stages: list[dict[str, Any]] = json.loads((folder / "manifest.json").read_text())["stages"]
    return stages


def test_each_pass_has_a_stage(folder: Path) -> None:
    stages = manifest(folder)
    assert [s["name"] for s in stages] == [
        "imported", "canonicalize", "equalize", "quantize", "legalise", "model",
    ]  # fmt: skip
    assert stages[3]["step"] == "quantize{scheme=dynamic}"
    assert [s["id"] for s in stages][:2] == ["00-imported", "01-canonicalize"]
    edits = [edit for stage in stages for edit in stage["edits"]]
    known = json.loads((folder / "manifest.json").read_text())["edits"]
    assert edits == [edit["id"] for edit in known]


def test_a_stage_holds_no_weights_and_tells_their_digest(folder: Path) -> None:
    for stage in manifest(folder):
        path = folder / stage["file"]
        model = load_model(path, lenient=True).model
        assert contents_digest(model) == stage["digest"], stage["id"]
        assert stage["weights"] == (stage["id"] == "model")
        if stage["weights"]:
            continue
        proto = onnx.load(path, load_external_data=False)
        assert all(len(t.raw_data) < 1024 for t in proto.graph.initializer)
        with pytest.raises(InputError, match="the file is missing"):
            load_model(path)


def test_names_of_stages(folder: Path) -> None:
    for name in ("3", "03", "quantize", "03-quantize"):
        side = side_of(f"{folder}@{name}")
        assert (side.stage, side.place) == ("03-quantize", 3)
    by_file = side_of(folder / "stages" / "00-imported.onnx")
    assert by_file.stage == "00-imported"
    for name in ("qantize", "9", ""):
        with pytest.raises(InputError, match=r"there are 00-imported, 01-canonicalize, .*model"):
            side_of(f"{folder}@{name}")


def test_what_one_pass_did(folder: Path) -> None:
    found = compare(f"{folder}@equalize", f"{folder}@quantize")
    assert found
    assert {name for hunk in found.graph.hunks for name in found.passes(hunk)} == {"quantize"}
    assert not found.graph.values
    whole = compare(folder.parent / "model.onnx", folder)
    assert found.graph.unchanged <= whole.graph.unchanged


def test_no_pass_is_named_that_did_nothing_between(folder: Path) -> None:
    """Against the order of the compile nobody is named."""
    found = compare(f"{folder}@quantize", f"{folder}@equalize")
    assert found
    assert not {name for hunk in found.graph.hunks for name in found.passes(hunk)}


def test_stages_that_are_equal(folder: Path) -> None:
    assert not compare(f"{folder}@model", folder)
    assert not compare(folder.parent / "model.onnx", f"{folder}@imported")


def test_kept_stages_replay(kit: ModuleType, tmp_path: Path) -> None:
    kit.compiled(
        kit.chain(2), tmp_path / "out", pipeline=PIPELINE, keep_stages=True,
        max_drift="cosine=0.5",
    )  # fmt: skip
    stages = manifest(tmp_path / "out")
    assert all(stage["weights"] for stage in stages)
    found = compare(f"{tmp_path}/out@imported", f"{tmp_path}/out@quantize")
    after = load_model(tmp_path / "out" / "stages" / "03-quantize.onnx").model
    made = replay(found.before.model, patch_of(found.graph), store_of(after))
    assert contents_digest(made) == stages[3]["digest"]


def test_a_folder_without_stages(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    with pytest.raises(InputError, match="no stages"):
        side_of(f"{tmp_path}@1")


def test_each_build_has_stages_of_its_own(kit: ModuleType) -> None:
    """What was tried and given back leaves nothing in those of the build that is handed over."""
    recorder, model = Recorder(), load_model(kit.chain(1)).model
    recorder.start(model)
    recorder.add("low-rank", "low-rank{total=0.5}", model)
    first = recorder.taken()
    recorder.start(model)
    recorder.add("quantize", "quantize", load_model(kit.chain(2)).model)
    assert [stage.name for stage in recorder.taken()] == ["imported", "quantize"]
    assert [stage.changed for stage in first] == [True, False]
    assert [stage.changed for stage in recorder.taken()] == [True, True]


def test_nothing_is_read_where_weights_are_only_passed_through(kit: ModuleType) -> None:
    """Digests of weights that were not read yet are left out, and then known to be unknown."""
    from planish.ir.storage.derived import Derived

    model = load_model(kit.chain(1)).model
    held = {n: v for n, v in model.graph.initializers.items() if len(v.shape or ()) == 2}
    name, value = next(iter(held.items()))
    assert value.const_value is not None
    value.const_value = Derived(value.const_value, transposed=True)
    recorder = Recorder(whole=False)
    recorder.start(model)
    (stage,) = recorder.taken()
    assert stage.digest == ""
    proto = onnx.ModelProto.FromString(stage.content)
    tensor = next(t for t in proto.graph.initializer if t.name == name)
    assert not tensor.metadata_props
