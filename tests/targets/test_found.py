"""Targets outside the catalogue: of the project in the working folder, of installed packages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planish.cli import main
from planish.ir.errors import TargetError, UsageError
from planish.targets.loader import load_target

TEXT = 'name = "{name}"\nsummary = "ours"\nkind = "class"\nextends = "generic"\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a folder of targets that holds one of them; the working folder is below."""
    (tmp_path / "pyproject.toml").write_text('[tool.planish]\ntargets = ["shelf"]\n')
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "rack.toml").write_text(TEXT.format(name="rack-7"))
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    return tmp_path


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, point: str, module: str = "") -> None:
    info = folder / "site" / "shop-2.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text(f"[planish.targets]\n{point}\n")
    (folder / "site" / "shop_of_targets.py").write_text(module)
    (folder / "site" / "shop.toml").write_text(TEXT.format(name="shop-1"))
    monkeypatch.syspath_prepend(folder / "site")
    monkeypatch.delitem(__import__("sys").modules, "shop_of_targets", raising=False)


def test_a_project_names_its_targets(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_target("rack-7").summary == "ours"
    assert main(["targets", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["targets"]
    assert "rack-7" in {target["name"] for target in listed}
    assert main(["targets", "show", "rack-8"]) == 2
    assert "did you mean 'rack-7'" in capsys.readouterr().err


def test_two_files_of_one_name_are_both_named(folder: Path) -> None:
    (folder / "shelf" / "twin.toml").write_text(TEXT.format(name="rack-7"))
    with pytest.raises(TargetError, match="two targets are called 'rack-7'") as caught:
        load_target("rack-7")
    assert str(folder / "shelf" / "rack.toml") in caught.value.where
    assert str(folder / "shelf" / "twin.toml") in caught.value.where


def test_a_name_of_the_catalogue_is_taken(folder: Path) -> None:
    (folder / "shelf" / "rack.toml").write_text(TEXT.format(name="nvidia-a100"))
    with pytest.raises(TargetError) as caught:
        load_target("rack-7")
    assert str(folder / "shelf" / "rack.toml") in str(caught.value)


@pytest.mark.parametrize("value", ["HERE / 'shop.toml'", "str(HERE / 'shop.toml')"])
def test_an_installed_package_offers_a_target(
    folder: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    text = f"from pathlib import Path\nHERE = Path(__file__).parent\nSHOP = {value}\n"
    install(folder, monkeypatch, "shop-1 = shop_of_targets:SHOP", text)
    assert load_target("shop-1").extends == "generic"


def test_an_offer_of_another_name_or_kind_says_whose_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(folder, monkeypatch, "shop-2 = shop_of_targets:SHOP", "SHOP = 7\n")
    with pytest.raises(UsageError, match=r"shop 2\.0 offers a target 'shop-2'"):
        load_target("shop-2")


def test_a_project_and_a_package_of_one_name_are_both_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(folder, monkeypatch, "rack-7 = shop_of_targets:SHOP")
    with pytest.raises(TargetError, match="two targets are called 'rack-7'") as caught:
        load_target("rack-7")
    assert "shop 2.0" in caught.value.where
    assert str(folder / "shelf" / "rack.toml") in caught.value.where


def test_the_catalogue_needs_no_project(folder: Path) -> None:
    (folder / "pyproject.toml").write_text("[tool.planish\n")
    assert load_target("generic").name == "generic"
    with pytest.raises(UsageError, match="not a TOML file"):
        load_target("rack-7")
