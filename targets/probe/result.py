"""What was timed as the tables of a target file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..cost.measured import Convolutions, Measured, Products, Rows, Streams
from .measure import Found

DIGITS = 4


def measured(found: Sequence[Found], *, date: str, runtime: str, cpu: str) -> Measured:
    """The tables of one measurement for each count of threads."""
    doubts = [f"{_threads(one)}: {one.busy}" for one in found if one.busy]
    return Measured(
        date=date,
        runtime=runtime,
        cpu=cpu,
        busy="; ".join(doubts),
        disagreement=_short(max(one.disagreement for one in found)),
        call=tuple((float(f.threads), _short(1e6 * f.overheads.call)) for f in found),
        node=tuple((float(f.threads), _short(1e6 * f.overheads.node)) for f in found),
        bandwidth=tuple(
            (float(f.threads), float(size), _short(speed))
            for f in found
            for size, speed in f.bandwidth.items()
        ),
        products=_tables(Products, "products", found),
        convolutions=_tables(Convolutions, "convolutions", found),
        streams=_tables(Streams, "streams", found),
    )


def _tables(cls: Any, group: str, found: Sequence[Found]) -> Any:
    rows: Mapping[str, list[tuple[float, ...]]] = {item.name: [] for item in fields(cls)}
    for one in found:
        for (table, key), us in one.microseconds.items():
            held, _, name = table.partition(".")
            if held == group:
                rows[name].append((float(one.threads), *map(float, key), _short(us)))
    tables: dict[str, Rows] = {name: tuple(table) for name, table in rows.items()}
    return cls(**tables)


def _threads(found: Found) -> str:
    return "1 thread" if found.threads == 1 else f"{found.threads} threads"


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
