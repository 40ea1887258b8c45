"""The file itself: what may run in it, what it carries, and what happens where none can be made."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from onnx import helper

from planish.compiler.diffing import compare
from planish.compiler.reporting import manifest as manifests
from planish.compiler.reporting.html import writing
from planish.compiler.reporting.html.compared import compared
from planish.compiler.reporting.html.compiled import compiled, original_of
from planish.compiler.reporting.html.libraries import LOCK, VENDOR, libraries
from planish.compiler.reporting.html.page import ASSETS, COMPRESSED, SCRIPTS, STYLES, render
from planish.compiler.reporting.html.weights import BARS, dequantized, figures
from planish.compiler.reporting.html.writing import NO_PAGE, PAGE, with_page, write_page
from planish.compiler.reporting.modules import ALL, OUTSIDE, module_table, parents, short_name
from planish.ir.counting.count import Rest, SiteRow, Totals
from planish.ir.errors import InputError, UsageError


def document(**more: Any) -> dict[str, Any]:
    return {"schema": "planish-report/1", "kind": "diff", "title": "t", **more}


def test_the_policy_allows_the_scripts_and_styles_of_the_page_alone() -> None:
    text = render(document())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    rules = policy[1].replace("&#39;", "'")
    assert rules.startswith("default-src 'none'; ")
    assert "unsafe" not in rules
    assert "http" not in rules
    bodies = re.findall(r"<(script|style)>(.*?)</\1>", text, re.DOTALL)
    assert [kind for kind, _ in bodies] == ["style", "script", "script"]
    for _, body in bodies:
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in rules


def test_data_cannot_leave_its_block() -> None:
    evil = "</script><script>window.hacked=1</script><!--"
    text = render(document(title=evil, more=evil))
    assert "window.hacked=1</script>" not in text
    block = re.search(r'<script id="data" type="application/json">(.*?)</script>', text)
    assert block is not None
    assert "<" not in block[1]
    assert json.loads(block[1])["more"] == evil


def test_large_data_is_compressed() -> None:
    text = render(document(more="spam and eggs " * COMPRESSED))
    assert 'type="application/gzip"' in text
    assert len(text) < 2 * len(render(document()))


def test_the_page_loads_nothing() -> None:
    text = render(document())
    assert not re.search(r'(?:src|href)="(?!#|data:,)', text)
    assert "sourceMappingURL" not in text
    assert "@import" not in text
    assert not re.search(r"\burl\((?!#)", text)


def test_our_scripts_never_write_markup() -> None:
    for name in SCRIPTS:
        code = (ASSETS / "js" / f"{name}.js").read_text("utf8")
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(",
                     "new Function", "fetch(", "XMLHttpRequest", "import("):  # fmt: skip
            assert word not in code, f"{name}.js: {word}"


def test_every_asset_is_used() -> None:
    scripts = {path.relative_to(ASSETS / "js").with_suffix("").as_posix()
               for path in (ASSETS / "js").rglob("*.js")}  # fmt: skip
    assert scripts == set(SCRIPTS)
    assert {path.stem for path in (ASSETS / "css").glob("*.css")} == set(STYLES)


def test_the_libraries_are_those_of_the_lock() -> None:
    found = libraries()
    assert {library.name for library in found} >= {"d3-zoom", "@dagrejs/dagre"}
    for library in found:
        assert library.whole, f"{library.file} is not the file that was locked"
        assert library.licence in ("ISC", "MIT", "BSD-3-Clause")
        assert library.integrity.startswith("sha512-")
        assert "Copyright" in library.notice
    kept = {f for lib in found for f in (lib.file, lib.licence_file)} | {LOCK.name}
    assert {path.name for path in VENDOR.iterdir()} == kept


def test_licences_go_along() -> None:
    text = render(document())
    for library in libraries():
        assert f"{library.name} {library.version} ({library.licence})" in text


# -- where no page can be made -------------------------------------------------------------------


def test_a_page_that_fails_costs_a_remark_and_not_the_compile(
    made: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = made.artifact(tmp_path / "out")

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(writing, "compiled", broken)
    told = with_page(result, tmp_path / "out", None)
    assert told.remarks[-1].code == NO_PAGE
    assert "ZeroDivisionError: a defect" in told.remarks[-1].sentence
    manifest = manifests.read(tmp_path / "out")
    assert manifest["remarks"][-1]["code"] == NO_PAGE
    assert PAGE not in manifest["files"]
    assert not (tmp_path / "out" / PAGE).exists()


def test_interrupting_a_page_is_no_failure_of_it(
    made: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = made.artifact(tmp_path / "out")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "compiled", interrupted)
    with pytest.raises(KeyboardInterrupt):
        with_page(result, tmp_path / "out", None)


def test_a_full_disk_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / PAGE
    path.write_text("old")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        write_page(document(), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / PAGE).symlink_to(tmp_path / "there" / PAGE)
    write_page(document(), tmp_path / PAGE)
    assert (tmp_path / PAGE).is_symlink()
    assert (tmp_path / "there" / PAGE).stat().st_mode & 0o777 == 0o644


def test_a_manifest_is_replaced_whole(
    made: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.artifact(tmp_path / "out")
    before = (tmp_path / "out" / manifests.MANIFEST).read_bytes()
    (tmp_path / "out" / PAGE).touch()
    monkeypatch.setattr(writing, "write_page", lambda *_: None)
    monkeypatch.setattr(writing, "_replace", _full)
    with pytest.raises(InputError, match="No space left"):
        writing.write_report(tmp_path / "out")
    assert (tmp_path / "out" / manifests.MANIFEST).read_bytes() == before


def _full(path: Path, text: str) -> None:
    raise OSError(28, "No space left on device")


def test_a_place_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        writing.checked_output(tmp_path)
    with pytest.raises(UsageError, match="is no file"):
        writing.checked_output(Path("/dev/null"))
    with pytest.raises(UsageError, match="there is no folder"):
        writing.checked_output(tmp_path / "nowhere" / PAGE)


def test_another_model_is_not_the_original(artifact: Path, pages: Any, tmp_path: Path) -> None:
    manifest = manifests.read(artifact)
    assert original_of(manifest, artifact.parent / "model.onnx") is not None
    assert original_of(manifest, artifact / "model.onnx") is None
    assert original_of(manifest, tmp_path / "none.onnx") is None


def test_stages_that_are_gone_are_said(artifact: Path, tmp_path: Path) -> None:
    manifest = manifests.read(artifact)
    found = compiled(tmp_path, manifest)
    assert found["graph"] is None
    assert found["no_graph"]
    assert len(found["passes"]) == len(manifest["stages"])


def test_where_memory_is_small_no_weights_are_read(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(tensor: Any) -> Any:
        assert tensor.nbytes < 1024, tensor.name
        return tensor.numpy()

    monkeypatch.setattr("planish.compiler.reporting.html.weights.array_of", small)
    manifest = manifests.read(artifact) | {"memory": {"bounded": True}}
    found = compiled(artifact, manifest, artifact.parent / "model.onnx")["graph"]
    assert [stage["name"] for stage in found["stages"][1:]] == [
        stage["id"]
        for stage in manifest["stages"][1:]
        if stage["changed"] and stage["id"] != "model"
    ]
    large = [tensor for tensor in found["tensors"] if tensor["bytes"] >= 4096]
    assert large
    assert all(tensor["figures"] is None for tensor in large)


def test_what_is_the_same_stands_in_the_same_place(pages: Any, tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Abs", ["a"], ["b"])]
    nodes += [helper.make_node("Relu", ["b"], ["c"], name="/m/up/Relu")]
    nodes += [helper.make_node("Neg", ["c"], ["d"]), helper.make_node("Abs", ["d"], ["y"])]
    model = pages.save(tmp_path / "m.onnx", nodes, [], 8)
    found = compared(compare(model, model))["graph"]
    assert found["stages"][0]["nodes"] == found["stages"][1]["nodes"]
    modules = [found["texts"][found["nodes"][row][2]] for row in found["stages"][0]["nodes"]]
    assert modules[2] == "m.up"
    assert modules[3] == "m.up", "what has no name stands with what it reads"


def test_of_very_large_graphs_the_first_and_the_last_are_compared(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planish.compiler.reporting.html.compiled.MOST_NODES", 10)
    found = compiled(artifact, manifests.read(artifact))["graph"]
    assert len(found["stages"]) == 2
    assert found["stages"][1]["hunks"]


def test_an_older_pipeline_is_told_by_its_edits(made: ModuleType, tmp_path: Path) -> None:
    manifest = manifests.to_json(made.result())
    rows = compiled(tmp_path, manifest)["passes"]
    assert [row["name"] for row in rows] == ["imported", "canonicalize", "quantize"]
    assert rows[2]["bytes"] == 90_900_000 - 12_000_999
    assert (rows[2]["loss"], rows[2]["where"]) == (0.0041, "encoder.layer.1.up|down")
    assert (rows[0]["measured_ms"], rows[2]["measured_ms"]) == (10.84, 4.0)


# -- what is in it --------------------------------------------------------------------------------


def test_a_histogram_counts_what_is_there() -> None:
    values = np.repeat([-1.0, 0.0, 0.5, 3.0], [1, 2, 4, 8]).astype(np.float32)
    found = figures(values)
    assert found is not None
    assert (found["low"], found["high"], found["zeros"]) == (-1.0, 3.0, 2 / 15)
    assert found["mean"] == pytest.approx(values.mean())
    assert len(found["bars"]) == BARS
    assert found["bars"][-1] == 255
    assert {bar for bar in found["bars"] if bar} == {32, 64, 128, 255}


@pytest.mark.parametrize("values", [np.array(["a"]), np.array([np.nan, np.inf]), np.zeros(0)])
def test_there_is_no_histogram_of_nothing(values: np.ndarray) -> None:
    assert figures(values) is None


def test_equal_values_have_a_histogram() -> None:
    found = figures(np.full(9, 2.5, np.float32))
    assert found is not None
    assert sum(found["bars"]) == 255


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_quantized_weights_are_shown_as_what_they_stand_for(axis: int) -> None:
    codes = np.arange(12, dtype=np.int8).reshape(3, 4)
    count = codes.shape[axis]
    scale = np.linspace(0.5, 2, count).astype(np.float32)
    zero = np.arange(count, dtype=np.int8)
    found = dequantized(codes, scale, zero, axis)
    for index in np.ndindex(codes.shape):
        at = index[axis]
        expected = (int(codes[index]) - int(zero[at])) * float(scale[at])
        assert found[index] == pytest.approx(expected)


def test_scales_of_another_shape_leave_the_codes() -> None:
    codes = np.arange(12, dtype=np.int8).reshape(3, 4)
    for scale in (np.ones(5, np.float32), np.ones((3, 2), np.float32)):
        assert dequantized(codes, scale, None, 0) is codes


def site(name: str, count: int, flops: int | None = 10) -> SiteRow:
    return SiteRow(name, "linear", None, "MatMul", (2, 2), "FLOAT", count, 4 * count, flops, (), 1)


def test_modules_add_up() -> None:
    sites = [site("m.a.0.up", 1), site("m.a.0.down", 2), site("m.a.1.up", 4, None), site("head", 8)]
    total, rest = Totals(9, 18, {"FLOAT": 72}, 30, ("If",)), Rest(3, 12, None)
    rows = module_table(sites, total, rest)
    above = parents(rows)
    told = [(r.depth, short_name(r, above[r.name]), r.sites, r.parameters, r.flops) for r in rows]
    assert told == [
        (0, ALL, 4, 18, None), (1, "m.a", 3, 7, None), (2, "0", 2, 3, 20), (3, "up", 1, 1, 10),
        (3, "down", 1, 2, 10), (2, "1.up", 1, 4, None), (1, "head", 1, 8, 10),
        (1, OUTSIDE, 0, 3, None),
    ]  # fmt: skip
    assert (rows[0].bytes, rows[-1].bytes) == (72, 12)
    assert module_table([], total, rest) == []
    assert module_table(sites, total, Rest(0, 0, 0))[-1].name == "head"
