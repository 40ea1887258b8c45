"""``planish bench``: what is measured, what it is compared with, how it fails."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planish.cli import main
from planish.commands.bench import headline
from planish.compiler import benching
from planish.compiler.benching import Entry, Row, Timed, named
from planish.compiler.benching_process import peak_bytes, run_alone
from planish.compiler.progress import Silent
from planish.compiler.quality.statistics import Ratio
from planish.compiler.timing import Paired
from planish.ir.errors import InputError, TargetError, UsageError
from planish.targets.loader import load_target
from planish.targets.runtime import Session

TEXT = """
<ir_version: 9, opset_import: ["" : 17]>
scorer (float[batch, 4] x) => (float[batch, 3] y) { y = MatMul(x, "weight") }
"""
WEIGHT = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)


def save(path: Path, weight: np.ndarray = WEIGHT, text: str = TEXT) -> Path:
    ir.save(ir.from_onnx_text(text, initializers=[ir.tensor(weight, name="weight")]), path)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four models and data; timing takes made-up seconds, the first model twice the others'."""

    def timed(sessions: Sequence[Session], feeds: Any, *, budget: float) -> Paired:
        rounds = np.random.default_rng(0).normal(1, 0.01, 11)
        scale = [2.0 * len(feeds), *[1.0 * len(feeds)] * (len(sessions) - 1)]
        return Paired(np.outer(scale, rounds) / 1e3)

    monkeypatch.setattr(benching, "time_alternating", timed)
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.onnx")
    save(tmp_path / "same.onnx")
    save(tmp_path / "half.onnx", WEIGHT * np.float32(0.5))
    x = np.random.default_rng(4).normal(size=(20, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    (tmp_path / "metric.py").write_text(
        "import numpy as np\n"
        "def total(run):\n"
        "    x = np.load('data.npz')['x']\n"
        "    return np.abs(run({'x': x})[0]).sum(axis=1)\n",
        "utf8",
    )
    return tmp_path


def document(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_everything_is_measured_against_the_first(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "a.onnx", "same.onnx", "half.onnx", "--feeds", "data.npz", "--json"]
    assert main([*words, "--evaluate", "metric.py:total"]) == 0
    found = document(capsys)
    first, same, half = found["models"]
    assert [m["model"] for m in found["models"]] == ["a.onnx", "same.onnx", "half.onnx"]
    assert found["feeds"] == {"source": "data.npz", "samples": 20, "generated": False}
    assert first["times"] == [{"workload": "", "ms": pytest.approx(2, 0.02), "speed": None,
                               "rounds": 11}]  # fmt: skip
    assert same["times"][0]["speed"]["value"] == pytest.approx(2.0)
    assert first["bytes"] == (folder / "a.onnx").stat().st_size
    assert first["drift"] is None
    assert same["drift"]["y"]["sqnr_db"] == "inf"
    # y and y/2: noise is a quarter of the signal's energy.
    assert half["drift"]["y"]["sqnr_db"] == pytest.approx(10 * np.log10(4), abs=1e-4)
    x = np.load(folder / "data.npz")["x"]
    expected = float(np.abs(x @ WEIGHT).sum(axis=1).mean())
    assert found["metric"] == pytest.approx(expected, rel=1e-5)
    assert half["metric"]["drop"] == pytest.approx(expected / 2, rel=1e-5)
    low, high = half["metric"]["interval"]
    assert low < expected / 2 < high
    assert same["metric"]["drop"] == 0


def test_one_screen(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "a.onnx", "half.onnx"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("fastest: half.onnx, 2.00x (2.00-2.00) of a.onnx; none is smaller")
    assert "sqnr 6.02" in text
    assert "generated numbers" in text
    assert "metric" not in text


def test_workloads_are_timed_one_by_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "a.onnx", "same.onnx", "--workload", "batch=1", "--workload", "batch=64"]
    assert main([*words, "--feeds", "data.npz", "--json"]) == 0
    found = document(capsys)
    assert [t["workload"] for t in found["models"][1]["times"]] == ["batch=1", "batch=64"]
    assert found["feeds"]["generated"] is False  # outputs are still compared on the user's data
    assert main(["bench", "a.onnx", "same.onnx", "--workload", "bach=1"]) == 2
    assert "'batch'" in capsys.readouterr().err


def test_generated_feeds_have_the_workload_s_sizes(folder: Path) -> None:
    ground = benching._ground(Path("a.onnx"), None, ["batch=7"])
    assert [feed["x"].shape for feed in ground.timed["batch=7"]] == [(7, 4)] * benching.GENERATED
    assert ground.feeds.synthetic


def test_integers_stay_within_what_the_user_s_feeds_hold() -> None:
    assert benching._largest(None) == {}
    first = {"ids": np.array([[0, 9]]), "types": np.array([[0, 0]]), "x": np.ones(2)}
    second = {"ids": np.array([[3, 4]]), "types": np.array([[1, 0]]), "x": np.ones(2)}
    feeds: Any = [first, second]
    assert benching._largest(feeds) == {"ids": 10, "types": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT.replace(" x)", " z)").replace("(x,", "(z,"), "it has no input 'x'"),
        (TEXT.replace("(float[batch, 3] y)", "(float[batch, 3] out)").replace("y =", "out ="),
         "it has output 'out'"),
        (TEXT.replace("(float[batch, 4] x)", "(float[batch, 4] x, float more)"),
         "it has input 'more'"),
        (TEXT.replace("float[batch, 4]", "double[batch, 4]").replace(
            "y = MatMul(x,", "c = Cast <to = 1> (x) y = MatMul(c,"),
         "input 'x' is float64, not float32"),
        (TEXT.replace("float[batch, 4]", "float[1, 4]"), "x"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_fit_is_a_row_of_its_own(
    text: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(folder / "other.onnx", text=text)
    words = ["bench", "a.onnx", "other.onnx", "same.onnx", "--feeds", "data.npz"]
    assert main([*words, "--json"]) == 3
    _, other, same = document(capsys)["models"]
    assert message in other["error"]
    assert other["times"] == []
    assert same["error"] == ""
    assert same["times"][0]["speed"]["value"] == pytest.approx(2.0)


def test_what_is_no_model_is_said_and_the_rest_compared(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.onnx").write_bytes(b"no model")
    assert main(["bench", "a.onnx", "broken.onnx", "half.onnx"]) == 3
    text = capsys.readouterr().out
    assert "broken.onnx: " in text
    assert "half.onnx" in text.splitlines()[0]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["a.onnx"], 2, "nothing to compare"),
        (["a.onnx", "none.onnx"], 3, "no such model"),
        (["a.onnx", "metric.py:total"], 2, "compile it first"),
        (["a.onnx", "."], 3, "not an artifact"),
        (["a.onnx", "same.onnx", "--feeds", "none.npz"], 3, "no such file"),
        (["a.onnx", "same.onnx", "--feeds", "wrong.npz"], 3, "'x'"),
        (["a.onnx", "same.onnx", "--target", "hsot"], 2, "'host'"),
        (["broken.onnx", "a.onnx"], 3, "broken.onnx"),
        (["words.onnx", "words.onnx"], 3, "--feeds"),
        (["a.onnx", "same.onnx", "--evaluate", "metric.py:totl"], 3, "'total'"),
    ],
)
def test_errors_say_what_to_do(
    words: list[str], code: int, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.onnx").write_bytes(b"no model")
    np.savez(folder / "wrong.npz", y=np.zeros(3))
    strings = '<ir_version: 9, opset_import: ["" : 17]> g (string[n] s) => (string[n] t) '
    ir.save(ir.from_onnx_text(strings + "{ t = Identity(s) }"), folder / "words.onnx")
    assert main(["bench", *words]) == code
    assert message in capsys.readouterr().err


def test_a_target_that_is_not_here_is_refused(folder: Path) -> None:
    elsewhere = load_target("x86-avx2").__class__(
        **{**vars(load_target("x86-avx2")), "features": ("no-such-feature",)}
    )
    with pytest.raises(TargetError, match="lacks no-such-feature"):
        benching.bench(["a.onnx", "same.onnx"], elsewhere, progress=Silent())


def test_types_that_numpy_lacks_are_compared_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = '<ir_version: 9, opset_import: ["" : 17]> g (bfloat16[n] x) => (float[n] y) '
    for name in ("one", "two"):
        ir.save(ir.from_onnx_text(text + "{ y = Cast <to = 1> (x) }"), folder / f"{name}.onnx")
    assert main(["bench", "one.onnx", "two.onnx", "--json"]) == 0
    assert document(capsys)["models"][1]["drift"]["y"]["sqnr_db"] == "inf"


def test_artifacts_and_models_of_one_name_are_told_apart(made: ModuleType, tmp_path: Path) -> None:
    for name in ("one", "two"):
        made.artifact(tmp_path / name)
    (tmp_path / "deep").mkdir()
    plain = save(tmp_path / "deep" / "model.onnx")
    found = named([tmp_path / "one", tmp_path / "two", plain])
    assert [entry.label for entry in found] == ["one", "two", "model.onnx"]
    assert [entry.path.name for entry in found] == ["model.onnx"] * 3
    twice = named([plain, plain])
    assert len({entry.label for entry in twice}) == 2


def test_only_what_is_surely_faster_is_called_so() -> None:
    def row(name: str, count: int, ms: float, ratio: Ratio | None) -> Row:
        timed = Timed("", ms, ratio, 11)
        return Row(Entry(name, Path(name)), count, times=(timed,))

    first = row("a", 100, 2.0, None)
    sure = row("b", 50, 1.0, Ratio(2.0, 1.9, 2.1))
    unsure = row("c", 200, 1.9, Ratio(1.05, 0.98, 1.1))
    assert (
        headline([first, sure]) == "fastest: b, 2.00x (1.90-2.10) of a; smallest: b, 2.0x smaller"
    )
    assert headline([first, unsure]) == "none is surely faster than a; none is smaller than a"


def test_memory_is_that_of_the_process_alone(tmp_path: Path) -> None:
    ballast = np.ones(60_000_000)  # 480 MB in this process, which must not count
    large = np.zeros((4, 10_000_000), np.float32)  # 160 MB
    text = TEXT.replace("float[batch, 3]", "float[batch, 10000000]")
    model = save(tmp_path / "large.onnx", large, text)
    np.savez(tmp_path / "feeds.npz", x=np.ones((1, 4), np.float32))
    solo = run_alone(model, tmp_path / "feeds.npz", 1)
    assert solo.error == ""
    assert 20e6 < solo.base < 250e6 < ballast.nbytes
    assert 160e6 < solo.peak - solo.base < 480e6


def test_a_process_that_dies_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    killer = tmp_path / "python"
    killer.write_text("#!/bin/sh\nkill -9 $$\n", "utf8")
    killer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killer))
    assert "SIGKILL, perhaps for want of memory" in run_alone(tmp_path, tmp_path, 1).error


def test_peak_is_read_from_the_kernel_s_own_count(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t 99999 kB\nVmHWM:\t   2048 kB\n", "ascii")
    assert peak_bytes(status) == 2048 * 1024
    assert peak_bytes(tmp_path / "none") > 1e6


def test_fewer_than_two_models_are_refused() -> None:
    with pytest.raises(UsageError, match="one model"):
        named(["a.onnx"])
    with pytest.raises(InputError, match="no such model"):
        named(["a.onnx", "b.onnx"])
