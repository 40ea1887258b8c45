"""Bad input to ``planish compile``: one screen of what, where, what to do; nothing left behind."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

from planish.cli import main

Planish = Callable[..., subprocess.CompletedProcess[str]]
Spoil = Callable[[Path], None]

SCREEN = 24


@pytest.fixture
def planish(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Planish:
    """``planish`` in this process, which saves a second each; outputs of C++ are seen, too."""
    monkeypatch.chdir(folder)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        code = main(words)
        return subprocess.CompletedProcess(words, code, *capfd.readouterr())

    return run


@pytest.fixture
def folder(tmp_path: Path, made: ModuleType) -> Path:
    """The working folder: model.onnx (x [batch, 4] -> y, label) and data.npz for it."""
    made.save_model(tmp_path / "model.onnx")
    save_data(tmp_path, x=np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32))
    return tmp_path


def save_data(folder: Path, **arrays: np.ndarray) -> None:
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def check(planish: Planish, folder: Path, words: list[str], code: int, *parts: str) -> None:
    """The command fails with the code and a one-screen message, and changes nothing."""
    before = listing(folder)
    done = planish("compile", *words)
    shown = done.stdout + done.stderr
    assert done.returncode == code, shown
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in shown
    assert len(done.stderr.splitlines()) <= SCREEN
    for part in parts:
        assert part in done.stderr, f"{part!r} is not in:\n{done.stderr}"
    assert listing(folder) == before


def truncate(folder: Path) -> None:
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content[: len(content) // 2])


def empty(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"")


def text(folder: Path) -> None:
    (folder / "model.onnx").write_text("this is no model\n" * 9)


def remove(folder: Path) -> None:
    (folder / "model.onnx").rename(folder / "modle.onnx")


def make_folder(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()


def lose_an_initializer(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    kept = [tensor for tensor in model.graph.initializer if tensor.name != "weight"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.save(model, folder / "model.onnx")


def put_a_nan_into_a_weight(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).copy()
        array.flat[0] = np.nan if tensor.name == "weight" else array.flat[0]
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(model, folder / "model.onnx")


def lose_external_data(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="w.bin",
              size_threshold=0)  # fmt: skip
    (folder / "w.bin").unlink()


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (remove, ["model.onnx"]),
        (make_folder, ["model.onnx", "folder"]),
        (empty, ["model.onnx", "empty"]),
        (text, ["model.onnx", "ONNX"]),
        (truncate, ["model.onnx"]),
        (lose_an_initializer, ["'weight'"]),
        (put_a_nan_into_a_weight, ["'weight'", "NaN"]),
        (lose_external_data, ["w.bin"]),
    ],
)
def test_a_bad_model(planish: Planish, folder: Path, spoil: Spoil, parts: list[str]) -> None:
    spoil(folder)
    check(planish, folder, ["model.onnx", "-o", "out"], 3, *parts, "where:", "try:")


def x(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    return np.ones(shape, dtype)


def one_nan() -> np.ndarray:
    array = x((24, 4))
    array[7, 2] = np.nan
    return array


@pytest.mark.parametrize(
    ("arrays", "parts"),
    [
        ({"inputs": x((24, 4))}, ["'x'", "inputs"]),
        ({"x": x((24, 4)), "z": x((24, 4))}, ["'z'"]),
        ({"x": x((24, 4), "float64")}, ["'x'", "float64", "float32"]),
        ({"x": x((24, 4), "int32")}, ["'x'", "int32", "float32"]),
        ({"x": x((24,))}, ["'x'"]),
        ({"x": x((24, 5))}, ["'x'", "5", "4"]),
        ({"x": one_nan()}, ["'x'", "NaN"]),
        ({"x": x((0, 4))}, ["data.npz"]),
        ({}, ["data.npz"]),
    ],
)
@pytest.mark.parametrize("option", ["--calibration", "--holdout"])
def test_bad_data(
    planish: Planish, folder: Path, option: str, arrays: dict[str, np.ndarray], parts: list[str]
) -> None:
    save_data(folder, **arrays)
    check(planish, folder, ["model.onnx", option, "data.npz", "-o", "out"], 3, *parts, "where:")


def test_data_that_is_no_data(planish: Planish, folder: Path) -> None:
    (folder / "text.npz").write_text("no archive")
    (folder / "empty").mkdir()
    for name in ("missing.npz", "text.npz", "empty"):
        check(planish, folder, ["model.onnx", "--calibration", name, "-o", "out"], 3, name)


def test_pickled_data_is_not_unpickled(planish: Planish, folder: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (eval, ("open('exploded', 'w').close()",))

    save_data(folder, x=np.array([Bomb()], dtype=object))
    check(planish, folder, ["model.onnx", "--calibration", "data.npz", "-o", "out"], 3, "data.npz")
    assert not (folder / "exploded").exists()


EVALUATIONS = """
def raises(run):
    return 1 / 0

def a_string(run):
    return "very good"

def nothing(run):
    pass

def not_a_number(run):
    return float("nan")
"""


@pytest.mark.parametrize(
    ("function", "code", "parts"),
    [
        ("raises", 3, ["ZeroDivisionError", "metric.py:3"]),
        ("a_string", 3, ["str"]),
        ("nothing", 3, ["None"]),
        ("not_a_number", 3, ["NaN"]),
        ("rases", 3, ["'rases'", "'raises'"]),
        ("", 2, ["metric.py:", "file.py:function"]),
    ],
)
def test_a_bad_evaluation(
    planish: Planish, folder: Path, function: str, code: int, parts: list[str]
) -> None:
    (folder / "metric.py").write_text(EVALUATIONS)
    words = ["model.onnx", "--calibration", "data.npz", "--evaluate", f"metric.py:{function}"]
    check(planish, folder, [*words, "-o", "out"], code, *parts)


MODELS = """
import missing_package

