"""Bad and hostile input through the real command line: a sentence, an exit code, nothing left."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from planish.cli import main

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and links as on Linux")

SPACE = 8 << 30
"""Bytes of address space: the runtime's threads reserve much and use little of it."""
SCREEN = 24
EVIL = "\x1b]0;owned\x07\x1b[2J[red]x[/red]<script>alert(1)</script>../../up\r\nerror: \u202egp"

Spoil = Callable[[onnx.ModelProto], None]


def linear() -> onnx.ModelProto:
    """x float[2, 4] -> y, through a weight and a Relu."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
        [numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")],
    )
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 20)])


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def planish(folder: Path, *words: str, space: int = SPACE) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, in ``folder``."""
    return subprocess.run(
        [sys.executable, "-m", "planish", *words], cwd=folder, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (space, space)), timeout=120,
    )  # fmt: skip


def refused(folder: Path, words: list[str], code: int, *parts: str) -> None:
    before = listing(folder)
    done = planish(folder, *words)
    shown = done.stdout + done.stderr
    assert done.returncode == code, shown
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in shown
    assert len(done.stderr.splitlines()) <= SCREEN
    assert shown.replace("\n", "").isprintable()
    for part in parts:
        assert part in done.stderr, f"{part!r} is not in:\n{done.stderr}"
    assert listing(folder) == before


# The list of bad input.


def circle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "y"


def two_of_a_name(model: onnx.ModelProto) -> None:
    model.graph.node[1].output[0] = "h"


def unknown_domain(model: onnx.ModelProto) -> None:
    model.graph.node[1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def unimported_domain(model: onnx.ModelProto) -> None:
    model.graph.node[1].domain = "com.example"


def outside(location: str, length: int = 64) -> Spoil:
    def spoil(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)

    return spoil


def huge_shape(model: onnx.ModelProto) -> None:
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 6_250_000_000


@pytest.mark.parametrize(
    ("spoil", "code", "parts"),
    [
        (circle, 3, ["circle"]),
        (two_of_a_name, 3, ["'h' is defined twice"]),
        (unknown_domain, 4, ["com.example"]),
        (unimported_domain, 3, ["com.example"]),
        (outside("missing.bin"), 3, ["missing.bin", "is missing"]),
        (outside("short.bin"), 3, ["ends at 60 bytes", "64 are needed"]),
        (outside("../outside.bin"), 3, ["../outside.bin", "outside the model's folder"]),
        (outside("/etc/hostname"), 3, ["/etc/hostname"]),
        (outside("link.bin"), 3, ["link.bin", "a link to"]),
        (outside("linked/w.bin"), 3, ["linked/w.bin", "a link to"]),
        (outside("twin.bin"), 3, ["hard links"]),
        (outside("folder"), 3, ["not a regular file"]),
        (outside("pipe"), 3, ["not a regular file"]),
        (huge_shape, 3, ["100 GB"]),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_bad_model(tmp_path: Path, spoil: Spoil, code: int, parts: list[str]) -> None:
    (tmp_path / "outside.bin").write_bytes(bytes(64))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "w.bin").write_bytes(bytes(64))
    folder = tmp_path / "here"
    (folder / "folder").mkdir(parents=True)
    (folder / "short.bin").write_bytes(bytes(60))
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "one.bin").write_bytes(bytes(64))
    os.link(folder / "one.bin", folder / "twin.bin")
    os.mkfifo(folder / "pipe")
    model = linear()
    spoil(model)
    onnx.save(model, folder / "model.onnx")
    refused(folder, ["compile", "model.onnx", "-o", "out"], code, "model.onnx", *parts)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "folder.onnx").mkdir()
    os.mkfifo(tmp_path / "pipe.onnx")
    for name, part in (("empty", "empty"), ("folder", "folder"), ("pipe", "not a regular file")):
        refused(tmp_path, ["compile", f"{name}.onnx", "-o", "out"], 3, f"{name}.onnx", part)


def test_an_input_that_is_also_an_initializer_compiles_with_a_note(tmp_path: Path) -> None:
    model = linear()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 4]))
    onnx.save(model, tmp_path / "model.onnx")
    done = planish(tmp_path, "compile", "model.onnx", "-o", "out", "--passes", "canonicalize")
    assert done.returncode in (0, 8), done.stderr
    assert "they are constants now" in " ".join(done.stdout.split())
    assert [v.name for v in onnx.load(tmp_path / "out" / "model.onnx").graph.input] == ["x"]


