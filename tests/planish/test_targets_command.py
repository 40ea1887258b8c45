"""``planish targets``: shown, compared, written and checked; and what cannot be compiled for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from planish.cli import main
from planish.targets.loader import load_target, target_names
from planish.targets.techniques import TECHNIQUES

MINE = 'name = "mine"\nsummary = "Mine"\nkind = "machine"\nextends = "x86-avx2"\n'


def run(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    assert main(["targets", *words]) == status
    found = capsys.readouterr()
    return found.out + found.err


def document(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> Any:
    assert main(["targets", *words, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_the_list_tells_what_can_be_done_with_each(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [re.split(r"  +", line) for line in run(capsys, "list").splitlines()[1:]]
    assert [row[1] for row in rows] == sorted(
        (row[1] for row in rows), key=["host", "class", "machine"].index
    )
    by_name = {row[0]: row[1:4] for row in rows}
    assert by_name["nvidia-ampere"] == ["class", "yes", "no"]
    assert by_name["raspberry-pi-5"][1] == "yes"
    only = [t["name"] for t in document(capsys, "list", "--kind", "machine")["targets"]]
    assert set(only) == {n for n in target_names() if load_target(n).kind == "machine"}


@pytest.mark.parametrize("name", ["host", "x86-avx2", "nvidia-a100", "nvidia-onnxruntime-cuda"])
def test_a_target_is_shown_whole(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    target, text = load_target(name), run(capsys, "show", name)
    for figure in target.figures():
        assert re.search(rf"^{re.escape(figure.path)} ", text, re.MULTILINE)
    for alias in target.aliases:
        assert alias in text.splitlines()[1]
    assert all(re.search(rf"^{re.escape(t)} ", text, re.MULTILINE) for t in TECHNIQUES)
    shown = document(capsys, "show", name)
    assert shown["sources"] == dict(target.sources)
    assert [row["technique"] for row in shown["techniques"]] == list(TECHNIQUES)
    assert shown["compiles"] is True


def test_what_is_refused_is_shown_with_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "show", "x86-avx512-vnni")
    for technique, code in (
        ("2:4", "no-sparse-kernel"), ("fp8", "no-fp8-kernel"), ("bf16", "no-bf16-kernel"),
        ("fp16", "widened"),
    ):  # fmt: skip
        assert re.search(rf"^{technique} +no: {code} ", text, re.MULTILINE)
    cuda = run(capsys, "show", "nvidia-onnxruntime-cuda")
    assert re.search(r"^int8-static +no: no-int8-kernel ", cuda, re.MULTILINE)
    coreml = run(capsys, "show", "apple-coreml")
    assert "cannot be compiled for: planish has no backend for onnxruntime (CoreML" in coreml


def test_differences_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "diff", "x86-avx2", "x86-avx512-vnni")
    assert re.search(r"^int8\.weight_bits +7 +8 *$", text, re.MULTILINE)
    assert re.search(r"^int8\.speed_ratio +unknown +3\.4 *$", text, re.MULTILINE)
    assert "reduce_range" not in text
    assert "reduce_range" in run(capsys, "diff", "x86-avx2", "x86-avx512-vnni", "-v")
    found = document(capsys, "diff", "generic", "nvidia-a100")
    assert {"technique": "2:4", "supported": True} in [
        {k: row["second"][k] for k in ("technique", "supported")} for row in found["techniques"]
    ]
    assert all(row["first"] != row["second"] for row in found["figures"])
    assert "have the same figures" in run(capsys, "diff", "generic", "generic")


def test_a_new_file_is_written_and_holds(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "mine.toml" in run(capsys, "new", "mine", "--extends", "graviton3")
    assert "mine.toml holds" in run(capsys, "check-file", "mine.toml")
    assert "exists already" in run(capsys, "new", "mine", status=2)
    made = document(capsys, "new", "other", "--extends", "generic", "-o", "x.toml")
    assert made == {"file": "x.toml", "name": "other", "extends": "generic"}
    assert {path.name for path in tmp_path.iterdir()} == {"mine.toml", "x.toml"}


def test_a_file_is_checked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE + "cores = 8\n")
    assert "figures without a source: cores" in run(capsys, "check-file", str(path))
    found = document(capsys, "check-file", str(path))
    assert (found["name"], found["without_source"]) == ("mine", ["cores"])
    path.write_text(MINE + 'cores = 8\n[sources]\n"cores" = "the sheet"\n')
    assert "without a source" not in run(capsys, "check-file", str(path))


WRONG = {
    "a misspelt key": (MINE + "coers = 8\n", 5, "unknown key 'coers'", "'cores'"),
    "a missing parent": (MINE.replace("avx2", "avx3"), 4, "which is no target", "'x86-avx2'"),
    "a loop": (MINE.replace("x86-avx2", "mine.toml"), 4, "extend each other", ""),
    "a negative rate": (MINE + "[rates]\nint8 = -3\n", 6, "must be above 0", ""),
    "an unknown dtype": (MINE + "[rates]\nint5 = 3\n", 6, "'rates.int5'", "'int4'"),
    "an unknown technique": (MINE + "[spars]\n", 5, "unknown key 'spars'", "'sparse'"),
    "a name that is taken": (MINE.replace('"mine"', '"a100"'), 1, "two targets are called", ""),
    "an alias that is taken": (MINE + 'aliases = ["generic"]\n', 5, "two targets are called", ""),
    "nothing": ("", None, "sets no 'name'", ""),
    "no text": ("\x00\x01", 1, "not TOML", ""),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_located_by_line(
    case: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text, line, said, advised = WRONG[case]
    path = tmp_path / "mine.toml"
    path.write_text(text)
    found = document(capsys, "check-file", str(path), status=4)["error"]
    assert said in found["what"]
    assert found["where"] == (f"{path}:{line}" if line else str(path))
    assert advised in found["hint"]


def test_what_is_no_target_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no such target file" in run(capsys, "check-file", str(tmp_path / "x.toml"), status=2)
    assert "end in .toml" in run(capsys, "check-file", "generic", status=2)
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    assert "cannot read the target file" in run(capsys, "check-file", str(folder), status=4)
    huge = tmp_path / "huge.toml"
    huge.write_bytes(b"#" * (2 << 20))
    assert "never larger than 1 MB" in run(capsys, "check-file", str(huge), status=4)


@pytest.mark.parametrize("name", ["qualcomm-hexagon", "apple-coreml"])
def test_without_a_backend_the_model_is_not_even_opened(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = tmp_path / "model.py"
    model.write_text("raise SystemExit('this code ran')\n")
    words = ["compile", f"{model}:model", "--target", name, "-o", str(tmp_path / "out"), "--json"]
    assert main(words) == 4
    found = json.loads(capsys.readouterr().out)["error"]
    assert "planish has no backend for" in found["what"]
    assert found["kind"] == "TargetError"
    assert "planish plan" in found["hint"]
    assert not (tmp_path / "out").exists()


def test_the_documents_example_holds(root: Path, tmp_path: Path) -> None:
    text = (root / "docs/writing-a-target.md").read_text("utf8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "my-server.toml"
    path.write_text(example)
    target = load_target(path)
    assert (target.cores, target.memory.bandwidth_gbs) == (32, 204.8)
    assert all(figure.source for figure in target.figures())
