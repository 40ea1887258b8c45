"""The likeliest outlook first: by what is predicted, else as policy had it."""

from __future__ import annotations

from typing import Any

import pytest

from planish.compiler.planning.order import ordered
from planish.compiler.planning.outlook import Outlook, Size, Time


def outlook(name: str, after: int, ms: float | None, ranks: bool = True) -> Outlook:
    time = Time(2.0, ms, "unknown" if ms is None else "measured", ranks=ranks)
    return Outlook(name, name, "", (), Size(4000, after, "lowered"), time)


@pytest.mark.parametrize(
    ("goal", "figures", "expected"),
    [
        ("latency", [(1000, 1.0), (1000, 0.5)], "ba"),
        ("latency", [(2000, 1.0), (1000, 1.02)], "ba"),  # within 3 %: the smaller
        ("latency", [(2000, 1.0), (1000, 1.04)], "ab"),
        ("latency", [(2000, 1.0), (1000, None)], "ab"),  # one is unknown: as they came
        ("latency", [(2000, None), (1000, None)], "ab"),
        ("size", [(2000, 1.0), (1000, 9.0)], "ba"),
        ("size", [(1000, 1.0), (1000, 0.5)], "ab"),
        ("balanced", [(2000, 1.0), (1000, 1.5)], "ba"),
        ("balanced", [(2000, 1.0), (1000, 2.5)], "ab"),
    ],
)
def test_order(goal: Any, figures: list[tuple[int, float | None]], expected: str) -> None:
    given = [outlook(name, *each) for name, each in zip("ab", figures, strict=True)]
    assert "".join(o.pipeline for o in ordered(given, goal)) == expected


def test_rates_alone_do_not_rank() -> None:
    """They are lower bounds: policy knows the break-evens of the target's kernels."""
    given = [outlook("a", 2000, 1.0, ranks=False), outlook("b", 1000, 0.1, ranks=False)]
    assert [o.pipeline for o in ordered(given, "latency")] == ["a", "b"]
    assert [o.pipeline for o in ordered(given, "size")] == ["b", "a"]
