"""A document as one HTML file that needs nothing else: template, styles, scripts, data.

The file is opened from a disk and may show names out of an untrusted model. So nothing in it is
loaded from anywhere, a policy allows the very scripts and styles that stand in it (by their
hashes) and no other, data stands in blocks that no browser runs, and scripts put texts into the
page as texts alone.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from .libraries import libraries

ASSETS = Path(__file__).parent / "assets"
STYLES = ("tokens", "page", "charts", "tables", "graph", "print")
SCRIPTS = (
    "dom", "format", "data", "charts", "tables", "theme",
    "verdict", "passes", "heatmap", "layers", "quality", "left", "facts",
    "graph/model", "graph/tree", "graph/layout", "graph/draw", "graph/panel", "graph/details",
    "graph/search", "graph/view", "compare", "inspect", "main",
)  # fmt: skip

COMPRESSED = 200_000
"""Bytes of JSON from which on it is compressed; what is smaller can be read in the file."""


def render(document: Mapping[str, Any]) -> str:
    """The page of a document (see ``payload``), about 150 kB and what the document takes."""
    scripts, styles = _scripts(), _bundle("css", STYLES, "css")
    text = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    packed = len(text) > COMPRESSED
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=document["title"],
            policy=_policy(scripts, styles),
            scripts=[_verbatim(script) for script in scripts],
            styles=_verbatim(styles),
            notices=[library.notice for library in libraries()],
            kind="application/gzip" if packed else "application/json",
            data=_compressed(text) if packed else _escaped(text),
        )
    )


def _scripts() -> list[str]:
    """The libraries, and what is ours in a scope of its own."""
    ours = _bundle("js", SCRIPTS, "js")
    return ["\n".join(lib.text for lib in libraries()), f'(() => {{\n"use strict";\n{ours}}})();']


def _bundle(folder: str, names: Iterable[str], ending: str) -> str:
    return "".join((ASSETS / folder / f"{name}.{ending}").read_text("utf8") for name in names)


def _policy(scripts: Iterable[str], styles: str) -> str:
    """Content-Security-Policy: these scripts and styles, nothing from elsewhere."""
    allowed = " ".join(_hash(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_hash(styles)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _verbatim(code: str) -> str:
    """Code of ours for an element whose end no text in it may look like."""
    assert "</script" not in code.lower()
    assert "</style" not in code.lower()
    assert "<!--" not in code
    return code


def _escaped(text: str) -> str:
    """JSON that closes no element and opens no comment: ``<`` stands in strings alone."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _compressed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode("ascii"), 9, mtime=0)).decode()


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
