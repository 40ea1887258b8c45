"""A fixed sample of the transformers that ``benchmarks/breadth_transformers.py`` cuts in full."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from benchmarks.breadth_transformers import LEAST, MOST, SELECTS, runnable
from benchmarks.zoo.cutting import Subject, compared, outputs, relative, with_zeros
from benchmarks.zoo.export import exported
from benchmarks.zoo.table import FAMILIES
from planish.ir.load import load_model

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
    ),
]


@pytest.mark.parametrize(
    ("name", "opset", "attention", "groups"),
    [
        ("BERT", 23, "sdpa", 2),  # the operator Attention
        ("DeBERTa", 20, "eager", None),  # relative positions multiplied with queries and keys
        ("Llama", 23, "eager", 2),  # grouped keys and values, the operator RotaryEmbedding
        ("T5 decoder", 20, "eager", None),  # a table of positions that all blocks share
        ("SAM encoder", 20, "eager", 2),  # windows, decomposed relative positions by Einsum
        ("Falcon", 20, "eager", 2),  # packed by groups, picked by GatherND
    ],
)
def test_every_block_is_found_and_cut(
    name: str, opset: int, attention: str, groups: int | None, workdir: Path
) -> None:
    family = FAMILIES[name]
    path = exported(family, opset, attention, workdir / "zoo")
    feeds, _ = runnable(path, family)
    found = compared(path, feeds)
    assert sorted(found.heads.units) == sorted(family.heads)
    assert sorted(found.neurons.units) == sorted(family.neurons)
    assert groups in (found.heads.groups, None)
    assert found.heads.strays + found.neurons.strays == ()
    assert SELECTS.isdisjoint(found.added)
    assert found.heads.removed >= found.heads.groups
    assert found.difference <= MOST
    assert found.effect >= LEAST


def test_zeros_for_other_heads_are_told_from_a_cut(workdir: Path) -> None:
    """What the comparison above would say of a cut at the wrong places."""
    family = FAMILIES["BERT"]
    path = exported(family, 23, "sdpa", workdir / "zoo")
    subject = Subject(load_model(path).model, family.feeds({"batch": 2, "tokens": 7}))
    subject.run("canonicalize")
    group = subject.groups().cuttable("heads")[0]
    feeds = family.feeds({"batch": 2, "tokens": 5})
    one, other = (outputs(with_zeros(subject.model, [(group, [u])]), feeds)[0] for u in (1, 2))
    assert relative(one, other) > 100 * MOST
    assert relative(one, one + np.float32(np.nan)) == float("inf")
