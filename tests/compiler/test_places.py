"""Many places in few words."""

from __future__ import annotations

import pytest

from planish.compiler.reporting.places import folded


@pytest.mark.parametrize(
    ("places", "shown"),
    [
        ([], []),
        (["a"], ["a"]),
        (["a", "a"], ["a"]),
        (["layer.0.q", "layer.1.q", "layer.2.q"], ["layer.{0-2}.q"]),
        (["layer.0.q", "layer.2.q", "layer.3.q"], ["layer.{0,2-3}.q"]),
        (["layer.4.q", "head"], ["layer.4.q", "head"]),
        (["layer.0.q", "layer.0.k", "layer.1.q"], ["layer.{0-1}.q", "layer.0.k"]),
        (["a.1.b.2", "a.2.b.2", "a.1.b.3"], ["a.{1-2}.b.2", "a.1.b.3"]),
    ],
)
def test_numbers_are_folded(places: list[str], shown: list[str]) -> None:
    assert folded(places) == shown
