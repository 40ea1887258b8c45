"""run.py without TensorRT: what it compares, what it times, what it says.

In the engine's place stands a class that answers as the loaded engine does: y = 2 x.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from planish.compiler.reporting.kit import write_kit
from planish.compiler.reporting.selftest import SCHEMA
from planish.compiler.result import Engine

Arrays = dict[str, np.ndarray]
X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module run.py of an artifact with two samples of 2 rows, for batches of 1 to 32."""
    shapes = {"x": {"min": (1, 3), "opt": (8, 3), "max": (32, 3)}}
    write_kit(Engine(shapes, False, "10", open_axes=1), tmp_path)
    spec = importlib.util.spec_from_file_location("planish_test_run", tmp_path / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "planish_test_run", module)  # where its dataclasses look
    spec.loader.exec_module(module)
    samples(tmp_path, 0.001)
    return module


def samples(folder: Path, apart: float) -> None:
    """Two samples; apart: how far the recorded answers are from the original model's."""
    names = [f"samples/{number:04}.npz" for number in range(2)]
    (folder / "samples").mkdir(exist_ok=True)
    for number, name in enumerate(names):
        feed, noise = X + 10 * number, apart * np.random.default_rng(number).normal(size=X.shape)
        wanted = (2 * feed).astype(np.float32)
        arrays: Any = {
            "feed/x": feed, "output/y": wanted, "original/y": wanted + noise.astype(np.float32)
        }  # fmt: skip
        np.savez(folder / name, **arrays)
    manifest = {
        "schema": SCHEMA, "files": {}, "samples": names, "tolerance": {}, "source": "m.onnx",
        "target": "t", "headline": "h", "engine": {"tolerance": {"y": 1.0}},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))


class Loaded:
    """Stands for the loaded engine; off: what its answers are wrong by. ran: shapes that ran."""

    def __init__(self, path: Path, off: float = 0.0, reads: str = "DEVICE") -> None:
        self.off, self.reads, self.inputs = off, reads, ["x"]
        self.ran: list[tuple[tuple[int, ...], int]] = []
        self.fed: Arrays = {}
        self.engine = SimpleNamespace(
            get_tensor_shape=lambda name: (-1, 3),
            get_tensor_profile_shape=lambda name, number: [(1, 3), (8, 3), (32, 3)],
        )

    def on_host(self, name: str) -> bool:
        return self.reads == "HOST"

    def run(self, feeds: Arrays, times: int = 0) -> Any:
        self.ran.append((feeds["x"].shape, times))
        self.fed = feeds
        made = {"y": 2 * feeds["x"] + np.float32(self.off)}
        return (made, [0.5] * times) if times else made


Main = Callable[..., tuple[int, str, Any]]


@pytest.fixture
def main(script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Main:
    """Run main with words; its status, what it printed, the engine."""

    for name in ("profile", "open_first"):  # these are the script's own
        monkeypatch.setattr(Loaded, name, vars(script.Engine)[name], raising=False)

    def call(*words: str, **known: Any) -> tuple[int, str, Any]:
        engine = Loaded(Path(), **known)
        monkeypatch.setattr(script, "Engine", lambda path: engine)
        monkeypatch.setattr(sys, "argv", ["run.py", *words])
        return script.main(), capsys.readouterr().out, engine

    return call


def test_a_good_engine_is_timed_at_the_usual_shapes(main: Main) -> None:
    status, said, engine = main()
    assert status == 0, said
    assert engine.ran[-1] == ((8, 3), 100)
    np.testing.assert_array_equal(engine.fed["x"], np.tile(X, (4, 1)))
    assert "0.500 ms a run without copies (median of 100) at x 8x3" in said
    assert "(rows of sample 0 repeated or cut)" in said
    assert "ms a run of sample 0, x 2x3 (median)" in said


@pytest.mark.parametrize(
    ("words", "shape"),
    [
        (("--at", "max"), (32, 3)), (("--at", "min"), (1, 3)), (("--at", "sample"), (2, 3)),
        (("--batch", "5"), (5, 3)), (("--at", "sample", "--batch", "3", "--sample", "1"), (3, 3)),
    ],
)  # fmt: skip
def test_what_is_timed_can_be_chosen(
    main: Main, words: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    status, said, engine = main("--times", "7", *words)
    assert status == 0, said
    assert engine.ran[-1] == (shape, 7)
    assert f"at x {'x'.join(map(str, shape))} (" in said
    assert engine.fed["x"][0, 0] == (10 if "--sample" in words else 0)


def test_numbers_that_decide_shapes_are_left_as_they_are(main: Main) -> None:
    status, said, engine = main(reads="HOST")
    assert (status, engine.ran[-1]) == (0, ((2, 3), 100))
    assert "x 2x3 (sample 0 as it is, not --at opt: numbers of inputs decide shapes)" in said


@pytest.mark.parametrize("times", ["0", "3"])
def test_an_engine_within_its_tolerance_that_lost_the_original_fails(
    main: Main, times: str
) -> None:
    """With --times 0, too."""
    status, said, engine = main("--times", times, off=0.5)
    assert status == 1
    assert "FAILED    y is" in said
    assert "dB near the original, not" in said
    assert any(count for _, count in engine.ran) == (times != "0")
    assert ("without copies" in said) == (times != "0")


def test_a_sample_that_is_not_there_hides_no_other_finding(main: Main) -> None:
    status, said, _ = main("--sample", "2", off=0.5)
    assert status == 1
    assert "FAILED    y is" in said
    assert "FAILED    not timed: no sample 2: give 0 to 1" in said


@pytest.mark.parametrize("words", [("--batch", "0"), ("--batch", "-1"), ("--at", "most")])
def test_what_is_no_size_is_refused(main: Main, words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(*words)
    assert caught.value.code == 2


def test_answers_say_what_was_timed(main: Main, tmp_path: Path) -> None:
    output = tmp_path / "answers.npz"
    given = [str(tmp_path / "samples" / name) for name in ("0000.npz", "0001.npz")]
    assert main("--answers", str(output), *given)[0] == 0
    with np.load(output, allow_pickle=False) as found:
        assert sorted(found.files) == ["0/y", "1/y", "milliseconds", "timed"]
        assert str(found["timed"]) == "x 8x3 (rows of sample 0 repeated or cut)"
        assert float(found["milliseconds"]) == 0.5
