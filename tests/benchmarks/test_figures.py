"""A figure passes on the right side of its bar only, and says how to take it again."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from benchmarks.figures import (
    Outcome,
    above,
    at_least,
    at_most,
    counts,
    holds,
    quantity,
    show,
    skipped,
    summarise,
)


def test_a_bar_is_part_of_what_passes_but_for_above() -> None:
    assert at_most("drop", 0.3, 0.3).word == "pass"
    assert at_most("drop", 0.31, 0.3).word == "miss"
    assert at_least("speed", 2.6, 2.6, "x").word == "pass"
    assert at_least("speed", 2.59, 2.6, "x").word == "miss"
    assert above("speed", 1.0, 1.0, "x").word == "miss"
    assert above("speed", 1.01, 1.0, "x").word == "pass"


@pytest.mark.parametrize("make", [at_most, at_least, above])
def test_nan_never_passes(make: object) -> None:
    assert callable(make)
    assert make("figure", math.nan, 1.0).word == "miss"


def test_units() -> None:
    assert quantity(2.7149, "x") == "2.715x"
    assert quantity(23.4, "MB") == "23.4 MB"
    assert at_most("size", 23.4, 23.5, "MB").bar == "≤ 23.5 MB"


def test_counts() -> None:
    figures = [
        at_most("a", 1, 2),
        at_most("b", 3, 2),
        skipped("c", "", "absent"),
        at_most("d", 2, 2),
    ]
    assert counts(figures) == "2 pass, 1 miss, 1 skip"


def test_every_figure_is_shown_with_its_command() -> None:
    outcome = Outcome("Title [of] it", ("model", "s"), (("float", "1.0"),), (
        at_least("speed", 3.0, 2.6, "x", "95 % from 2.9 to 3.1"),
        holds("bytes", False, "different", "identical"),
    )).with_command("python run.py it")  # fmt: skip
    stream = io.StringIO()
    console = Console(file=stream, width=60)
    show(outcome, console)
    summarise(outcome.figures, console)
    text = stream.getvalue()
    assert "Title [of] it" in text
    assert "pass  speed: 3x [≥ 2.6x] (95 % from 2.9 to 3.1)  $ python run.py it\n" in text
    assert "miss  bytes: different [identical]  $ python run.py it\n" in text


def test_json_has_rows_by_column_and_the_result_of_each_figure() -> None:
    outcome = Outcome("t", ("model", "s"), (("float", "1.0"),), (skipped("x", "≥ 1", "absent"),))
    document = outcome.to_json()
    assert document["rows"] == [{"model": "float", "s": "1.0"}]
    assert document["figures"][0]["result"] == "skip"
    assert document["figures"][0]["note"] == "absent"
