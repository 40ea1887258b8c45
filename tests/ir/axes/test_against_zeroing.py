"""On random graphs, cutting by the analysis equals multiplying by zero in the full graph."""

from __future__ import annotations

from collections import Counter
from types import ModuleType
from typing import Any

import numpy as np
import pytest

SEEDS = 30
STEPS = 10


def feeds(shape: tuple[int, ...], seed: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=shape).astype(np.float32)}


@pytest.mark.parametrize("seed", range(SEEDS))
def test_graphs_over_tokens(
    seed: int, drafts: ModuleType, graphs: ModuleType, against: Any
) -> None:
    text, tensors = drafts.Tokens(seed).draw(STEPS)
    against.every(graphs.parse(text, **tensors), feeds((2, 3, 8), seed), seed)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_graphs_over_images(
    seed: int, drafts: ModuleType, graphs: ModuleType, against: Any
) -> None:
    text, tensors = drafts.Images(seed).draw(STEPS)
    against.every(graphs.parse(text, **tensors), feeds((2, 3, 4, 4), seed), seed)


def test_the_drafts_hold_what_they_should(
    drafts: ModuleType, graphs: ModuleType, find: Any
) -> None:
    """A comparison on graphs in which nothing can be cut would prove nothing."""
    kinds: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    for seed in range(SEEDS):
        for make in (drafts.Tokens, drafts.Images):
            text, tensors = make(seed).draw(STEPS)
            for group in find(graphs.parse(text, **tensors)).values():
                (codes if group.code else kinds)[group.code or group.kind] += 1
    assert all(kinds[kind] >= 10 for kind in ("neurons", "heads", "channels", "features"))
    assert {"reduction", "signature"} <= set(codes)
