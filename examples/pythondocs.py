"""Real English that is on every machine with Python: sentences of its own documentation."""

from __future__ import annotations

import ast
import importlib.util
import random
import re
from collections.abc import Iterator
from pathlib import Path

MODULES = """
    argparse asyncio.events asyncio.tasks calendar collections concurrent.futures._base
    configparser contextlib copy csv dataclasses datetime decimal difflib doctest email.message
    enum fractions functools gettext heapq http.client inspect ipaddress json logging mailbox
    multiprocessing.pool optparse os pathlib pdb pickle random re sched shelve shutil smtplib
    socket ssl statistics string subprocess tarfile tempfile textwrap threading timeit tokenize
    traceback typing unittest.case unittest.mock urllib.parse urllib.request uuid warnings weakref
    xmlrpc.client zipfile
""".split()
WORDS = range(6, 61)
"""Lengths of a sentence: shorter ones are headings, longer ones lists."""


def sentences(count: int, seed: int = 0) -> list[str]:
    """``count`` different sentences in an order that depends on nothing but the seed.

    Raises ValueError where this Python's documentation does not hold as many.
    """
    found = {" ".join(s.split()): None for text in texts() for s in split(text)}
    unique = sorted({s.lower(): s for s in found}.values())
    if len(unique) < count:
        raise ValueError(f"only {len(unique)} sentences found, not {count}")
    random.Random(seed).shuffle(unique)
    return unique[:count]


def texts() -> Iterator[str]:
    """The language reference as pydoc has it, and docstrings of the standard library."""
    from pydoc_data.topics import topics

    yield from topics.values()
    for name in MODULES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin and spec.origin.endswith(".py"):
            yield from docstrings(Path(spec.origin))


def docstrings(path: Path) -> Iterator[str]:
    """Docstrings of a file's module, classes and functions; the file is not run."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_text("utf8"))):
        if isinstance(node, documented):
            yield ast.get_docstring(node) or ""


def split(text: str) -> Iterator[str]:
    """The sentences of a text, without code, tables and headings."""
    for paragraph in re.split(r"\n\s*\n", text):
        plain = " ".join(re.sub(r"^\s*[*-] ", "", paragraph).split())
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z\"])", plain):
            if is_english(sentence):
                yield sentence


def is_english(sentence: str) -> bool:
    """Whether it begins and ends like a sentence, and is made of words."""
    if not re.fullmatch(r"[A-Z].*[a-z)\"]\.", sentence) or len(sentence.split()) not in WORDS:
        return False
    if re.search(r">>>|::|[|=<>{}\[\]\\@~^]|\*\*|__|--|http|\.\.", sentence):
        return False
    return sum(c.isalpha() or c == " " for c in sentence) >= 0.9 * len(sentence)
