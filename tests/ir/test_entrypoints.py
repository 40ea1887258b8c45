"""What installed distributions offer: found by name, clashes named, imports only on demand."""

from __future__ import annotations

from pathlib import Path

import pytest

from planish.ir.entrypoints import BACKENDS, PASSES, offers
from planish.ir.errors import UsageError


def install(folder: Path, name: str, points: str, version: str = "1.0") -> None:
    """A distribution on the path, as an installer leaves it."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(points)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_what_is_offered_is_found_and_loaded_on_demand(site: Path) -> None:
    (site / "offered_here.py").write_text("THING = 7\n")
    install(site, "one", f"[{BACKENDS}]\nmine = offered_here:THING\nbroken = not_there:THING\n")
    found = offers(BACKENDS)
    assert {"broken", "mine"} <= found.keys()
    assert found["mine"].load() == 7
    assert found["mine"].distribution == "one 1.0"
    assert str(found["mine"]) == "one 1.0 (offered_here:THING)"
    assert "mine" not in offers(PASSES)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("THIN = 7", "AttributeError"),
        ("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
        ("THING = (", "SyntaxError"),
    ],
)
def test_what_cannot_be_imported_says_whose_it_is(
    site: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.delitem(__import__("sys").modules, "spoilt", raising=False)
    (site / "spoilt.py").write_text(text + "\n")
    install(site, "one", f"[{BACKENDS}]\nmine = spoilt:THING\n")
    with pytest.raises(UsageError, match=said) as caught:
        offers(BACKENDS)["mine"].load()
    assert "one 1.0" in caught.value.what
    assert "spoilt:THING" in caught.value.where


def test_a_name_that_two_distributions_claim_names_both(site: Path) -> None:
    install(site, "one", f"[{BACKENDS}]\nmine = a:THING\n")
    install(site, "two", f"[{BACKENDS}]\nmine = b:THING\n", "2.5")
    with pytest.raises(UsageError, match="'mine' is taken twice") as caught:
        offers(BACKENDS)
    assert "one 1.0 (a:THING)" in caught.value.what
    assert "two 2.5 (b:THING)" in caught.value.what


def test_a_name_of_planish_itself_is_refused(site: Path) -> None:
    install(site, "one", f"[{BACKENDS}]\ntensorrt = a:THING\n")
    with pytest.raises(UsageError, match=r"by planish itself and by one 1\.0"):
        offers(BACKENDS, taken=["tensorrt"])
