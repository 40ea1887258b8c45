"""Run a user's code, given as ``file.py:function``: the only form in which it is ever run.

The file is loaded as a module under a private name. Its folder is importable while the file
loads and while its functions run.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from ...ir.errors import InputError, PlanishError, UsageError, near
from ...passes.api import Pass
from ...passes.registry import collecting
from .userimports import importable

_PREFIX = "planish_user_"
_LONGEST_MESSAGE = (600, 12)  # characters, lines
_folders: dict[int, tuple[object, Path]] = {}  # by id; holds the function, so the id stays its own
_passes: dict[str, tuple[type[Pass], ...]] = {}  # by name of the module that registered them
_OURS = frozenset({__file__, importable.__code__.co_filename, contextlib.__file__})


def is_function_reference(text: str) -> bool:
    """Whether the text has the form ``file.py:function``."""
    file, colon, function = text.rpartition(":")
    return bool(colon) and file.endswith(".py") and function.isidentifier()


def load_function(reference: str) -> Callable[..., Any]:
    """The function that ``file.py:function`` names; the file is run once, however often asked.

    Raises UsageError where the text has another form; InputError where there is no such file or
    function, or the file raises while it loads (then with the file and line that raised).
    """
    file, _, name = reference.rpartition(":")
    if not is_function_reference(reference):
        raise UsageError(f"{reference!r} does not name a function", hint="write file.py:function")
    path = Path(file).resolve()
    module = _load(path)
    function = getattr(module, name, None)
    if function is None:
        raise InputError(f"no function {name!r}", where=str(path), hint=near(name, _public(module)))
    if not callable(function):
        raise InputError(
            f"{name!r} is of type {type(function).__name__}, not a function",
            where=str(path),
            hint=near(name, _public(module)),
        )
    _folders[id(function)] = (function, path.parent)
    return function  # type: ignore[no-any-return]


def load_module(path: Path) -> tuple[ModuleType, tuple[type[Pass], ...]]:
    """The module of a Python file, which is run once for the same text, however often asked, and
    the passes that it registers, which nobody else knows.

    Raises InputError where there is no such file, or it raises while it loads.
    """
    module = _load(path.resolve())
    return module, _passes[module.__name__]


def place_in(error: BaseException, file: str) -> str:
    """``file:line`` where an error was raised, as far as that is in the folder of ``file``."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename not in _OURS]
    mine = [f for f in frames if Path(f.filename).parent == Path(file).parent]
    return f"{mine[-1].filename}:{mine[-1].lineno}" if mine else ""


def call(function: Callable[..., Any], what: str, *args: Any, **kwargs: Any) -> Any:
    """``function(*args, **kwargs)``; what it raises becomes an InputError with file and line.

    what: how messages call it, such as ``the evaluation function``. Errors of planish itself
    (a wrong feed handed to ``run``, say) and KeyboardInterrupt pass through.
    """
    with importable(_folder(function)), _explained(function, f"{what} {_name(function)!r}"):
        return function(*args, **kwargs)


def iterate(function: Callable[..., Any], what: str, iterable: Iterable[Any]) -> Iterator[Any]:
    """The items of what ``function`` returned, with errors raised on the way as for ``call``."""
    label = f"{what} {_name(function)!r}"
    with _explained(function, label):
        iterator = iter(iterable)
    while True:
        with importable(_folder(function)), _explained(function, label):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


def _load(path: Path) -> ModuleType:
    try:
        source = path.read_bytes()
    except OSError as error:
        hint = near(path.name, _siblings(path)) if isinstance(error, FileNotFoundError) else ""
        raise InputError(
            f"cannot read the Python file: {error.strerror}", where=str(path), hint=hint
        ) from error
    digest = hashlib.blake2b(os.fsencode(path) + b"\0" + source, digest_size=8)
    name = _PREFIX + digest.hexdigest()
    if name not in sys.modules:
        _execute(path, source, name)
    return sys.modules[name]


def _execute(path: Path, source: bytes, name: str) -> None:
    # Compiled here and not by the import system: that would write a __pycache__ beside the file.
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with (
            importable(path.parent),
            collecting(path.parent) as passes,
            _explained(module, "the Python file"),
        ):
            exec(compile(source, str(path), "exec"), module.__dict__)
        _passes[name] = tuple(passes.values())
    except BaseException:
        del sys.modules[name]
        raise


@contextlib.contextmanager
def _explained(culprit: object, what: str) -> Iterator[None]:
    """Turn what user code raises into an InputError that names the user's line."""
    try:
        yield
    except PlanishError:
        raise
    except (Exception, SystemExit) as error:
        where = _place(error, culprit)
        raise InputError(f"{what} raised {_message(error)}", where=where) from error


def _message(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    name = type(error).__name__
    full = "\n".join([f"{name}: {text}" if text else name, *getattr(error, "__notes__", ())])
    characters, lines = _LONGEST_MESSAGE
    short = "\n".join(full.splitlines()[:lines])[:characters]
    return short if len(short) >= len(full.rstrip()) else short + " …"


def _place(error: BaseException, culprit: object) -> str:
    """``file:line`` of the innermost frame in the user's folder, else of the innermost at all."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    own = _file(culprit)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename not in _OURS]
    mine = [f for f in frames if Path(f.filename).parent == Path(own).parent] or frames
    if mine:
        return f"{mine[-1].filename}:{mine[-1].lineno}"
    line = getattr(getattr(culprit, "__code__", None), "co_firstlineno", None)
    return f"{own}:{line}" if own and line else own


def _file(culprit: object) -> str:
    code = getattr(culprit, "__code__", None)
    return str(code.co_filename if code is not None else getattr(culprit, "__file__", ""))


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))


def _folder(function: Callable[..., Any]) -> Path | None:
    """The folder of a function that ``load_function`` gave; None for any other callable."""
    found = _folders.get(id(function))
    return None if found is None else found[1]


def _public(module: ModuleType) -> list[str]:
    return [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]


def _siblings(path: Path) -> list[str]:
    return [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
