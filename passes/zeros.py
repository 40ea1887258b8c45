"""Zeros that are worth keeping: those in a pattern for which the target has kernels."""

from __future__ import annotations

from ..ir.facts import zero_patterns
from ..ir.finding.pattern import follows
from ..ir.sites import Site
from ..targets.schema import Target


def kept_patterns(site: Site, target: Target) -> list[str]:
    """The patterns of a site that kernels of the target skip; elsewhere zeros are worth nothing."""
    kernels = target.sparse.patterns or ()
    known = zero_patterns(site.facts)
    return [pattern for pattern in known if any(follows(kernel, pattern) for kernel in kernels)]


def filled(site: Site, target: Target, what: str) -> tuple[str, str] | None:
    """Why a pass that would put other numbers for zeros leaves a site alone: code and sentence.

    what: would fill them ("factors").
    """
    patterns = kept_patterns(site, target)
    if not patterns:
        return None
    said = f"its zeros stand in the pattern {patterns[0]}, which {what} would fill"
    return "sparse", f"{said}; zeros come after that: put sparsify behind this pass"