def test_names_do_no_harm_on_the_screen_or_in_a_page(tmp_path: Path) -> None:
    model = linear()
    rename = {"x": f"x{EVIL}", "y": f"y{EVIL}", "w": f"w{EVIL}"}
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.name = rename[value.name]
    for node in model.graph.node:
        node.name = f"{node.op_type}{EVIL}"
        for names in (node.input, node.output):
            names[:] = [rename.get(name, name) for name in names]
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = f"batch{EVIL}"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = f"batch{EVIL}"
    model.producer_name = EVIL
    (tmp_path / "in").mkdir()
    onnx.save(model, tmp_path / "in" / "model.onnx")
    for words in (
        ["inspect", "model.onnx"],
        ["inspect", "model.onnx", "--json"],
        ["compile", "model.onnx", "-o", "out", "--passes", "canonicalize,quantize", "-v"],
        ["verify", "out"],
    ):
        done = planish(tmp_path / "in", *words)
        shown = done.stdout + done.stderr
        assert done.returncode in (0, 6, 8), shown
        assert shown.replace("\n", "").isprintable(), repr(shown)
        assert words[0] != "inspect" or "\\nerror: " in shown
    out = tmp_path / "in" / "out"
    for page in ("report.md", "README.md", "manifest.json"):
        text = (out / page).read_text("utf8")
        assert text.replace("\n", "").isprintable()
        assert page == "manifest.json" or "<script" not in re.sub("`[^`]*`", "", text)
    found = {v.name for v in onnx.load(out / "model.onnx").graph.input}
    assert found == {f"x{EVIL}"}, "the signature keeps its names"
    assert {p.name for p in tmp_path.iterdir()} == {"in"}, "no name became a path"
    assert {p.parts[0] for p in (p.relative_to(out) for p in out.rglob("*"))} == {
        "README.md", "manifest.json", "model.onnx", "report.html", "report.md", "samples", "stages",
        "verify.py",
    }  # fmt: skip


# Files that change, and two at once.


METRIC = """
import os, time
from pathlib import Path

def metric(run):
    {change}
    return 1.0
"""
CHANGES = {
    "the model": "Path('model.onnx').write_bytes(Path('model.onnx').read_bytes())",
    "the weights": "Path('w.bin').write_bytes(bytes(64))",
    "the link": "os.path.lexists('other') and os.replace('other', 'w.bin')",
    "gone": "Path('w.bin').unlink(missing_ok=True)",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_compiled(tmp_path: Path, change: str) -> None:
    model = linear()
    outside("w.bin")(model)
    (tmp_path / "w.bin").write_bytes(np.eye(4, dtype=np.float32).tobytes())
    (tmp_path / "real.bin").write_bytes(bytes(64))
    (tmp_path / "other").symlink_to("real.bin")
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "metric.py").write_text(METRIC.format(change=CHANGES[change]))
    done = planish(
        tmp_path, "compile", "model.onnx", "-o", "out", "--evaluate", "metric.py:metric",
        "--passes", "canonicalize",
    )  # fmt: skip
    assert done.returncode == 3, done.stdout + done.stderr
    told = "cannot be read" if change == "gone" else "changed while planish was working with it"
    assert told in done.stderr
    assert ("model.onnx" if change == "the model" else "w.bin") in done.stderr
    assert not (tmp_path / "out").exists()


def begin(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "planish", *words], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_two_compiles_into_one_folder(tmp_path: Path, force: list[str]) -> None:
    """One artifact is there in the end, whole; without --force the other says why not."""
    for name in ("first", "second"):
        model = linear()
        model.graph.initializer[0].CopyFrom(
            numpy_helper.from_array(np.full((4, 4), len(name), np.float32), "w")
        )
        onnx.save(model, tmp_path / f"{name}.onnx")
    words = ["-o", "out", "--passes", "canonicalize", *force]
    running = [begin(tmp_path, "compile", f"{n}.onnx", *words) for n in ("first", "second")]
    done = [(process.communicate(timeout=120), process.returncode) for process in running]
    codes = sorted(code for _, code in done)
    for (_, error), code in done:
        assert code in (0, 2, 8), error
        assert "Traceback" not in error
        assert code != 2 or "with something in it" in error
    assert sum(code in (0, 8) for code in codes) == (2 if force else 1)
    assert listing(tmp_path / "out")[0] == "README.md"
    assert planish(tmp_path, "verify", "out").returncode == 0
    assert {p.name for p in tmp_path.iterdir()} == {"first.onnx", "second.onnx", "out"}


# Data, plans and targets made to do harm.


