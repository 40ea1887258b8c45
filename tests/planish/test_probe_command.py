"""``targets probe`` and ``inspect --target`` through the real command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from planish.cli import INTERRUPTED, main
from planish.targets.cost.measured import Measured, Products, Streams
from planish.targets.host import probe_host
from planish.targets.loader import load_target
from planish.targets.probe.run import Probed
from planish.targets.probe.writing import target_text

ROWS = tuple((1.0, m, k, n, m * k * n / 1e4) for m in (1.0, 256.0) for k in (8.0, 512.0)
             for n in (8.0, 512.0))  # fmt: skip
MEASURED = Measured(
    date="2026-01-01", runtime="onnxruntime 1.31.1", cpu="A CPU", call=((1.0, 5.0),),
    node=((1.0, 0.2),), bandwidth=((1.0, 1e6, 20.0),), correction=((1.0, 10.0, 1.25),),
    products=Products(float32=ROWS, u8s8=ROWS),
    streams=Streams(broadcast=((1.0, 1.0, 1.0), (1.0, 1e6, 100.0))),
)  # fmt: skip


def made(name: str = "a-machine", measured: Measured = MEASURED) -> Probed:
    return Probed(name, target_text(name, probe_host(), measured, 2), measured)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A probe that takes no time; what it was asked for."""
    calls: list[tuple[Any, ...]] = []

    def probe(counts: Any, name: str, **_: Any) -> Probed:
        calls.append((tuple(counts), name))
        return made(name or "a-machine")

    monkeypatch.setattr("planish.commands.probe.probe", probe)
    return calls


@pytest.fixture
def model(tmp_path: Path) -> Path:
    header = '<ir_version: 10, opset_import: ["": 20]> g (float[n, 64] x) => (float[n, 32] y)'
    proto = onnx.parser.parse_model(f"{header} {{ h = MatMul(x, w)\n y = Add(h, b) }}")
    for name, shape in (("w", (64, 32)), ("b", (32,))):
        proto.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    return path


def test_the_file_is_written_once_and_usable(
    asked: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.toml"
    words = ["targets", "probe", "-o", str(path), "--threads", "1", "--name", "a-machine"]
    assert main(words) == 0
    assert asked == [((1,), "a-machine")]
    assert load_target(path).measured == MEASURED
    assert f"--target {path}" in capsys.readouterr().out.replace("\n", "")
    assert main(words) == 2
    assert "--force" in capsys.readouterr().err
    assert len(asked) == 1  # refused before anything was measured
    assert main([*words, "--force"]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["m.toml"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--name", "Not A Name"], "cannot name a target"),
        (["--name", "x86-avx2"], "there is a target 'x86-avx2' already"),
        (["-o", "machine.txt"], "ends in .toml"),
        (["-o", "no/such/folder/m.toml"], "no such folder"),
    ],
)
def test_what_cannot_be_written_is_refused_first(
    words: list[str], complaint: str, asked: list[Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["targets", "probe", *words]) == 2
    assert complaint in capsys.readouterr().err
    assert not asked


def test_an_interrupted_probe_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Probed:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("planish.commands.probe.probe", interrupted)
    assert main(["targets", "probe", "-o", "m.toml"]) == INTERRUPTED
    assert not list(tmp_path.iterdir())


def test_a_busy_machine_is_said_on_the_screen_and_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    why = "1 thread: other programs kept 1.5 cores busy"
    found = made(measured=Measured(**{**vars(MEASURED), "busy": why}))
    monkeypatch.setattr("planish.commands.probe.probe", lambda *_, **__: found)
    path = tmp_path / "m.toml"
    assert main(["targets", "probe", "-o", str(path)]) == 0
    assert why in capsys.readouterr().out
    target = load_target(path)
    assert target.measured is not None
    assert target.measured.busy == why
    assert any(why in note for note in target.notes)


def test_inspect_predicts_by_site_and_says_on_what_it_rests(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "m.toml"
    target.write_text(made().text, "utf8")
    words = ["inspect", str(model), "--target", str(target), "--threads", "1"]
    assert main([*words, "--workload", "n=16", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)["prediction"]
    (run,) = document["workloads"]
    product = 16 * 64 * 32 / 1e4 / 1e3
    assert run["known_ms"] == pytest.approx(product, rel=1e-3)
    assert document["ms"] == pytest.approx(0.01 + 1.25 * run["known_ms"])
    assert [site["basis"] for site in run["sites"]] == ["measured"]
    assert main([*words, "--workload", "n=16*3", "--workload", "n=1*1"]) == 0
    shown = capsys.readouterr().out
    assert "measured: 100% of it inside measured tables (2026-01-01, onnxruntime 1.31.1)" in shown
    assert "mean over the workloads" in shown


def test_inspect_never_makes_up_a_number(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model), "--target", "x86-avx2", "--workload", "n=16"]) == 0
    shown = capsys.readouterr().out
    assert "total unknown, unknown: x86-avx2 has no rates" in shown
    assert main(["inspect", str(model), "--target", "x86-avx2"]) == 0
    assert "no size was given for n" in capsys.readouterr().out


def test_a_workload_with_a_symbol_that_the_model_lacks(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["inspect", str(model), "--target", "x86-avx2", "--workload", "batch=4"]
    assert main(words) == 2
    assert "no input has an axis 'batch'" in capsys.readouterr().err
