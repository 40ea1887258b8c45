"""Predicted nodes added up: by site, by module, by operator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .predict import WORST, Basis, Predicted
from .roofline import Bound


@dataclass(frozen=True)
class Share:
    """Nodes under one name. ms: None where one of them is unknown. basis: the weakest of theirs.
    bound: what bounds the slowest of them."""

    name: str
    nodes: int
    ms: float | None
    basis: Basis
    bound: Bound


def by_site(nodes: Iterable[Predicted]) -> list[Share]:
    """The sites in order of appearance; what belongs to none is left out."""
    return _shares((node.site, node) for node in nodes if node.site)


def by_module(nodes: Iterable[Predicted]) -> list[Share]:
    """Every dotted prefix of a site's name with all that lies below it."""
    return _shares((module, node) for node in nodes for module in _modules(node.site))


def by_operator(nodes: Iterable[Predicted]) -> list[Share]:
    """Operators, the slowest first, the unknown before them."""
    found = _shares((node.op, node) for node in nodes)
    return sorted(found, key=lambda share: -(float("inf") if share.ms is None else share.ms))


def _shares(named: Iterable[tuple[str, Predicted]]) -> list[Share]:
    groups: dict[str, list[Predicted]] = {}
    for name, node in named:
        groups.setdefault(name, []).append(node)
    return [_share(name, group) for name, group in groups.items()]


def _share(name: str, nodes: Sequence[Predicted]) -> Share:
    known = [node.ms for node in nodes if node.ms is not None]
    slowest = max(nodes, key=lambda node: node.ms or 0.0)
    return Share(
        name,
        len(nodes),
        sum(known) if len(known) == len(nodes) else None,
        max((node.basis for node in nodes), key=WORST.index),
        slowest.bound,
    )


def _modules(site: str) -> list[str]:
    parts = site.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]
