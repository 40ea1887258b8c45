"""The scripts for a machine with the GPU: valid, with the arguments that the artifact needs.

There is no TensorRT here. ``build.sh`` is run with a program in trtexec's place that prints what it
was called with; ``build_engine.py`` with a module in tensorrt's place that records its calls.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from planish.compiler.reporting.kit import write_kit
from planish.compiler.result import Engine

NASTY = (
    "in,put 'a'$(touch PWNED)", "$(touch PWNED)", "`touch PWNED`", "x$1", "x${HOME}", 'x"y', "x\\",
    "it's", "'; touch PWNED; '", "x;touch PWNED", "x\ntouch PWNED\n", "a b", "*", "~", "-x", "#x",
    "!x", "x\r", "input:0", "a:b:0", ":", "x:", ":'", "a,b", "\u00e9\u202e", "{{ 7 * 7 }}",
    "END\n", "x&&touch PWNED", "x|touch PWNED", "%s%n", "a=b", "</script>", "\x1b[2J",
)  # fmt: skip
"""What a name in a model file may hold, and shells, printf, templates or trtexec may act on."""
PROFILE: dict[str, dict[str, tuple[int, ...]]] = {
    "ids": {"min": (1, 16), "opt": (8, 32), "max": (8, 128)},
    "gain": {"min": (), "opt": (), "max": ()},
}
OPEN = Engine(PROFILE, True, "10", ("checked",), {"y": 0.5}, open_axes=2)
FIXED = Engine({"x": {"min": (1, 3), "opt": (1, 3), "max": (1, 3)}}, False, "10.8")
TRTEXEC = """#!/usr/bin/env bash
echo '&&&& RUNNING TensorRT.trtexec [TensorRT v{version}] [b1] # trtexec'
if [[ "$1" == --help ]]; then echo '  {help}'; exit 0; fi
printf 'argument %s\\n' "$@"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_kit(OPEN, tmp_path)
    return tmp_path


def build(folder: Path, version: str, text: str, *words: str, **more: str) -> tuple[int, list[str]]:
    """Run build.sh with a trtexec of a version; its status and the arguments of the build."""
    program = folder / "trtexec"
    program.write_text(TRTEXEC.format(version=version, help=text))
    program.chmod(0o755)
    environment = {**os.environ, "TRTEXEC": str(program), **more}
    done = subprocess.run(
        [str(folder / "build.sh"), *words], capture_output=True, text=True, env=environment
    )
    lines = [line.partition(" ")[2] for line in done.stdout.splitlines() if "argument " in line]
    return done.returncode, lines or (done.stdout + done.stderr).splitlines()


def test_the_scripts_are_valid(folder: Path) -> None:
    subprocess.run(["bash", "-n", str(folder / "build.sh")], check=True)
    for name in ("build_engine.py", "run.py"):
        compile((folder / name).read_text(), name, "exec")
        assert os.access(folder / name, os.X_OK)


@pytest.mark.parametrize(
    ("version", "text", "typed"),
    [("101300", "--stronglyTyped  Create a strongly typed network", True), ("110100", "", False)],
)
def test_trtexec_gets_what_it_needs(folder: Path, version: str, text: str, typed: bool) -> None:
    status, arguments = build(folder, version, text, "--noTF32")
    assert status == 0
    assert ("--stronglyTyped" in arguments) == typed
    assert {
        f"--onnx={folder}/model.onnx", f"--saveEngine={folder}/model.plan", "--sparsity=enable",
        "--minShapes=ids:1x16", "--optShapes=ids:8x32", "--maxShapes=ids:8x128", "--noTF32",
        f"--timingCacheFile={folder}/timing.cache", f"--exportLayerInfo={folder}/layers.json",
    } <= set(arguments)  # fmt: skip
    assert not {"--fp16", "--int8", "--best"} & set(arguments)


