"""Let a user's file import what lies beside it, without mixing up two users' folders.

Two files in two folders may each have a ``helpers.py``. Python knows modules by name alone, so
the second would silently get the first one's. Here each folder's modules are in ``sys.modules``
only while code of that folder runs.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

_modules: dict[Path, dict[str, ModuleType]] = {}


@contextmanager
def importable(folder: Path | None) -> Iterator[None]:
    """While open, imports look into ``folder`` first; None changes nothing.

    Modules of the same name from elsewhere are set aside meanwhile (never the standard library's).
    """
    if folder is None:
        yield
        return
    hidden = _hide_namesakes(folder)
    before = set(sys.modules)
    sys.modules.update(_modules.get(folder, {}))
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
        _keep_apart(folder, before)
        sys.modules.update(hidden)


def _hide_namesakes(folder: Path) -> dict[str, ModuleType]:
    local = _local_names(folder)
    tops = {name for name in local if _is_elsewhere(folder, sys.modules.get(name))}
    names = [name for name in sys.modules if name.partition(".")[0] in tops]
    return {name: sys.modules.pop(name) for name in names}


def _keep_apart(folder: Path, before: set[str]) -> None:
    new = set(sys.modules) - before
    tops = {name for name in new if "." not in name and _lies_in(folder, sys.modules[name])}
    names = [name for name in new if name.partition(".")[0] in tops]
    _modules.setdefault(folder, {}).update((name, sys.modules.pop(name)) for name in names)


@functools.cache
def _local_names(folder: Path) -> frozenset[str]:
    """Names of the modules and packages directly in the folder."""
    files = {path.stem for path in folder.glob("*.py")}
    packages = {path.parent.name for path in folder.glob("*/__init__.py")}
    return frozenset((files | packages) - sys.stdlib_module_names)


def _is_elsewhere(folder: Path, module: ModuleType | None) -> bool:
    return module is not None and bool(_places(module)) and not _lies_in(folder, module)


def _lies_in(folder: Path, module: ModuleType) -> bool:
    return any(
        place.parent == folder or (place.stem == "__init__" and place.parent.parent == folder)
        for place in _places(module)
    )


def _places(module: ModuleType) -> list[Path]:
    """The module's file; for a package without one, its folders."""
    file = getattr(module, "__file__", None)
    return [Path(file)] if file else [Path(p) for p in getattr(module, "__path__", ())]
