"""The page of a compile in a real browser: it opens, unfolds, finds, slides, sorts and filters."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from planish.compiler.reporting.html.writing import PAGE


@pytest.fixture
def report(page: Any, artifact: Path) -> Any:
    page.open(artifact / PAGE)
    return page


def manifest_of(artifact: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((artifact / "manifest.json").read_text("utf8"))
    return found


def test_it_opens_with_the_verdict_on_top(report: Any, artifact: Path) -> None:
    manifest = manifest_of(artifact)
    assert report.driver.title.startswith("model.onnx for x86-avx2")
    assert manifest["headline"] in report.texts("#verdict p")
    assert report.texts("main > section h2")[0] == "Speed"
    named = [e.get_attribute("id") for e in report.elements("main > section")]
    assert named == ["verdict", "passes", "layers", "quality", "graph", "left", "facts"]
    assert report.run("return performance.getEntriesByType('resource').length") == 0


def test_the_passes_are_told_in_order(report: Any, artifact: Path) -> None:
    told = report.texts("#passes tbody th")
    names = ("original", "canonicalize", "prune-neurons", "low-rank", "quantize")
    assert [next(n for n in names if text.startswith(n)) for text in told[:5]] == list(names)
    sizes = {s["name"]: s["bytes"] for s in manifest_of(artifact)["stages"]}
    shown = report.texts("#passes tbody td.bars .nowrap")
    assert shown[0].startswith(f"{sizes['imported'] / 1e3:.0f} kB")


def test_layers_are_sorted_by_their_headings(report: Any) -> None:
    def losses() -> list[str]:
        return [text for text in report.texts("table.layers tbody td:nth-child(4)") if text]

    def value(text: str) -> float:
        return float(text.replace("−", "-"))

    header = report.element("table.layers thead th:nth-child(4)")
    report.press(header.find_element("css selector", "button"))
    assert header.get_attribute("aria-sort") == "descending"
    down = [value(text) for text in losses()]
    assert down == sorted(down, reverse=True)
    assert len(set(down)) > 3
    report.press(header.find_element("css selector", "button"))
    assert header.get_attribute("aria-sort") == "ascending"
    assert [value(text) for text in losses()] == sorted(down)


def test_layers_are_filtered(report: Any, artifact: Path) -> None:
    edits = manifest_of(artifact)["edits"]
    rows = "return document.querySelectorAll('table.layers tbody tr').length"
    everything = report.run(rows)
    choose = """
        const [title, value] = arguments;
        const label = [...document.querySelectorAll('#layers label')].find(l => l.textContent.startsWith(title));
        const field = label.querySelector('select, input');
        if (field.type === 'checkbox') field.checked = value; else field.value = value;
        field.dispatchEvent(new Event(field.tagName === 'SELECT' || field.type === 'checkbox' ? 'change' : 'input'));
    """  # noqa: E501
    report.run(choose, "Technique", "low-rank")
    assert report.run(rows) == len({e["site"] for e in edits if e["pass"] == "low-rank"})
    report.run(choose, "Technique", "")
    setting = next(e["setting"] for e in edits if e["pass"] == "prune-neurons")
    report.run(choose, "Setting", setting)
    assert report.run(rows) == len({e["site"] for e in edits if e["setting"] == setting})
    report.run(choose, "Setting", "")
    report.run(choose, "Loses", "0.01")
    lossy = {e["site"] for e in edits if (e["loss"] or 0) >= 0.01}
    assert report.run(rows) == len(lossy)
    report.run(choose, "Loses", "0")
    report.run(choose, "Search", "layer.1.mlp")
    assert 0 < report.run(rows) < everything
    assert all("layer.1.mlp" in text for text in report.texts("table.layers tbody th"))
    report.run(choose, "Search", "no such layer")
    assert report.texts("table.layers tbody td") == ["Nothing fits these filters."]


def test_a_layer_unfolds_to_its_edits_and_leads_to_the_graph(report: Any) -> None:
    button = report.element("table.layers tbody .rowhead")
    assert button.get_attribute("aria-expanded") == "false"
    report.press(button)
    assert button.get_attribute("aria-expanded") == "true"
    assert "saved" in report.texts("tr.more dt")
    report.press(report.button("Show in the graph"))
    assert report.elements(".side.left .box.chosen")


def test_the_map_of_layers_leads_to_them(report: Any) -> None:
    assert report.texts("#layers .heat tbody th") == [f"encoder.layer.{n}" for n in range(3)]
    report.press(report.button("Loss"))
    assert report.button("Loss").get_attribute("aria-pressed") == "true"
    cell = report.element(".heat tbody button")
    name = cell.get_attribute("aria-label").partition(":")[0]
    report.press(cell)
    assert all(name in text for text in report.texts("table.layers tbody th"))


def test_every_slice_of_quality_is_drawn(report: Any) -> None:
    assert report.texts("#quality tbody th") == ["metric", "first half", "second half"]
    said = [e.get_attribute("aria-label") for e in report.elements("#quality tbody svg")]
    assert all(text.startswith("drop ") for text in said)
    assert "allowed 1000" in said[0]


def test_modules_open_on_both_sides(report: Any) -> None:
    for opened in ("true", "false"):
        report.poke("left" if opened == "true" else "right", "module mlp,")
        for side in ("left", "right"):
            assert report.labelled(side, "module mlp,").get_attribute("aria-expanded") == opened
            inside = report.labelled(side, "module up,") or report.labelled(side, "node, MatMul")
            assert (inside is not None) == (opened == "true")


def find(report: Any, text: str) -> None:
    field = report.element(".find input")
    report.run("arguments[0].scrollIntoView({block: 'center'})", field)
    field.clear()
    field.send_keys(text)
    report.until("return !document.getElementById('found').hidden")
    field.send_keys("\ue007")  # Enter
    report.until("return document.getElementById('found').hidden")


def test_a_node_is_found_with_its_counterpart(report: Any) -> None:
    find(report, "layer.1 mlp up MatMul")
    assert "MatMul" in report.element(".side.left .box.chosen").get_attribute("aria-label")
    mates = report.elements(".side.right .box.mate")
    assert mates
    about = report.element(".about").text
    assert "encoder.layer.1.mlp.up" in about
    assert "low-rank" in about
    assert "FLOAT[96, 192]" in about
    assert report.elements(".about svg[aria-label*=histogram]")
    label = mates[0].get_attribute("data-id")
    report.run("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", mates[0])
    assert report.element(".side.right .box.chosen").get_attribute("data-id") == label
    assert report.elements(".side.left .box.mate")


def test_the_slider_goes_through_the_passes(report: Any, artifact: Path) -> None:
    changed = [stage for stage in manifest_of(artifact)["stages"] if stage["changed"]]
    slider = report.element(".slider input")
    assert int(slider.get_attribute("max")) == len(changed) - 1
    head = "return document.querySelector('.side.right header').textContent"
    for place, stage in reversed(list(enumerate(changed))):
        report.run(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))",
            slider, place,
        )  # fmt: skip
        shown = report.run(head)
        assert f"{stage['nodes']} nodes" in shown
        titles = {"imported": "The original again", "model": "Handed over"}
        assert shown.startswith(titles.get(stage["name"], f"After {stage['name']}"))
    assert "nothing differs" in report.run(head)
    assert not report.elements(".side.right .box.new, .side.right .box.changed")
    report.press(report.element("[aria-label='The next pass']"))
    assert report.run(head).startswith("After prune-neurons")
    assert "After prune-neurons" in report.element("#said").get_attribute("textContent")


def test_a_choice_stays_from_pass_to_pass(report: Any) -> None:
    find(report, "layer.2 mlp up MatMul")
    chosen = report.element(".side.left .box.chosen").get_attribute("data-id")
    for _ in range(3):
        report.press(report.element("[aria-label='The pass before']"))
        assert report.element(".side.left .box.chosen").get_attribute("data-id") == chosen
        assert report.elements(".side.right .box.mate")


def test_what_changed_is_opened_and_closed_again(report: Any) -> None:
    count = "return document.querySelectorAll('.side.right .box').length"
    few = report.run(count)
    report.press(report.button("Open what changed"))
    assert report.run(count) > few
    assert report.elements(".side.right .box.leaf.new")
    report.press(report.button("Close all"))
    assert report.run(count) == few


def test_it_is_walked_with_the_keys(report: Any) -> None:
    active = "return document.activeElement.getAttribute('aria-label') ?? ''"
    report.run("document.querySelector('.side.left .box[tabindex=\"0\"]').focus()")
    first = report.run(active)
    assert first
    down, enter, escape = "\ue015", "\ue007", "\ue00c"
    for _ in range(3):
        report.driver.switch_to.active_element.send_keys(down)
    assert report.run(active) != first
    report.run("arguments[0].focus()", report.labelled("left", "module mlp,"))
    report.driver.switch_to.active_element.send_keys(enter)
    assert report.run(active).endswith("open")
    report.driver.switch_to.active_element.send_keys(escape)
    assert report.run(active).startswith("module 0,")
    before = report.run(
        "return document.querySelector('.side.left .canvas > g').getAttribute('transform')"
    )
    report.driver.switch_to.active_element.send_keys("+")
    after = report.run(
        "return document.querySelector('.side.left .canvas > g').getAttribute('transform')"
    )
    assert before != after


def test_everything_that_can_be_used_has_a_name(report: Any) -> None:
    nameless = """
        return [...document.querySelectorAll('button, select, input, a, [role=button], svg[role=img]')]
            .filter(e => !(e.getAttribute('aria-label') || e.textContent.trim() || e.closest('label')?.textContent.trim() || e.placeholder))
            .map(e => e.outerHTML.slice(0, 120));
    """  # noqa: E501
    assert report.run(nameless) == []
    assert report.run("return document.querySelectorAll('th:not([scope])').length") == 0
    levels = report.run(
        "return [...document.querySelectorAll('h1, h2, h3')].map(e => +e.tagName[1])"
    )
    assert levels[0] == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))


def luminance(report: Any, selector: str, key: str) -> float:
    text = report.run(
        "const c = document.createElement('canvas').getContext('2d', {willReadFrequently: true});"
        "c.fillStyle = getComputedStyle(document.querySelector(arguments[0]))[arguments[1]];"
        "c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]", selector, key,
    )  # fmt: skip
    parts = [value / 255 for value in text[:3]]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return float(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_in_dark(page: Any, artifact: Path, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    page.open(artifact / PAGE)
    ground = luminance(page, "body", "backgroundColor")
    assert (ground < 0.05) == (scheme == "dark")
    card = luminance(page, ".card", "backgroundColor")
    for selector in ("h1", ".quiet", ".badge", "a.skip", "#passes td", "#facts summary"):
        text = luminance(page, selector, "color")
        for behind in (ground, card):
            low, high = sorted((text, behind))
            assert (high + 0.05) / (low + 0.05) >= 4.5, selector


def test_somebody_can_ask_for_the_other_colours(report: Any) -> None:
    button = report.element(".top button")
    for theme in ("light", "dark", ""):
        button.click()
        assert report.run("return document.documentElement.dataset.theme") == theme


def test_it_prints(report: Any) -> None:
    printed = report.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert len(printed["data"]) > 20_000
    assert report.run("return [...document.querySelectorAll('details')].every(d => d.open)")
    report.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    for selector in (".top", ".filters", ".zoom"):
        assert report.element(selector).value_of_css_property("display") == "none"


def test_it_works_on_a_narrow_screen(report: Any) -> None:
    metrics = {"width": 420, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    report.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        width = report.run("return document.documentElement.scrollWidth")
        assert width <= 420
    finally:
        report.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_page_is_the_same_file_wherever_it_lies(
    page: Any, artifact: Path, tmp_path: Path
) -> None:
    shutil.copy(artifact / PAGE, tmp_path / "sent by mail.html")
    page.open(tmp_path / "sent by mail.html")
    assert page.elements(".side.left .box")