def test_shapes_can_be_given_to_the_script(folder: Path) -> None:
    _, arguments = build(folder, "101300", "", MAX_SHAPES="ids:64x512")
    assert "--maxShapes=ids:64x512" in arguments
    assert "--minShapes=ids:1x16" in arguments


RECORDING = """#!{python}
import json, pathlib, sys
print("&&&& RUNNING TensorRT.trtexec [TensorRT v101300] [b1] # trtexec")
if sys.argv[1] != "--help":
    pathlib.Path({calls!r}).write_text(json.dumps(sys.argv[1:]))
"""


def recorded(folder: Path, **more: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run build.sh with a trtexec that notes its arguments as they are; those of the build."""
    program, calls = folder / "trtexec", folder / "calls.json"
    program.write_text(RECORDING.format(python=sys.executable, calls=str(calls)))
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", str(folder / "build.sh")], capture_output=True, text=True, cwd=folder,
        env={**os.environ, "TRTEXEC": str(program), **more},
    )  # fmt: skip
    return done, json.loads(calls.read_text()) if calls.exists() else []


def understood(arguments: list[str], option: str) -> dict[str, list[int]]:
    """Shapes as trtexec reads them: by commas, then by quotes, else by the last colon."""
    (text,) = [a.partition("=")[2] for a in arguments if a.startswith(f"{option}=")]
    found = {}
    for part in text.split(","):
        quoted = part.split("'")
        assert len(quoted) in (1, 3), part
        name, _, shape = part.rpartition(":")
        if len(quoted) == 3:
            name, shape = quoted[0] + quoted[1], quoted[2][1:]
        found[name] = [int(size) for size in shape.split("x")]
    return found


RANGE: dict[str, tuple[int, ...]] = {"min": (1, 2), "opt": (3, 4), "max": (5, 6)}
UNTOLD = tuple(name for name in NASTY if set(name) & {",", "'"})


def test_names_out_of_a_model_are_never_run(tmp_path: Path) -> None:
    told = [name for name in NASTY if name not in UNTOLD]
    assert len(told) > 20
    write_kit(Engine(dict.fromkeys(told, RANGE), False, "10", open_axes=1), tmp_path)
    subprocess.run(["bash", "-n", str(tmp_path / "build.sh")], check=True)
    done, arguments = recorded(tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(arguments) == 8
    for which in ("min", "opt", "max"):
        wanted = {name: list(RANGE[which]) for name in told}
        assert understood(arguments, f"--{which}Shapes") == wanted
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("name", UNTOLD)
def test_names_that_trtexec_would_split_are_not_told_to_it(tmp_path: Path, name: str) -> None:
    write_kit(Engine({name: RANGE, "plain": RANGE}, False, "10", open_axes=1), tmp_path)
    subprocess.run(["bash", "-n", str(tmp_path / "build.sh")], check=True)
    done, arguments = recorded(tmp_path)
    assert (done.returncode, arguments) == (2, [])
    assert "use build_engine.py" in done.stderr
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("name", [UNTOLD[0], 'x"y\\', "x\n$(touch PWNED)\x1b"])
def test_the_python_script_takes_every_name(tmp_path: Path, name: str) -> None:
    write_kit(Engine({name: RANGE}, False, "10", open_axes=1), tmp_path)
    done, calls = engine(tmp_path, name=name)
    assert done.returncode == 0, done.stderr
    given = dict(calls)["create_optimization_profile.set_shape"]
    assert given == [name, "[1, 2]", "[3, 4]", "[5, 6]"]
    assert not (tmp_path / "PWNED").exists()


def test_names_of_fixed_shapes_stand_in_no_script(tmp_path: Path) -> None:
    same = dict.fromkeys(("min", "opt", "max"), (1, 3))
    write_kit(Engine(dict.fromkeys(NASTY, same), False, "10"), tmp_path)
    done, arguments = recorded(tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(arguments) == 5
    assert not (tmp_path / "PWNED").exists()


def test_a_name_with_a_colon_reaches_trtexec_in_quotes(tmp_path: Path) -> None:
    write_kit(Engine({"input:0": RANGE, "b": RANGE}, False, "10", open_axes=1), tmp_path)
    _, arguments = recorded(tmp_path)
    assert "--minShapes='input:0':1x2,b:1x2" in arguments
    _, arguments = recorded(tmp_path, MIN_SHAPES="$(touch PWNED):1x2")
    assert "--minShapes=$(touch PWNED):1x2" in arguments
    assert not (tmp_path / "PWNED").exists()


def test_a_version_is_a_text_in_every_script(tmp_path: Path) -> None:
    """Targets are files of users."""
    write_kit(Engine(PROFILE, False, '10"; touch PWNED; "$(touch PWNED)', open_axes=2), tmp_path)
    subprocess.run(["bash", "-n", str(tmp_path / "build.sh")], check=True)
    recorded(tmp_path)
    engine(tmp_path)
    assert not (tmp_path / "PWNED").exists()


def test_fixed_shapes_and_dense_weights_need_no_arguments(tmp_path: Path) -> None:
    write_kit(FIXED, tmp_path)
    status, arguments = build(tmp_path, "101300", "--stronglyTyped")
    assert status == 0
    assert not any("Shapes" in a or "sparsity" in a for a in arguments)


@pytest.mark.parametrize("version", ["8601", "100300"])
def test_an_old_trtexec_is_refused(tmp_path: Path, version: str) -> None:
    write_kit(FIXED, tmp_path)
    status, said = build(tmp_path, version, "--stronglyTyped")
    assert status == 2
    assert "needs TensorRT 10.8 or newer" in said[-1]


def test_without_trtexec_the_script_says_so(folder: Path) -> None:
    done = subprocess.run(
        [str(folder / "build.sh")], capture_output=True, text=True,
        env={**os.environ, "TRTEXEC": "no-such-trtexec"},
    )  # fmt: skip
    assert done.returncode == 2
    assert "build_engine.py" in done.stderr


RECORDER = '''
"""Stands for tensorrt: notes what is called, and answers what the script goes on with."""
import atexit, json, pathlib
__version__ = "{version}"
CALLS = []
class Thing:
    def __init__(self, _name, **known):
        self.__dict__.update(known, _name=_name)
    def __getattr__(self, word):
        return Thing(self._name + "." + word)
    def __setattr__(self, word, value):
        CALLS.append([self._name + "." + word + "=", [str(value)]])
    def __call__(self, *arguments, **named):
        CALLS.append([self._name, [str(a) for a in (*arguments, *named.values())]])
        return ANSWERS.get(self._name, Thing(self._name.rpartition(".")[2]))
    def __int__(self):
        return 1
    def __str__(self):
        return self._name
ANSWERS = {{
    "Builder": Thing("builder"),
    "builder.create_network": Thing("network", num_inputs=1),
    "network.get_input": Thing("input", name="ids", shape=(-1, -1), is_shape_tensor={decides}),
    "OnnxParser": Thing("parser", num_errors=1),
    "parser.parse_from_file": {parses},
    "builder.build_serialized_network": b"engine",
    "create_timing_cache.serialize": b"cache",
    "create_engine_inspector.get_engine_information": "{{}}",
}}
def __getattr__(word):
    return Thing(word)
atexit.register(lambda: pathlib.Path("calls.json").write_text(json.dumps(CALLS)))
'''


def engine(
    folder: Path,
    *words: str,
    version: str = "10.13.0",
    parses: bool = True,
    decides: bool = False,
    name: str = "ids",
) -> tuple[subprocess.CompletedProcess[str], list[Any]]:
    """Run build_engine.py with the recorder; how it ended, and the calls with their arguments."""
    module = RECORDER.format(version=version, parses=parses, decides=decides)
    named = module.replace('name="ids"', f"name={name!r}")
    (folder / "tensorrt.py").write_text(named, encoding="utf8")
    done = subprocess.run(
        [sys.executable, "build_engine.py", *words], cwd=folder, capture_output=True, text=True
    )
    calls = folder / "calls.json"
    return done, json.loads(calls.read_text()) if calls.exists() else []


def test_the_python_api_is_called_as_documented(folder: Path) -> None:
    done, calls = engine(folder, "--workspace", "2", "--level", "4")
    assert done.returncode == 0, done.stderr
    names = [name for name, _ in calls]
    known = dict(calls)
    assert known["builder.create_network"] == ["2"]  # 1 << STRONGLY_TYPED
    assert known["parser.parse_from_file"] == [str(folder / "model.onnx")]
    assert known["create_builder_config.set_flag"] == ["BuilderFlag.SPARSE_WEIGHTS"]
    assert known["create_builder_config.set_memory_pool_limit"][1] == "2000000000"
    shape = ["ids", "[1, 16]", "[8, 32]", "[8, 128]"]
    assert known["create_optimization_profile.set_shape"] == shape
    assert names.index("create_builder_config.set_timing_cache") < names.index(
        "builder.build_serialized_network"
    )
    assert (folder / "model.plan").read_bytes() == b"engine"
    assert (folder / "timing.cache").read_bytes() == b"cache"
    assert (folder / "layers.json").read_text() == "{}"


def test_sparse_kernels_can_be_left_out(folder: Path) -> None:
    _, calls = engine(folder, "--dense")
    assert "create_builder_config.set_flag" not in dict(calls)


def test_numbers_that_decide_shapes_have_a_profile_of_their_own(tmp_path: Path) -> None:
    values = {"ids": {"min": (1, 2), "opt": (3, 4), "max": (5, 6)}}
    known = {"ids": {"min": (2,), "opt": (2,), "max": (2,)}}
    write_kit(Engine(known, False, "10", values=values), tmp_path)
    done, calls = engine(tmp_path, decides=True)
    assert done.returncode == 0, done.stderr
    given = dict(calls)["create_optimization_profile.set_shape_input"]
    assert given == ["ids", "[1, 2]", "[3, 4]", "[5, 6]"]
    assert "create_optimization_profile.set_shape" not in dict(calls)
    _, arguments = build(tmp_path, "101300", "")
    assert {"--minShapes=ids:1x2", "--optShapes=ids:3x4", "--maxShapes=ids:5x6"} <= set(arguments)


def test_numbers_that_nobody_gave_are_asked_for(folder: Path) -> None:
    done, _ = engine(folder, decides=True)
    assert done.returncode == 1
    assert "give its values in profiles.json" in done.stderr


def test_a_profile_that_was_edited_counts(folder: Path) -> None:
    profile = json.loads((folder / "profiles.json").read_text())
    profile["ids"]["max"] = [32, 256]
    (folder / "profiles.json").write_text(json.dumps(profile))
    _, calls = engine(folder)
    assert dict(calls)["create_optimization_profile.set_shape"][-1] == "[32, 256]"


def test_what_the_parser_refuses_ends_with_a_status(folder: Path) -> None:
    done, _ = engine(folder, parses=False)
    assert done.returncode == 1
    assert not (folder / "model.plan").exists()


def test_an_old_or_missing_package_is_named(folder: Path) -> None:
    done, _ = engine(folder, version="8.6.1")
    assert (done.returncode, "10 or newer" in done.stderr) == (2, True)
    (folder / "tensorrt.py").unlink()
    done = subprocess.run(
        [sys.executable, "-I", str(folder / "build_engine.py")], capture_output=True, text=True
    )
    assert (done.returncode, "pip install tensorrt" in done.stderr) == (2, True)
    done = subprocess.run(
        [sys.executable, str(folder / "run.py")], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 1
    assert "tensorrt cannot be imported" in done.stdout
