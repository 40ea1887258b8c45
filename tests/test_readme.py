"""The commands and the code that README and the pages of docs/ show work as they stand.

A fenced block of ``console`` or ``python`` is run when an HTML comment precedes it::

    <!-- test -->            runs it; every command must succeed
    <!-- test: exit 0 8 -->  the last command may also end with another of these statuses
    <!-- file: name.py -->   writes it to that file in the folder

In a console block the lines that start with ``$ `` are the commands (a trailing backslash goes on);
all others are output, which is not compared, but for the tutorials: there every line of it must be
printed, in any order, with ``…`` for anything. The blocks run one after another in one empty folder
that holds ``model.onnx`` (a classifier of three layers) and ``data.npz`` (feeds for it).
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/calibration-and-evaluation.md",
    "docs/diff.md",
    "docs/doctor.md",
    "docs/python-api.md",
    "docs/tutorial-pass.md",
    "docs/tutorial-target.md",
    "docs/writing-a-backend.md",
    "docs/writing-a-pass.md",
    "docs/writing-a-target.md",
)
ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(
    r"^<!-- (?:test(?:: exit (?P<statuses>[\d ]+))?|file: (?P<file>[\w.]+)) -->\n+"
    r"```(?P<language>\w+)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
MARK = re.compile(r"^<!-- (?:test|file)\b", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A runnable block: its language, its text, the statuses it may end with, its line; the file
    that it is written to instead."""

    language: str
    body: str
    statuses: tuple[int, ...]
    line: int
    file: str = ""


def blocks(text: str) -> list[Block]:
    """The marked blocks of a Markdown text; ValueError when a mark belongs to no block."""
    found = [
        Block(
            match["language"],
            match["body"],
            tuple(map(int, (match["statuses"] or "0").split())),
            text.count("\n", 0, match.start()) + 1,
            match["file"] or "",
        )
        for match in FENCE.finditer(text)
    ]
    if len(found) != len(MARK.findall(text)):
        raise ValueError("a <!-- test --> mark is not followed by a fenced block")
    return found


def commands(body: str) -> list[str]:
    """The commands of a console block."""
    found: list[str] = []
    going_on = False
    for line in body.splitlines():
        if going_on:
            found[-1] += "\n" + line
        elif line.startswith("$ "):
            found.append(line.removeprefix("$ "))
        going_on = (line.startswith("$ ") or going_on) and line.endswith("\\")
    return found


def script(body: str) -> str:
    """The commands of a console block for a shell, which ends with 99 where any but the last
    fails, with whatever status."""
    *first, last = commands(body)
    return "\n".join([*(f"{{ {each}\n}} || exit 99" for each in first), last])


def unsaid(body: str, printed: str) -> list[str]:
    """The lines of output that a console block shows and that were not printed."""
    said = [" ".join(line.split()) for line in printed.splitlines()]
    missing, going_on = [], False
    for line in body.splitlines():
        command = line.startswith("$ ") or going_on
        going_on = command and line.endswith("\\")
        pattern = ".*".join(map(re.escape, " ".join(line.split()).split("…")))
        if not command and not any(re.search(pattern, other) for other in said):
            missing.append(line)
    return missing


