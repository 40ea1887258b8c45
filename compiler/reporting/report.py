"""The documents of an artifact: report, model card, self-test; all from templates."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from ...ir.shown import printable
from ...ir.signature import Signature, shape_text
from ..result import CompileResult
from . import selftest, summary
from .engineshapes import CHOSEN, is_open, untold_trtexec
from .headline import headline, quality_phrase, size, three

TEMPLATES = Path(__file__).parent / "templates"

_TICKS = re.compile("`+")
_TAG = re.compile(r"<(?=[A-Za-z/!?])")


def render_report(result: CompileResult) -> str:
    """``report.md``: all that was found out, for a reader."""
    return _render("report.md.j2", result)


def render_card(result: CompileResult, signature: Signature, sample: str = "") -> str:
    """``README.md``, the model card: what it is, how to run it, what it is good for.

    sample: the file whose feeds the example runs; "" where there is none.
    """
    if result.engine is not None:
        return _render(
            "tensorrt_card.md.j2", result, signature=signature, open=is_open(result.engine),
            untold=untold_trtexec(result.engine),
            chosen=[remark.sentence for remark in result.remarks if remark.code == CHOSEN],
        )  # fmt: skip
    return _render("card.md.j2", result, signature=signature, sample=sample)


def render_verify(gpu: bool = False) -> str:
    """``verify.py``: the self-test as one file that needs only numpy and onnxruntime.

    gpu: whether it runs the model on the GPU of provider.json where there is one.
    """
    logic = Path(selftest.__file__).read_text("utf8")
    return environment().get_template("verify.py.j2").render(logic=logic, gpu=gpu)


def text(value: object) -> str:
    """A name or sentence that cannot break the table or the page it stands in."""
    words = _words(value).replace("](", "]\\(")  # no links, no pictures from elsewhere
    return _TAG.sub("&lt;", words)


def code(value: object) -> str:
    """A name as a code span; it may hold backquotes itself. A dash for no name."""
    words = _words(value)
    if not words:
        return "–"
    fence = "`" * (1 + max((len(run) for run in _TICKS.findall(words)), default=0))
    pad = " " if words.startswith("`") or words.endswith("`") else ""
    return f"{fence}{pad}{words}{pad}{fence}"


def _words(value: object) -> str:
    return printable(" ".join(str(value).split())).replace("|", "\\|")


def base(source: str) -> str:
    """The last part of a path."""
    return source.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _render(template: str, result: CompileResult, **more: Any) -> str:
    page = environment().get_template(template)
    return page.render(
        result=result,
        headline=headline(result),
        quality_phrase=quality_phrase(result.quality),
        rows=summary.rows(result),
        done=summary.done(result),
        left=summary.left(result),
        notes=summary.notes(result),
        float_kernels=summary.float_kernels(result),
        **more,
    )


def environment() -> jinja2.Environment:
    """Where the templates of all documents and scripts are."""
    # Markdown and Python are no HTML: autoescape would only write &#39; into them.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        text=text,
        code=code,
        base=base,
        size=size,
        shape=shape_text,
        three=three,
        tensor_type=numpy_name,
        python=repr,
        python_table=python_table,
        shell=shell,
        fenced=fenced,
    )
    return environment


def shell(value: object) -> str:
    """A text as one word of a shell script, whatever it holds: nothing in it is run."""
    return shlex.quote(str(value))


def fenced(value: object) -> str:
    """A text as a block of code, which it cannot end."""
    words = printable(str(value))
    fence = "`" * max(3, 1 + max((len(run) for run in _TICKS.findall(words)), default=0))
    return f"{fence}\n{words}\n{fence}"


def python_table(table: Mapping[str, str]) -> str:
    """A table of texts as Python writes it."""
    return repr(dict(table))


def numpy_name(dtype: str) -> str:
    """numpy's name of an element type: ``FLOAT`` -> ``float32``; others in lower case."""
    known = {"FLOAT": "float32", "DOUBLE": "float64", "STRING": "str"}
    return known.get(dtype, dtype.lower())
