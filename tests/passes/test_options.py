"""Options as typed dataclasses and as text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planish.ir.errors import UsageError
from planish.passes.options import Value, convert, describe, from_text, show, to_text


@dataclass(frozen=True)
class Options:
    scheme: Literal["static", "dynamic", "none"] = "static"
    bits: Literal[7, 8] = 8
    alpha: float = 0.5
    rank: int = 0
    fold: bool = True
    name: str = ""
    note: str | None = None
    sites: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ("head",)
    ranks: tuple[int, ...] = field(default_factory=lambda: (1, 2))
    limit: float | None = 2.0

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"rank is {self.rank}, it must not be negative")


@dataclass(frozen=True)
class Needs:
    rank: int
    seed: int = 0


def build(**given: Value) -> Options:
    return from_text(Options, given, owner="quantize", where="here")


def test_every_type_is_read_as_its_field_says() -> None:
    assert build(
        scheme="dynamic",
        bits="7",
        alpha="1",
        rank="+3",
        fold="false",
        name="true",
        note="none",
        sites="a",
        exclude=(),
        ranks=("3", "-4"),
        limit=None,
    ) == Options("dynamic", 7, 1.0, 3, False, "true", "none", ("a",), (), (3, -4), None)
    assert isinstance(build(alpha="1").alpha, float)
    assert build(scheme=None).scheme == "none"
    assert build(note=None, name=None) == Options(note=None, name="none")


@pytest.mark.parametrize(
    ("given_options", "wanted"),
    [
        ({"rank": "1.0"}, "a whole number"),
        ({"rank": "1_000"}, "a whole number"),
        ({"rank": None}, "a whole number"),
        ({"rank": ("1", "2")}, "a whole number"),
        ({"alpha": "nan"}, "a finite number"),
        ({"alpha": "1e999"}, "a finite number"),
        ({"alpha": "half"}, "a finite number"),
        ({"fold": "True"}, "true or false"),
        ({"fold": "1"}, "true or false"),
        ({"bits": "4"}, "one of 7, 8"),
        ({"name": ("a", "b")}, "a text"),
        ({"ranks": ("1", "x")}, "a whole number, or several as a|b"),
        ({"limit": "much"}, "a finite number, or none"),
    ],
)  # fmt: skip
def test_an_ill_typed_value_is_refused_with_what_is_wanted(
    given_options: dict[str, Value], wanted: str
) -> None:
    with pytest.raises(UsageError) as caught:
        build(**given_options)
    assert wanted in caught.value.what
    assert next(iter(given_options)) in caught.value.what
    assert caught.value.where == "here"


def test_unknown_key_and_unknown_choice_come_with_near_names() -> None:
    with pytest.raises(UsageError, match="quantize has no option 'exclud'") as caught:
        build(exclud="a")
    assert "'exclude'" in caught.value.hint
    with pytest.raises(UsageError, match="one of static, dynamic, none") as caught:
        build(scheme="statik")
    assert "'static'" in caught.value.hint


def test_missing_and_refused_values_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="svd needs the option 'rank'"):
        from_text(Needs, {"seed": "1"}, owner="svd", where="")
    with pytest.raises(UsageError, match="rank is -1"):
        build(rank="-1")


@pytest.mark.parametrize("wanted", [list[str], int | str, int | str | None, dict[str, int], bytes])
def test_an_unknown_type_is_the_programmers_error(wanted: object) -> None:
    with pytest.raises(TypeError):
        convert("1", wanted)


def test_text_says_only_what_is_not_default() -> None:
    assert describe(Options()) == ""
    assert describe(Options(alpha=0.7, sites=("a", "b c"))) == 'alpha=0.7 sites=a|"b c"'
    assert (
        describe(Options(exclude=(), limit=None, fold=False)) == "fold=false exclude=| limit=none"
    )
    assert describe(Options(note="none")) == 'note="none"'
    assert describe(Needs(0)) == "rank=0"


@given(
    st.builds(
        Options,
        scheme=st.sampled_from(["static", "dynamic", "none"]),
        bits=st.sampled_from([7, 8]),
        alpha=st.floats(allow_nan=False, allow_infinity=False),
        rank=st.integers(min_value=0),
        fold=st.booleans(),
        name=st.text(),
        note=st.none() | st.text(),
        sites=st.lists(st.text(), max_size=3).map(tuple),
        exclude=st.lists(st.text(), max_size=3).map(tuple),
        ranks=st.lists(st.integers(), max_size=3).map(tuple),
        limit=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_options_come_back_from_their_text(options: Options) -> None:
    assert from_text(Options, to_text(options), owner="", where="") == options


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"), ("none", '"none"'), ("", '""'), ("a b", '"a b"'),
        ("/x/y.0[1]*", "/x/y.0[1]*"),
        ((), "|"), (("a",), "a"), (("none",), '"none"'), (("a", "none", "b|c"), 'a|none|"b|c"'),
        ('q"\\', '"q\\"\\\\"'), ("größe", "größe"), ("x\ny", '"x\\ny"'), ("a=b", '"a=b"'),
    ],
)  # fmt: skip
def test_values_are_quoted_only_where_they_must(value: Value, text: str) -> None:
    assert show(value) == text
