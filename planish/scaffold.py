"""Files to start a pass from: the pass, a test that passes, a page."""

from __future__ import annotations

import ast
import keyword
import re
import sys
from functools import partial
from pathlib import Path
from typing import IO, Literal, get_args

import jinja2

from .ir.errors import UsageError
from .ir.storage.atomic import write_together
from .passes.registry import offered, registered

Kind = Literal["rewrite", "lossy", "adapt"]
KINDS: tuple[str, ...] = get_args(Kind)
TEMPLATES = Path(__file__).resolve().parent / "templates"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 60


def write_pass(name: str, kind: Kind, folder: Path) -> tuple[Path, Path, Path]:
    """Write a pass, its test and its page into a folder, which is made if need be; their paths.

    Raises UsageError for a name that cannot be one or is taken, and for files that are there or
    cannot be written; then nothing is written.
    """
    check_name(name)
    words = _words(name, kind)
    check_free(name, _render(f"{kind}.py.j2", words), words["object"])
    module = words["module"]
    named = dict(
        zip(
            (f"{module}.py", f"test_{module}.py", f"{module}.md"),
            (f"{kind}.py.j2", "test.py.j2", "pass.md.j2"),
            strict=True,
        )
    )
    there = [folder / file for file in named if (folder / file).exists()]
    if there:
        raise UsageError(
            "the file exists already", where=", ".join(map(str, there)),
            hint="choose another name, or another folder with -o; nothing is overwritten",
        )  # fmt: skip
    texts = {folder / file: _render(template, words) for file, template in named.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_together({path: partial(_write, text) for path, text in texts.items()})
    except OSError as error:
        raise UsageError(f"cannot write: {error.strerror}", where=str(folder)) from error
    one, two, three = texts
    return one, two, three


def _words(name: str, kind: Kind) -> dict[str, str]:
    """What the templates are filled with."""
    module = name.replace("-", "_")
    camel = "".join(part.capitalize() for part in name.split("-"))
    return {
        "name": name, "module": module, "kind": kind, "camel": camel, "function": module,
        "object": module if kind == "rewrite" else camel,
    }  # fmt: skip


def check_free(name: str, text: str, own: str) -> None:
    """Raise UsageError where the file of a pass needs the word that it defines otherwise, too.

    text: of the file. own: what the pass is called in it.
    """
    bound = [word for node in ast.walk(ast.parse(text)) for word in _bound(node)]
    if bound.count(own) > 1:
        raise UsageError(
            f"the file would need the word {own} for something else, too",
            hint=f"choose another name: my-{name}",
        )


def _bound(node: ast.AST) -> list[str]:
    """Names that a node of Python gives a meaning."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(each.asname or each.name).partition(".")[0] for each in node.names]
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return [node.id]
    return [node.arg] if isinstance(node, ast.arg) else []


def check_name(name: str) -> None:
    """Raise UsageError for what cannot be the name of a new pass."""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise UsageError(
            f"{name!r} is no name for a pass",
            hint="use small letters and digits, words joined by hyphens: my-pass",
        )
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or keyword.issoftkeyword(module):
        raise UsageError(f"{name!r} is a word of Python", hint=f"choose another: my-{name}")
    if module in sys.stdlib_module_names or module in ("planish", "numpy", "onnx", "onnx_ir"):
        raise UsageError(
            f"a file {module}.py would stand in the way of the module {module}",
            hint=f"choose another name: my-{name}",
        )
    if name in registered() or name in offered():
        raise UsageError(f"there is a pass {name!r} already", hint="choose another name")


def _render(template: str, words: dict[str, str]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # Python and Markdown of ours, filled with a checked name
    )
    return environment.get_template(template).render(words)


def _write(text: str, file: IO[bytes]) -> None:
    file.write(text.encode("utf8"))