def run(block: Block, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a block in folder, with this interpreter and its scripts first on the path."""
    if block.language == "python":
        words = [sys.executable, "-c", block.body]
    elif block.language == "console":
        words = ["bash", "-euo", "pipefail", "-c", script(block.body)]
    else:
        raise ValueError(f"line {block.line}: only console and python blocks are run")
    scripts = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": scripts + os.pathsep + os.environ["PATH"]}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)


def write_model(folder: Path) -> None:
    """``model.onnx``, x [batch, 256] -> scores [batch, 10], and ``data.npz`` with 64 feeds."""
    random = np.random.default_rng(0)
    sizes = (256, 1024, 1024, 10)
    weights = [
        ir.tensor(
            random.normal(0, (2 / k) ** 0.5, (k, n)).astype(np.float32), name=f"layer{i}.weight"
        )
        for i, (k, n) in enumerate(itertools.pairwise(sizes))
    ]
    model = ir.from_onnx_text(
        """
        <ir_version: 9, opset_import: ["" : 17]>
        classifier (float[batch, 256] x) => (float[batch, 10] scores) {
            a = MatMul(x, "layer0.weight")
            b = Relu(a)
            c = MatMul(b, "layer1.weight")
            d = Relu(c)
            scores = MatMul(d, "layer2.weight")
        }
        """,
        initializers=weights,
    )
    ir.save(model, folder / "model.onnx")
    np.savez(folder / "data.npz", x=random.normal(size=(64, 256)).astype(np.float32))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_marked_blocks_work(document: str, root: Path, tmp_path: Path) -> None:
    write_model(tmp_path)
    for block in blocks((root / document).read_text("utf8")):
        if block.file:
            (tmp_path / block.file).write_text(block.body, "utf8")
            continue
        done = run(block, tmp_path)
        shown = f"{document}, line {block.line}, ended with {done.returncode}:\n{block.body}"
        assert done.returncode in block.statuses, shown + done.stdout + done.stderr
        if "tutorial" in document and block.language == "console":
            missing = unsaid(block.body, done.stdout + done.stderr)
            assert missing == [], shown + done.stdout + done.stderr


@pytest.mark.parametrize("name", ["cluster.py", "only_once.py"])
def test_the_tutorial_shows_the_examples(root: Path, name: str) -> None:
    shown = blocks((root / "docs" / "tutorial-pass.md").read_text("utf8"))
    (block,) = (block for block in shown if block.file == name)
    assert block.body == (root / "examples" / "passes" / name).read_text("utf8")


def test_the_readme_has_marked_blocks(root: Path) -> None:
    assert blocks((root / "README.md").read_text("utf8"))


def test_blocks_are_found_with_their_statuses() -> None:
    text = (
        "```console\n$ false\n```\n<!-- test -->\n```python\nx = 1\n```\n"
        "<!-- test: exit 0 8 -->\n\n```console\n$ true\n```\n"
    )
    assert blocks(text) == [
        Block("python", "x = 1\n", (0,), 4),
        Block("console", "$ true\n", (0, 8), 8),
    ]


def test_a_mark_without_a_block_is_an_error() -> None:
    with pytest.raises(ValueError, match="not followed"):
        blocks("<!-- test -->\nsome words\n")


def test_commands_leave_output_out_and_go_on_after_a_backslash() -> None:
    assert commands("$ one \\\n  two\noutput\n$ three\n") == ["one \\\n  two", "three"]


@pytest.mark.parametrize(
    ("body", "status"),
    [("$ exit 8\n", 8), ("$ (exit 8)\n$ exit 0\n", 99), ("$ true \\\n  one\n$ exit 8\n", 8)],
)
def test_only_the_last_command_may_fail(body: str, status: int, tmp_path: Path) -> None:
    assert run(Block("console", body, (), 1), tmp_path).returncode == status


@pytest.mark.parametrize(("text", "status"), [("$ true\n$ exit 3\n$ true\n", 3), ("$ true\n", 0)])
def test_a_failing_command_fails_the_block(text: str, status: int, tmp_path: Path) -> None:
    assert run(Block("console", text, (0,), 1), tmp_path).returncode == status


def test_the_model_runs_as_described(tmp_path: Path) -> None:
    from planish.targets.runtime import open_session

    write_model(tmp_path)
    with np.load(tmp_path / "data.npz") as data:
        (scores,) = open_session(tmp_path / "model.onnx").run(dict(data))
    assert scores.shape == (64, 10)
    assert np.isfinite(scores).all()


LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s#]*)(#[^)\s]*)?\)")
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md"))


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", *PAGES])
def test_links_lead_somewhere(document: str, root: Path) -> None:
    for target, anchor in LINK.findall((root / document).read_text("utf8")):
        if "://" in target:
            continue
        path = (root / document).parent / target if target else root / document
        assert path.exists(), f"{document} links to {target}"
        if anchor:
            assert anchor[1:] in anchors(path.read_text("utf8")), f"{document}: {target}{anchor}"


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).strip().replace(" ", "-") for h in headings}