def test_an_archive_that_unpacks_to_100_gb(tmp_path: Path) -> None:
    onnx.save(linear(), tmp_path / "model.onnx")
    shape = b"{'descr': '<f4', 'fortran_order': False, 'shape': (6250000000, 4), }"
    header = b"\x93NUMPY\x01\x00v\x00" + shape
    with zipfile.ZipFile(tmp_path / "claims.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header.ljust(128) + bytes(1000))
    with zipfile.ZipFile(tmp_path / "zeros.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(1 << 24))
    data = bytearray((tmp_path / "zeros.npz").read_bytes())
    end = data.rindex(b"PK\x01\x02")  # the directory says 100 GB, as a bomb of bombs would
    data[end + 24 : end + 28] = (2**32 - 2**20).to_bytes(4, "little")
    (tmp_path / "lies.npz").write_bytes(data)
    for name in ("claims.npz", "lies.npz"):
        words = ["compile", "model.onnx", "--calibration", name, "-o", "out"]
        refused(tmp_path, words, 3, name)


@pytest.fixture
def quick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """The command line in this process."""
    monkeypatch.chdir(tmp_path)
    onnx.save(linear(), tmp_path / "model.onnx")

    def run(*words: str) -> tuple[int, str]:
        capfd.readouterr()
        code = main(words)
        return code, capfd.readouterr().err

    return run


PLANS = {
    "deep": "[" * 200_000,
    "a long number": '{"pipeline": ' + "9" * 10_000 + "}",
    "a list": "[]",
    "no text": '{"schema": "planish-plan/1", "pipeline": 3}',
    "no table": '{"schema": "planish-plan/1", "pipeline": "", "given_back": []}',
    "no list": '{"schema": "planish-plan/1", "pipeline": "", "spellings": {"a": 1}}',
    "no number": '{"schema": "planish-plan/1", "pipeline": NaN}',
    "an escape": '{"schema": "\\u001b[2J"}',
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_made_to_do_harm(
    quick: Callable[..., tuple[int, str]], tmp_path: Path, name: str
) -> None:
    (tmp_path / "plan.json").write_text(PLANS[name])
    before = listing(tmp_path)
    code, error = quick("compile", "model.onnx", "-o", "out", "--plan", "plan.json")
    assert code == 3
    assert error.startswith("error: ")
    assert "plan.json" in error
    assert error.replace("\n", "").isprintable()
    assert len(error) < 5000
    assert listing(tmp_path) == before


def test_a_plan_of_a_gigabyte_is_not_read(
    quick: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    with (tmp_path / "plan.json").open("wb") as file:
        file.truncate(1 << 30)
    code, error = quick("compile", "model.onnx", "-o", "out", "--plan", "plan.json")
    assert code == 3
    assert "larger than 256 MB" in error


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 100_000, "a = " + "9" * 10_000, "[a" + ".a" * 50_000 + "]", "\x1b = 1"]
)
def test_a_target_made_to_do_harm(
    quick: Callable[..., tuple[int, str]], tmp_path: Path, text: str
) -> None:
    (tmp_path / "mine.toml").write_text(text)
    code, error = quick("compile", "model.onnx", "-o", "out", "--target", "mine.toml")
    assert code == 4
    assert "mine.toml" in error
    assert error.replace("\n", "").isprintable()
    assert len(error) < 5000


def test_a_target_of_a_gigabyte_is_not_read(
    quick: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    with (tmp_path / "mine.toml").open("wb") as file:
        file.truncate(1 << 30)
    code, error = quick("compile", "model.onnx", "-o", "out", "--target", "mine.toml")
    assert code == 4
    assert "never larger" in error


def test_a_manifest_made_to_do_harm(quick: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """``verify`` reads files that a manifest names: inside the artifact only."""
    code, error = quick("compile", "model.onnx", "-o", "out", "--passes", "canonicalize")
    assert code in (0, 8), error
    path = tmp_path / "out" / "manifest.json"
    document = json.loads(path.read_text("utf8"))
    (tmp_path / "secret").write_text("secret")
    for name in ("../secret", "/etc/hostname"):
        document["files"] = {name: {"bytes": 6, "sha256": "0" * 64}}
        document["samples"] = [name]
        path.write_text(json.dumps(document))
        code, error = quick("verify", "out")
        assert code == 3
        assert "Traceback" not in error


def test_no_memory_is_an_error_like_others(
    quick: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("planish.compiler.driver.prepare", full)
    code, error = quick("compile", "model.onnx", "-o", "out")
    assert code == 1
    assert error.startswith("error: there is not enough memory")
