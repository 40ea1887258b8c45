"""Targets that are not in the catalogue: those of the project in the working folder, and those
that installed distributions offer. They are looked for where a name is not in the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..ir.entrypoints import TARGETS, Offer, offers
from ..ir.errors import TargetError, UsageError
from ..ir.project import find_project
from .schema import HOST, Target
from .tomlfile import catalog_names, read_target


def project_targets() -> dict[str, Path]:
    """Files by the names and aliases of the targets in them, as the project names them.

    Raises TargetError for files that are wrong, and where one name is claimed twice.
    """
    project, found = find_project(), dict[str, Path]()
    for path in _files(project.targets):
        target = read_target(path)  # a name of the catalogue is refused here
        for name in (target.name, *target.aliases):
            if name in found:
                raise TargetError(
                    f"two targets are called {name!r}",
                    where=f"{found[name]} and {path}",
                    hint=f"rename one of them, or leave it out of {project.file}",
                )
            found[name] = path
    return found


def offered_targets() -> dict[str, Offer]:
    """What installed distributions offer, by name. Raises UsageError where a name is taken."""
    return offers(TARGETS, taken=[HOST, *catalog_names()])


def found_target(name: str) -> Target | None:
    """The target of that name, None where nobody has it.

    Raises TargetError and UsageError for files and offers that are wrong, and for a name that the
    project and a distribution both have.
    """
    files, others = project_targets(), offered_targets()
    if name in files and name in others:
        raise TargetError(
            f"two targets are called {name!r}",
            where=f"{files[name]} and {others[name]}",
            hint="rename the one, or uninstall the other",
        )
    if name in files:
        return read_target(files[name])
    return taken(others[name]) if name in others else None


def found_names() -> Mapping[str, str]:
    """Names of targets outside the catalogue, each with where it is from."""
    files = {name: str(path) for name, path in project_targets().items()}
    return files | {name: str(offer) for name, offer in offered_targets().items()}


def taken(offer: Offer) -> Target:
    """The target that a distribution offers: a ``Target``, or the path of a TOML file.

    Raises UsageError where it is neither, or bears another name.
    """
    found: Any = offer.load()
    target = read_target(Path(found)) if isinstance(found, (str, Path)) else found
    if isinstance(target, Target) and offer.name in (target.name, *target.aliases):
        return target
    named = f"called {target.name!r}" if isinstance(target, Target) else type(found).__name__
    raise UsageError(
        f"{offer.distribution} offers a target {offer.name!r}, but what is there is {named}",
        where=f"entry point {offer.place} of the group {offer.group}",
        hint=f"mend or uninstall {offer.distribution}",
    )


def _files(paths: tuple[Path, ...]) -> Iterator[Path]:
    """Files as they are, of folders every TOML file."""
    for path in paths:
        yield from sorted(path.glob("*.toml")) if path.is_dir() else (path,)
