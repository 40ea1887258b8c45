"""Pipeline text: what it says, that it prints back, and where an error points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planish.compiler.pipeline import Pipeline, Step, describe, parse, resolve, step_for
from planish.ir.errors import UsageError
from planish.passes.options import Value


@dataclass(frozen=True)
class Options:
    scheme: Literal["static", "dynamic"] = "static"
    alpha: float = 0.5
    sites: tuple[str, ...] = ()


TEXT = (
    "canonicalize,equalize{alpha=0.5},"
    "quantize{scheme=static calibrator=mse sites=encoder.* exclude=a|b}"
)


def test_the_text_of_the_documentation() -> None:
    assert parse(TEXT) == (
        Step("canonicalize"),
        Step("equalize", options={"alpha": "0.5"}),
        Step(
            "quantize",
            options={
                "scheme": "static",
                "calibrator": "mse",
                "sites": "encoder.*",
                "exclude": ("a", "b"),
            },
        ),
    )
    assert str(parse(TEXT)) == TEXT


def test_a_selector_and_every_kind_of_value() -> None:
    text = 'prune@encoder.layer.0|"odd, name"{a=none b="none" c=| d="x y"|z e=""},last-pass@head'
    pipeline = parse(text)
    assert pipeline[0].selector == ("encoder.layer.0", "odd, name")
    assert pipeline[0].options == {"a": None, "b": "none", "c": (), "d": ("x y", "z"), "e": ""}
    assert pipeline[1] == Step("last-pass", ("head",))
    assert str(pipeline) == text


@pytest.mark.parametrize(
    "text",
    [
        "  canonicalize ,  equalize{ alpha=0.5 } \n, quantize{ }",
        'canonicalize,equalize{alpha = "0.5"},quantize',
    ],
)
def test_spaces_and_needless_quotes_are_tidied(text: str) -> None:
    assert str(parse(text)) == "canonicalize,equalize{alpha=0.5},quantize"


NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,8}", fullmatch=True)
KEYS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
LISTS = st.lists(st.text(max_size=8), min_size=2, max_size=3).map(tuple)
VALUES: st.SearchStrategy[Value] = st.none() | st.text(max_size=12) | st.just(()) | LISTS
STEPS = st.builds(
    Step,
    NAMES,
    st.lists(st.text(max_size=12), max_size=3).map(tuple),
    st.dictionaries(KEYS, VALUES, max_size=4),
)


@given(st.lists(STEPS, min_size=1, max_size=4).map(Pipeline))
def test_every_pipeline_prints_and_parses_back(pipeline: Pipeline) -> None:
    text = str(pipeline)
    assert parse(text) == pipeline
    assert str(parse(text)) == text
    assert "\n" not in text


@given(st.text(alphabet='ab1.*-_@{}|,= "\\\n', max_size=30))
def test_any_text_either_parses_for_good_or_is_refused_with_a_caret(text: str) -> None:
    pipeline = parse_or_none(text)
    if pipeline is None:
        with pytest.raises(UsageError) as caught:
            parse(text)
        assert caught.value.where.endswith("^")
    else:
        assert parse(str(pipeline)) == pipeline


def parse_or_none(text: str) -> Pipeline | None:
    try:
        return parse(text)
    except UsageError:
        return None


@pytest.mark.parametrize(
    ("text", "column", "what"),
    [
        ("", 1, "expected the name of a pass"),
        ("a,", 3, "expected the name of a pass"),
        ("a,,b", 3, "expected the name of a pass"),
        ("a{b=1", 2, "the brace is not closed"),
        ("a{b}", 4, "expected = after 'b'"),
        ("a{b=1,c=2}", 6, "expected a space or }"),
        ("a{b=}", 5, "expected a value"),
        ("a{b=1|}", 7, "expected a value"),
        ("a{b='x y'}", 5, "expected a value"),
        ("a{b=1 c=2 b=3}", 11, "the option 'b' stands here twice"),
        ('a{b="x}', 5, "the quotes are not closed"),
        ("a@{b=1}", 3, "expected a site or a pattern"),
        ("a{b=1}c", 7, "expected a comma or the end"),
        ("a b", 3, "expected a comma or the end"),
        ("a{b=c=d}", 6, "expected a space or }"),
    ],
)
def test_an_error_points_at_its_place(text: str, column: int, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.what == what
    first, line, caret = caught.value.where.split("\n")
    assert first.startswith(f"column {column} ")
    assert line.removeprefix("    ") == text
    assert caret.index("^") - 4 == column - 1
    assert caught.value.hint


def test_a_long_text_is_shown_around_the_error() -> None:
    text = ",".join(["canonicalize"] * 40) + ",quantize{=}" + ",canonicalize" * 40
    with pytest.raises(UsageError) as caught:
        parse(text)
    _, line, caret = caught.value.where.split("\n")
    assert len(line) < 130
    assert line[caret.index("^") :].startswith("=}")


def test_a_step_resolves_to_its_passs_options() -> None:
    step = parse("quantize{scheme=dynamic sites=a|b}")[0]
    assert resolve(step, Options) == Options("dynamic", 0.5, ("a", "b"))
    with pytest.raises(UsageError, match="quantize has no option 'aplha'") as caught:
        resolve(parse("quantize{aplha=1}")[0], Options)
    assert "'alpha'" in caught.value.hint
    assert "quantize{aplha=1}" in caught.value.where
    with pytest.raises(UsageError, match=r"option 'alpha' is 1\|2, it takes a finite number"):
        resolve(parse("quantize{alpha=1|2}")[0], Options)


@given(
    st.builds(
        Options,
        st.sampled_from(["static", "dynamic"]),
        st.floats(allow_nan=False, allow_infinity=False),
        st.lists(st.text(max_size=6), max_size=3).map(tuple),
    )
)
def test_options_survive_the_way_through_text(options: Options) -> None:
    step = step_for("quantize", options, ("head",))
    parsed = parse(str(step))
    assert parsed == (step,)
    assert resolve(parsed[0], Options) == options
    assert str(step) == "quantize@head" + (f"{{{describe(options)}}}" if describe(options) else "")


def test_steps_can_be_keys() -> None:
    assert len({Step("a", options={"b": "1"}), Step("a", options={"b": "1"}), Step("a")}) == 2
