"""Zeros in a pattern that kernels skip stay: every pass that claims so is checked again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...ir.facts import SPARSE, has_pattern
from ...ir.sites import Sites, find_sites
from ...passes.api import SITES
from ...passes.zeros import kept_patterns
from ..instruments import EditEvent, Instrument, PassEvent, RejectedError


@dataclass
class KeepsPatterns(Instrument):
    """An edit that breaks a pattern of zeros at a site is undone, with a remark.

    Passes that say so (``invalidates``) may break them, and so may all where the target has no
    kernels for the pattern. A site that is gone has nothing to keep.
    """

    _held: Mapping[str, list[str]] = field(default_factory=dict)

    def before_pass(self, event: PassEvent) -> None:
        keeps = SPARSE not in event.pass_.invalidates and event.context.target.sparse.patterns
        sites = event.context.analysis(SITES) if keeps else ()
        held = {site.name: kept_patterns(site, event.context.target) for site in sites}
        self._held = {name: patterns for name, patterns in held.items() if patterns}

    def after_edit(self, event: EditEvent) -> None:
        if not self._held:
            return
        lost = _lost(self._held, find_sites(event.during.model, nested=True))
        if lost is not None:
            name, pattern = lost
            said = f"the zeros of {name} would no longer stand in the pattern {pattern}"
            raise RejectedError("pattern-lost", said)


def _lost(held: Mapping[str, list[str]], sites: Sites) -> tuple[str, str] | None:
    """The first site that is there and has lost a pattern."""
    there = ((name, patterns) for name, patterns in held.items() if name in sites.by_name)
    for name, patterns in there:
        facts = sites.by_name[name].facts
        for pattern in patterns:
            if not has_pattern(facts, pattern):
                return name, pattern
    return None
