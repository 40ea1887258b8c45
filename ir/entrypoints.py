"""What installed distributions offer to planish, by name: passes, targets, backends.

A distribution says so in its ``pyproject.toml``::

    [project.entry-points."planish.backends"]
    my-runtime = "my_package.backend:BACKEND"

Nothing of it is imported until somebody asks for that name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .errors import UsageError

PASSES, TARGETS, BACKENDS = "planish.passes", "planish.targets", "planish.backends"


@dataclass(frozen=True)
class Offer:
    """One entry point. place: ``module:attribute``. distribution: its name and version."""

    name: str
    group: str
    place: str
    distribution: str
    _point: EntryPoint = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.distribution} ({self.place})"

    def load(self) -> Any:
        """The object. Raises UsageError where its module cannot be imported or has no such name."""
        try:
            return self._point.load()
        except (Exception, SystemExit) as error:
            what = f"{self.name!r}, which {self.distribution} offers, cannot be imported"
            raise UsageError(
                f"{what}: {type(error).__name__}: {error}",
                where=f"entry point {self.place} of the group {self.group}",
                hint=f"mend or uninstall {self.distribution}",
            ) from error


def offers(group: str, taken: Iterable[str] = ()) -> dict[str, Offer]:
    """Everything in an entry-point group by name, sorted.

    taken: names that planish itself has. Raises UsageError where one of them, or a name twice, is
    offered; it names both sides.
    """
    own = frozenset(taken)
    found: dict[str, Offer] = {}
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, point.value)):
        offer = Offer(point.name, group, point.value, _distribution(point), point)
        if offer.name in own or offer.name in found:
            other = "planish itself" if offer.name in own else str(found[offer.name])
            raise UsageError(
                f"the name {offer.name!r} is taken twice in {group}: by {other} and by {offer}",
                where=f"entry points of the group {group}",
                hint="uninstall one of them, or rename the entry point of one",
            )
        found[offer.name] = offer
    return found


def _distribution(point: EntryPoint) -> str:
    found = point.dist
    return "an unnamed distribution" if found is None else f"{found.name} {found.version}"
