"""Pages of compiles that went otherwise than hoped, of hostile names, of large graphs."""

from __future__ import annotations

import gc
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from planish.compiler.diffing import compare
from planish.compiler.reporting.html.compared import compared
from planish.compiler.reporting.html.compiled import compiled
from planish.compiler.reporting.html.writing import PAGE, write_page, write_report
from planish.compiler.reporting.manifest import to_json
from planish.compiler.result import PredictedSpeed, Quality, Speed

EVIL = "</script><img src=x onerror=window.hacked=1>\"'><svg onload=window.hacked=2>{{7*7}}"
TURNED = "a\u202etxt.exe"


def shown(page: Any, made: ModuleType, folder: Path, **changes: Any) -> Any:
    """The page of a result made by hand, without any model beside it."""
    manifest = to_json(made.result(**changes))
    write_page(compiled(folder, manifest), folder / PAGE)
    page.open(folder / PAGE)
    return page


def test_a_result_with_everything_in_it(page: Any, made: ModuleType, tmp_path: Path) -> None:
    shown(page, made, tmp_path)
    assert page.texts("h1") == ["2.71× faster, 4.0× smaller"]
    assert page.texts(".badge") == ["✓faster", "✓within budget"]
    assert "too-small" in page.texts("#left summary b")
    assert not page.elements("#graph")
    why = "to hold the quality bound or as they cost more than they bring"
    assert f"Given back by quantize, {why}: block9" in page.texts(".notice")


def test_nothing_was_done(page: Any, made: ModuleType, tmp_path: Path) -> None:
    speed = Speed("no-gain", reason="the file is your own, byte for byte")
    shown(
        page, made, tmp_path, speed=speed, edits=(), remarks=(), trials=(), bytes_after=90_900_000
    )
    assert page.texts("h1") == ["Your own file, unchanged"]
    assert "No site was refused or missed." in page.texts("#left p")
    assert any("Nothing that loses anything" in text for text in page.texts(".notice"))


def test_quality_that_nobody_measured(page: Any, made: ModuleType, tmp_path: Path) -> None:
    shown(page, made, tmp_path, quality=Quality("unverified", sentence="no data was given"))
    assert page.texts(".badge")[1] == "!unverified"
    assert any(
        text.startswith("Quality was not verified: no data") for text in page.texts(".notice")
    )


def test_quality_over_budget_and_a_slower_model(
    page: Any, made: ModuleType, tmp_path: Path
) -> None:
    quality = Quality("over-budget", "drop <= 0.3", "drop 2.1 is over 0.3")
    shown(page, made, tmp_path, quality=quality, speed=Speed("slower", 4.0, 5.0, 0.8, 0.75, 0.85))
    assert page.texts("h1") == ["1.25× slower, 4.0× smaller"]
    assert page.texts(".badge.bad") == ["✕slower", "✕over budget"]
    assert len(page.elements(".notice.bad")) == 2


def test_what_ran_elsewhere_is_called_predicted(
    page: Any, made: ModuleType, tmp_path: Path
) -> None:
    predicted = PredictedSpeed(8.0, 2.0, 4.0, "estimated", "from rates")
    speed = Speed("not-measured", reason="not here", predicted=predicted)
    shown(page, made, tmp_path, speed=speed, run_on_target=False, not_on_target="no GPU is here")
    assert "Speed, predicted" in page.texts(".card h2")
    assert any("predicted, not measured" in text for text in page.texts(".figure"))
    assert any(
        text.startswith("Not run on the target: no GPU is here.") for text in page.texts(".notice")
    )


