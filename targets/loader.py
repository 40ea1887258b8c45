"""Targets by name or by file."""

from __future__ import annotations

from pathlib import Path

from ..ir.errors import TargetError, UsageError, near
from .found import found_names, found_target
from .host import HOST, probe_host
from .runtimes import backend_name
from .schema import Target
from .techniques import has_backend, runtime_label
from .tomlfile import catalog_files, catalog_names, read_target


def target_names() -> tuple[str, ...]:
    """Names that ``load_target`` knows: the host, then the catalogue in alphabetical order."""
    return (HOST, *catalog_files())


def aliases() -> dict[str, str]:
    """Further names of the catalogue's targets, each with the name that it stands for."""
    files = catalog_files()
    return {name: path.stem for name, path in catalog_names().items() if name not in files}


def load_target(target: str | Path) -> Target:
    """The target of that name or alias, or of that TOML file (a path, or a text ending in ".toml").

    Names that the catalogue does not have are those of the project in the working folder, or of
    installed distributions. Raises UsageError for an unknown name or a missing file, TargetError
    for a wrong file.
    """
    if target == HOST:
        return probe_host()
    known = catalog_names()
    if isinstance(target, str) and target in known:
        return read_target(known[target])
    if isinstance(target, Path) or target.endswith(".toml"):
        return read_target(Path(target))
    if (found := found_target(target)) is not None:
        return found
    raise UsageError(
        f"unknown target {target!r}",
        hint=near(target, [HOST, *known, *found_names()]) + " Or give a .toml file.",
    )


def backend_of(target: Target) -> str | None:
    """The backend that writes artifacts for the target's runtime, None where none is built."""
    return backend_name((target.runtime.name, target.runtime.provider))


def require_backend(target: Target) -> None:
    """Raises TargetError where nothing writes artifacts for the target's runtime yet."""
    if backend_of(target) is not None:
        return
    raise TargetError(
        f"planish has no backend for {runtime_label(target)} yet: "
        f"nothing can be compiled for {target.name}",
        where=f"target {target.name}",
        hint="`planish plan`, `planish targets check` and `planish targets show` work for it; "
        f"targets that can be compiled for: {', '.join(_compilable())}",
    )


def _compilable() -> list[str]:
    return [HOST, *(n for n, path in catalog_files().items() if has_backend(read_target(path)))]
