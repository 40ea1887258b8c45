"""The entry of the benchmarks: names, exit status, what a failing one leaves of the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import run
from benchmarks.figures import Outcome, at_most
from benchmarks.settings import Settings


def test_every_name_has_a_function_that_says_what_it_does() -> None:
    for name in run.BENCHMARKS:
        assert (run.benchmark(name).__doc__ or "").strip()


def test_no_names_select_all_and_a_beginning_selects_its_group() -> None:
    assert run.select([]) == list(run.BENCHMARKS)
    assert run.select(["minilm"]) == ["minilm-quality", "minilm-speed", "minilm-kernels"]
    assert run.select(["resnet20", "tiny", "tiny"]) == ["resnet20", "tiny"]


def test_an_unknown_name_is_refused_with_near_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["minilm-sped"]) == 2
    assert "minilm-speed" in capsys.readouterr().err


def test_a_figure_names_the_command_that_takes_it_again() -> None:
    assert run.command("tiny", Settings()) == ".venv/bin/python benchmarks/run.py tiny"
    assert run.command("cost", Settings(threads=4)).endswith("run.py cost --threads 4")


def good(settings: Settings) -> Outcome:
    return Outcome("good", ("a",), (("1",),), (at_most("figure", 1, 2),))


def miss(settings: Settings) -> Outcome:
    return Outcome("miss", ("a",), (("1",),), (at_most("figure", 3, 2),))


def broken(settings: Settings) -> Outcome:
    raise RuntimeError("no model came out")


@pytest.mark.parametrize(
    ("names", "status"), [(["good"], 0), (["good", "miss"], 1), (["broken", "good"], 2)]
)
def test_status_and_json(
    names: list[str], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {"good": good, "miss": miss, "broken": broken}
    monkeypatch.setattr(run, "BENCHMARKS", dict.fromkeys(made, ""))
    monkeypatch.setattr(run, "benchmark", made.__getitem__)
    output = tmp_path / "out.json"
    assert run.main([*names, "--json", str(output), "--workdir", str(tmp_path / "work")]) == status
    document = json.loads(output.read_text("utf8"))
    assert set(document["benchmarks"]) == set(names) - {"broken"}
    assert set(document["failures"]) == set(names) & {"broken"}
    for name, found in document["benchmarks"].items():
        assert found["figures"][0]["command"].endswith(f"run.py {name}")
