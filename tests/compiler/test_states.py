"""States that a model hands from call to call are known by their names, types and ranks."""

from __future__ import annotations

import pytest

from planish.compiler.quality.states import next_states, one_step_note
from planish.ir.signature import Signature, TensorSpec

X, Y = TensorSpec("x", "FLOAT", ("n", 8)), TensorSpec("y", "FLOAT", ("n", 8))


def signature(*pairs: tuple[str, str], rank: int = 3, dtype: str = "FLOAT") -> Signature:
    ins = [TensorSpec(a, "FLOAT", (2, "n", 8)) for a, _ in pairs]
    outs = [TensorSpec(b, dtype, (None,) * rank) for _, b in pairs]
    return Signature((X, *ins), (Y, *outs))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("state", "stateN"),
        ("h_0", "h_n"),
        ("conv_cache", "conv_cache_out"),
        ("cache_in", "cache_out"),
        ("past_key_values.0.key", "present.0.key"),
        ("past.1.value", "present.1.value"),
    ],
)
def test_names_of_states(before: str, after: str) -> None:
    assert next_states(signature((before, after))) == {before: after}


@pytest.mark.parametrize(
    "other",
    [
        signature(("state", "score")),
        signature(("state", "stateN"), rank=2),
        signature(("state", "stateN"), dtype="FLOAT16"),
        Signature((X,), (TensorSpec("x_out", "FLOAT", ("n", 8)),)),  # a filter, not a state
        Signature((X, Y), (X, Y)),
    ],
)
def test_other_outputs_are_no_states(other: Signature) -> None:
    assert next_states(other) == {}
    assert one_step_note(other) == ""


def test_an_input_called_input_is_no_state_of_an_output_called_output() -> None:
    ins = TensorSpec("input", "FLOAT", ("n", 8)), TensorSpec("state", "FLOAT", ("n", 8))
    outs = TensorSpec("output", "FLOAT", ("n", 8)), TensorSpec("stateN", "FLOAT", ("n", 8))
    assert next_states(Signature(ins, outs)) == {"state": "stateN"}


def test_the_note_names_two_and_counts_the_rest() -> None:
    note = one_step_note(signature(("a", "an"), ("b", "bn"), ("c", "cn"), ("d", "dn")))
    assert "(an follows a, bn follows b and 2 more)" in note