def test_an_artifact_whose_original_is_gone(page: Any, artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "alone.html"
    from planish.compiler.reporting.manifest import read

    write_page(compiled(artifact, read(artifact)), path)
    page.open(path)
    page.poke("left", "module mlp,")
    page.poke("left", "node, MatMul")
    assert page.elements(".side.right .box.mate")
    assert any("values were not kept" in text for text in page.texts(".about p"))


def evil_models(pages: Any, folder: Path) -> tuple[Path, Path]:
    random, made = np.random.default_rng(0), []
    for name, act in (("one", "Relu"), ("other", "Sigmoid")):
        weight = f"{EVIL}.layer.0.weight"
        nodes = [
            helper.make_node("MatMul", ["x", weight], [f"h{EVIL}"], name=f"/{EVIL}/MatMul"),
            helper.make_node(act, [f"h{EVIL}"], ["t"], name=TURNED, doc_string=EVIL),
            helper.make_node("Abs", ["t"], ["y"], name="__proto__"),
        ]
        weights = [pages.weight_of(random, weight, (8, 8))]
        made.append(pages.save(folder / f"{name}.onnx", nodes, weights, 8))
    return made[0], made[1]


def test_names_do_nothing(page: Any, pages: Any, tmp_path: Path) -> None:
    before, after = evil_models(pages, tmp_path)
    path = tmp_path / "evil.html"
    write_page(compared(compare(before, after)), path)
    assert "<img" not in path.read_text("utf8")
    page.open(path)
    page.press(page.button("Open what changed"))
    for box in page.run(
        "return [...document.querySelectorAll('.box.leaf')].map(b => b.dataset.id)"
    ):
        page.run(
            "document.querySelector(`.box.leaf[data-id=${CSS.escape(arguments[0])}]`)"
            "?.dispatchEvent(new MouseEvent('click', {bubbles: true}))", box,
        )  # fmt: skip
    field = page.element(".find input")
    field.send_keys("img src")
    assert page.run("return window.hacked") is None
    assert page.run("return document.querySelectorAll('img, body svg[onload]').length") == 0
    assert EVIL in page.run("return document.body.textContent")
    assert TURNED not in page.run("return document.documentElement.outerHTML")


def test_a_hostile_manifest_does_nothing(page: Any, made: ModuleType, tmp_path: Path) -> None:
    edits = [e.__class__(**{**vars(e), "site": EVIL, "setting": EVIL}) for e in made.edits()]
    quality = Quality("undecided", EVIL, EVIL, drift={EVIL: {EVIL: 1.0}}, warning=EVIL)
    shown(page, made, tmp_path, source=EVIL, target=EVIL, goal=EVIL, edits=tuple(edits),
          quality=quality, notes=(EVIL, TURNED), command=EVIL, environment={EVIL: EVIL},
          digests={"__proto__": EVIL})  # fmt: skip
    assert page.run("return window.hacked") is None
    assert page.run("return document.querySelectorAll('img').length") == 0
    assert EVIL in page.run("return document.body.textContent")
    assert TURNED not in page.run("return document.documentElement.outerHTML")


def chain(pages: Any, path: Path, count: int, *, named: bool, other: str = "Tanh") -> Path:
    """As many nodes in a row, in modules of ten or without any names."""
    nodes, last = [], "x"
    for index in range(count):
        made = "y" if index == count - 1 else f"v{index}"
        name = f"/model/block.{index // 100}/part.{index // 10 % 10}/Op_{index}" if named else ""
        operator = other if index % 200 == 7 else ("Relu", "Neg", "Abs", "Tanh")[index % 4]
        nodes.append(helper.make_node(operator, [last], [made], name=name))
        last = made
    return Path(pages.save(path, nodes, [], 8))


@pytest.mark.parametrize("named", [True, False])
def test_ten_thousand_nodes_are_never_all_drawn(
    page: Any, pages: Any, tmp_path: Path, named: bool
) -> None:
    before = chain(pages, tmp_path / "a.onnx", 10_000, named=named)
    after = chain(pages, tmp_path / "b.onnx", 10_000, named=named, other="Sigmoid")
    write_page(compared(compare(before, after)), tmp_path / "large.html")
    gc.collect()
    page.open(tmp_path / "large.html")
    count = "return document.querySelectorAll('*').length"
    assert page.run(count) < 2_000
    page.press(page.button("Open what changed"))
    assert len(page.elements(".box.leaf.new")) >= 3
    assert page.run(count) < 12_000
    page.press(page.button("Close all"))
    assert page.run(count) < 2_000
    field = page.element(".find input")
    field.send_keys("Sigmoid")
    assert len(page.elements("#found li")) == 40
    field.send_keys("\ue007")
    page.until("return document.querySelector('.side.right .box.chosen')")
    assert page.elements(".side.left .box.mate")
    assert page.run(count) < 4_000


def test_a_diff_of_equal_models(page: Any, pages: Any, tmp_path: Path) -> None:
    model = pages.network(tmp_path / "model.onnx")
    write_page(compared(compare(model, model)), tmp_path / "same.html")
    page.open(tmp_path / "same.html")
    assert page.texts("h1") == ["No difference"]
    assert not page.elements(".box.new, .box.gone, .box.changed")


def test_write_report_notes_the_page_in_the_manifest(artifact: Path) -> None:
    from planish.compiler.reporting.manifest import read
    from planish.compiler.reporting.selftest import file_digest

    write_report(artifact)
    row = read(artifact)["files"][PAGE]
    assert row == {
        "bytes": (artifact / PAGE).stat().st_size,
        "sha256": file_digest(artifact / PAGE),
    }


LONG = ".".join(f"a_rather_long_name_of_module_{number}_in_the_network" for number in range(12))
WIDER = """
    const width = (text) => text.getBoundingClientRect().width;
    return [...document.querySelectorAll('.box')].filter(box => [...box.querySelectorAll(':scope > text')]
        .some(text => width(text) > width(box.querySelector('.frame')) - 4)).map(box => box.textContent);
"""  # noqa: E501


def inspected_page(page: Any, model: Path, target: str = "") -> Any:
    """The page of one model, by the command."""
    from planish.cli import main

    html = model.with_suffix(".html")
    more = ["--target", target] if target else []
    assert main(["inspect", str(model), "--html", str(html), "--workload", "batch=1", *more]) == 0
    page.open(html)
    return page


@pytest.fixture
def long_names(pages: Any, tmp_path: Path) -> Path:
    random, weight = np.random.default_rng(0), f"{LONG}.weight"
    wide = f"/{LONG}/{'W' * 26}/Relu"
    nodes = [helper.make_node("MatMul", ["x", weight], ["h"], name="up"),
             helper.make_node("Relu", ["h"], ["y"], name=wide)]  # fmt: skip
    weights = [pages.weight_of(random, weight, (8, 8))]
    return Path(pages.save(tmp_path / "long.onnx", nodes, weights, 8))


def test_long_names_do_not_widen_the_page(page: Any, long_names: Path) -> None:
    inspected_page(page, long_names)
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")
    wraps = "return [...document.querySelectorAll('.wrap')].map(e => e.scrollWidth - e.clientWidth)"
    assert page.run(wraps) == [0, 0]
    while closed := page.elements(".box.module[aria-expanded=false]"):
        click = "arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))"
        assert page.run(WIDER) == []
        page.run(click, closed[0])
    assert page.run(WIDER) == []


def test_long_names_do_not_widen_a_difference(page: Any, pages: Any, long_names: Path) -> None:
    other = long_names.with_name("other.onnx")
    random, weight = np.random.default_rng(0), f"{LONG}.weight"
    nodes = [helper.make_node("MatMul", ["x", weight], ["h"], name="up"),
             helper.make_node("Tanh", ["h"], ["y"], name=f"/{LONG}/Tanh")]  # fmt: skip
    pages.save(other, nodes, [pages.weight_of(random, weight, (8, 8))], 8)
    path = long_names.with_name("diff.html")
    write_page(compared(compare(long_names, other)), path)
    page.open(path)
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")
    wrap = page.element(".wrap")
    assert page.run("return arguments[0].scrollWidth - arguments[0].clientWidth", wrap) == 0


def test_a_page_of_one_model_speaks_of_one_graph(page: Any, long_names: Path) -> None:
    inspected_page(page, long_names)
    assert "The graph" in page.texts("h2")
    said = page.run("return document.getElementById('content').textContent")
    for words in ("before and after", "this pass", "the same on both sides"):
        assert words not in said
    module = page.element(".box.module")
    page.run("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", module)
    assert "the same" not in page.element(".about").text


def test_what_no_site_holds_is_told(page: Any, pages: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    nodes = [helper.make_node("MatMul", ["x", "m.up.weight"], ["h"], name="up"),
             helper.make_node("MatMul", ["h", "m.down.weight"], ["d"], name="down"),
             helper.make_node("Mul", ["d", "scale"], ["y"])]  # fmt: skip
    weights = [pages.weight_of(random, f"m.{name}.weight", (8, 8)) for name in ("up", "down")]
    weights.append(numpy_helper.from_array(np.ones(8, np.float32), "scale"))
    inspected_page(page, pages.save(tmp_path / "model.onnx", nodes, weights, 8), "generic")
    rows = page.run(
        "return [...document.querySelectorAll('#modules tbody tr')].map(r => "
        "[...r.querySelectorAll('th, td')].slice(0, 3).map(c => c.textContent))"
    )
    assert rows[0] == ["▸(whole model)", "136", "544 B"]
    assert rows[-1] == ["(outside of sites)", "8", "32 B"]
    assert page.texts("h1") == ["544 B, 2 sites"]


def test_a_difference_does_not_speak_of_passes(page: Any, pages: Any, tmp_path: Path) -> None:
    before = chain(pages, tmp_path / "a.onnx", 20, named=True)
    after = chain(pages, tmp_path / "b.onnx", 20, named=True, other="Sigmoid")
    write_page(compared(compare(before, after)), tmp_path / "diff.html")
    page.open(tmp_path / "diff.html")
    assert "only after" in page.element(".legend").text
    assert "this pass" not in page.element(".legend").text


def test_sites_are_counted_one_way(page: Any, made: ModuleType, tmp_path: Path) -> None:
    edits = made.edits()
    again = edits[1].__class__(**{**vars(edits[1]), "id": "e99"})
    shown(page, made, tmp_path, edits=(*edits, again))
    count = len({edit.site for edit in edits if edit.pass_name == "quantize"})
    words = f"{count} sites ({count + 1} edits)"
    assert f"quantize at {words}" in page.element(".glance").text
    assert any(f"edited {words}" in text for text in page.texts("#passes tbody td"))