def model():
    pass
"""


def test_a_bad_model_function(planish: Planish, folder: Path) -> None:
    (folder / "nets.py").write_text(MODELS)
    (folder / "none.py").write_text("def model():\n    return 3\n")
    check(planish, folder, ["nets.py", "-o", "out"], 2, "nets.py:function")
    check(planish, folder, ["nets.py:model", "-o", "out"], 3, "missing_package", "nets.py:2")
    check(planish, folder, ["none.py:model", "-o", "out"], 3, "int", "(module, example_inputs")
    check(planish, folder, ["none.py:modle", "-o", "out"], 3, "'modle'", "'model'")


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (["--target", "x86-avx512"], 2, ["'x86-avx512'", "'x86-avx512-vnni'"]),
        (["--target", "none.toml"], 2, ["none.toml"]),
        (["--passes", "canonicalise"], 2, ["'canonicalise'", "'canonicalize'"]),
        (["--passes", "canonicalize,quantize{shceme=static}"], 2, ["'shceme'", "'scheme'"]),
        (["--passes", "canonicalize,quantize{scheme=statc}"], 2, ["statc", "'static'"]),
        (["--passes", "canonicalize,,quantize"], 2, [","]),
        (["--passes", "canonicalize,quantize@liner1"], 2, ["'liner1'", "'linear1'"]),
        (["--passes", "canonicalize,quantize{exclude=liner1}"], 2, ["'liner1'", "'linear1'"]),
        (["--plan", "plan.json"], 3, ["plan.json"]),
        (["--token-mask", "maks"], 2, ["'maks'"]),
        (["--max-drop", "0.5"], 2, ["--evaluate"]),
        (["--max-drift", "cosin=0.9"], 2, ["cosin", "cosine"]),
        (["--max-drift", "cosine"], 2, ["cosine"]),
        (["--goal", "speed"], 2, ["speed"]),
    ],
)
def test_bad_names_and_values(
    planish: Planish, folder: Path, words: list[str], code: int, parts: list[str]
) -> None:
    check(planish, folder, ["model.onnx", "-o", "out", *words], code, *parts, "try:")


def test_a_bad_target_file_names_its_line(planish: Planish, folder: Path) -> None:
    (folder / "mine.toml").write_text('extends = "generic"\nname = "mine"\nmin_gem = 3\n')
    check(planish, folder, ["model.onnx", "--target", "mine.toml", "-o", "out"], 4,
          "min_gem", "mine.toml:3", "min_gemm")  # fmt: skip


def test_an_output_that_is_there(planish: Planish, folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "mine.txt").write_text("precious")
    check(planish, folder, ["model.onnx", "-o", "out"], 2, "'out'", "--force")
    assert (folder / "out" / "mine.txt").read_text() == "precious"


def test_an_output_that_cannot_be(planish: Planish, folder: Path) -> None:
    check(planish, folder, ["model.onnx", "-o", "data.npz"], 2, "'data.npz'", "is a file")
    check(planish, folder, ["model.onnx", "-o", "data.npz", "--force"], 2, "is a file")
    check(planish, folder, ["model.onnx", "-o", "data.npz/out"], 2, "cannot be written")
    check(planish, folder, ["model.onnx", "-o", "/proc/planish/out"], 2, "cannot be written")
    check(planish, folder, ["model.onnx", "-o", ".", "--force"], 2, "'model.onnx'")


def test_force_keeps_what_is_there_when_the_compile_fails(planish: Planish, folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "mine.txt").write_text("precious")
    words = ["model.onnx", "-o", "out", "--force", "--passes", "canonicalize,quantize@nope"]
    check(planish, folder, words, 2, "'nope'")


def start(folder: Path, *words: str, limit: int = 0) -> subprocess.Popen[str]:
    """``planish compile`` in folder, in the background; limit: bytes that a file may have."""

    def restrict() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, "-m", "planish", "compile", *words],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=restrict,
    )  # fmt: skip


@pytest.mark.parametrize("limit", [100, 1500])
def test_a_full_disk_while_saving(folder: Path, limit: int) -> None:
    """Files cannot grow: the model itself with 100 bytes, the documents with 1500."""
    before = listing(folder)
    process = start(folder, "model.onnx", "-o", "deep/out", "--passes", "canonicalize", limit=limit)
    output, error = process.communicate()
    assert process.returncode == 1, output + error
    assert error.startswith("error: ")
    assert "space" in error.partition("try:")[2]
    assert "Traceback" not in error
    assert listing(folder) == before


SLOW = """
import time
from pathlib import Path

def metric(run):
    Path("started").touch()
    time.sleep(60)
    return 1.0
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_in_the_middle(folder: Path, number: signal.Signals, code: int) -> None:
    (folder / "slow.py").write_text(SLOW)
    before = listing(folder)
    process = start(folder, "model.onnx", "-o", "deep/out", "--calibration", "data.npz",
                    "--evaluate", "slow.py:metric")  # fmt: skip
    while not (folder / "started").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    output, error = process.communicate(timeout=30)
    assert process.returncode == code, output + error
    if number == signal.SIGINT:
        assert error == "interrupted, nothing was written\n"
    assert "Traceback" not in error
    (folder / "started").unlink()
    assert listing(folder) == before
