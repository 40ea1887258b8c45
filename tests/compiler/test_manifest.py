"""Manifests hold everything, read back what they hold, and say what is wrong with them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from planish.compiler.reporting.manifest import dumps, encode, plan_from, read, to_json
from planish.compiler.reporting.selftest import SCHEMA
from planish.compiler.result import CompileResult, Plan
from planish.ir.errors import InputError

PLAN = Plan("canonicalize,quantize(method=mse)", {"quantize": ("block9",)}, ("cast-first",))


def test_every_field_but_the_samples_is_there(made: ModuleType) -> None:
    document = to_json(made.result())
    fields = {field.name for field in dataclasses.fields(CompileResult)}
    assert set(document) == (fields - {"samples"}) | {"schema", "headline", "exit_code"}
    assert document["schema"] == SCHEMA
    assert document["speed"]["ratio"] == 2.71
    assert document["quality"]["rows"][0]["high"] == 0.29
    assert document["edits"][1]["details"] == {"method": "mse", "scale": 0.5}
    assert document["edits"][1]["saving_bytes"] == 4_000_000
    assert document["remarks"][0]["code"] == "too-small"
    assert document["trials"][1]["speedup"] is None


def test_the_order_of_mappings_does_not_show(made: ModuleType) -> None:
    one = made.result(settings={"a": 1, "b": {"x": 1, "y": 2}}, tolerance={"y": 1.0, "z": 2.0})
    two = made.result(settings={"b": {"y": 2, "x": 1}, "a": 1}, tolerance={"z": 2.0, "y": 1.0})
    assert dumps(to_json(one)) == dumps(to_json(two))
    assert list(to_json(one))[:4] == ["schema", "headline", "exit_code", "source"]


def test_a_manifest_is_strict_json(made: ModuleType) -> None:
    result = made.result(settings={"sqnr": float("inf"), "p": Path("a/b"), "n": np.int64(3)})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    document = json.loads(dumps(to_json(result)), parse_constant=refuse)
    assert document["settings"] == {"n": 3, "p": "a/b", "sqnr": "inf"}
    assert float(document["settings"]["sqnr"]) == np.inf


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.array([[1, 2]]), [[1, 2]]),
        (np.array([np.nan]), ["nan"]),
        ({"b", "a"}, ["a", "b"]),
        ((1, None, True), [1, None, True]),
        (Plan("x"), {"pipeline": "x", "given_back": {}, "spellings": []}),
    ],
)
def test_encode(value: Any, expected: Any) -> None:
    assert encode(value) == expected


def test_encode_refuses_what_has_no_form() -> None:
    with pytest.raises(TypeError, match="object"):
        encode({"a": object()})


def test_read_takes_a_folder_or_the_file(tmp_path: Path, made: ModuleType) -> None:
    (tmp_path / "manifest.json").write_text(dumps(to_json(made.result())))
    assert read(tmp_path) == read(tmp_path / "manifest.json")
    assert read(tmp_path)["source"] == "models/scorer.onnx"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "not a JSON file"),
        (b"{", "not a JSON file"),
        (b"\xff\xfe\x00", "not a JSON file"),
        (b"[1]", "not a JSON object"),
        (b"{}", "schema is None"),
        (b'{"schema": "planish-manifest/99"}', "planish-manifest/99"),
    ],
)
def test_read_says_what_is_wrong(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "manifest.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path)
    assert caught.value.where == str(file)


def test_a_plan_comes_back_from_every_form(tmp_path: Path, made: ModuleType) -> None:
    manifest = to_json(made.result())
    (tmp_path / "manifest.json").write_text(dumps(manifest))
    (tmp_path / "plan.json").write_text(dumps(manifest["plan"]))
    assert plan_from(tmp_path) == PLAN
    assert plan_from(tmp_path / "manifest.json") == PLAN
    assert plan_from(str(tmp_path / "plan.json")) == PLAN
    assert plan_from(manifest) == PLAN
    assert plan_from({"schema": "planish-plan/1"} | manifest["plan"]) == PLAN
    assert plan_from({"pipeline": "canonicalize"}) == Plan("canonicalize")


@pytest.mark.parametrize(
    ("document", "message", "place"),
    [
        ({}, "needs a 'pipeline'", "the plan"),
        ({"pipeline": ["a"]}, "needs a 'pipeline'", "the plan"),
        ({"pipeline": "a", "speling": []}, "unknown key 'speling'", "the plan"),
        ({"pipeline": "a", "spellings": "b"}, "list of texts", "key 'spellings'"),
        ({"pipeline": "a", "spellings": [1]}, "list of texts", "key 'spellings'"),
        ({"pipeline": "a", "given_back": ["x"]}, "'given_back' must be an object", "the plan"),
        ({"pipeline": "a", "given_back": {"q": "x"}}, "list of texts", "pass 'q'"),
        ({"schema": SCHEMA}, "'plan' must be an object", "the plan"),
        ({"schema": SCHEMA, "plan": {}}, "needs a 'pipeline'", "key 'plan'"),
        ({"schema": "other/1", "pipeline": "a"}, "schema is 'other/1'", "the plan"),
    ],
)
def test_a_wrong_plan_names_key_and_place(
    document: Mapping[str, Any], message: str, place: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        plan_from(document)
    assert place in caught.value.where


def test_a_misspelt_key_gets_a_near_name() -> None:
    with pytest.raises(InputError) as caught:
        plan_from({"pipeline": "a", "speling": []})
    assert "'spellings'" in caught.value.hint


def test_a_missing_plan_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file") as caught:
        plan_from(tmp_path / "plan.json")
    assert caught.value.where == str(tmp_path / "plan.json")
