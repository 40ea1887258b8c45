"""The pages on passes and targets are those that ``make docs`` writes."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from planish.commands.passes import options_of
from planish.commands.targets import shown
from planish.passes.api import registered
from planish.targets.loader import load_target
from planish.targets.rules.rule import Rule
from planish.targets.rules.table import RULES
from planish.targets.tomlfile import catalog_files

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(generator: ModuleType) -> dict[str, str]:
    found: dict[str, str] = generator.pages()
    return found


def test_the_pages_are_up_to_date(pages: dict[str, str]) -> None:
    for name, text in pages.items():
        path = ROOT / "docs" / name
        assert path.is_file(), f"docs/{name} is missing: run `make docs`"
        assert path.read_text("utf8") == text, f"docs/{name} is out of date: run `make docs`"


def test_there_are_no_other_pages(generator: ModuleType, pages: dict[str, str]) -> None:
    assert generator.stale(pages) == []
    assert [p.name for p in generator.stale(set(pages) - {"passes/quantize.md"})] == ["quantize.md"]


@pytest.mark.parametrize("name", registered())
def test_a_page_says_all_of_a_pass(name: str, pages: dict[str, str]) -> None:
    cls = registered()[name]
    said = " ".join(re.sub(r"[`\\]", "", pages[f"passes/{name}.md"]).lower().split())
    body = re.sub(
        r"(?m)^ *(What|When|Guarantee|Options|Example)[^:]*: ", "", str(cls.__doc__).strip()
    )
    for sentence in re.split(r"(?<=[.;])\s", body.replace("`", "")):
        assert " ".join(sentence.lower().split()) in said
    assert all(option["meaning"].lower() in said for option in options_of(cls))


@pytest.mark.parametrize("name", sorted(catalog_files()))
def test_a_page_shows_every_figure_of_a_target(name: str, pages: dict[str, str]) -> None:
    rows = pages[f"targets/{name}.md"].splitlines()
    for figure in load_target(name).figures():
        assert f"| `{figure.path}` | {shown(figure.value)} | {figure.source} |" in rows


def test_links_between_the_pages_lead_somewhere(pages: dict[str, str]) -> None:
    for name, text in pages.items():
        links = re.findall(r"\]\(([^)#]+)", text)
        assert links
        for link in links:
            assert ((ROOT / "docs" / name).parent / link).is_file(), f"{name}: {link}"


def test_a_bar_does_not_break_a_table(generator: ModuleType) -> None:
    assert generator.table(("a", "b"), [("x|y", "z")]).splitlines()[2] == r"| x\|y | z |"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_page_on_rules_says_all_of_each(rule: Rule, pages: dict[str, str]) -> None:
    (row,) = (line for line in pages["rules.md"].splitlines() if f"`{rule.id}`" in line)
    assert f"| {rule.severity} |" in row
    for words in (rule.applies, rule.reason[1:], rule.fix[1:]):
        assert words in row
