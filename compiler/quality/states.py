"""Models that hand a state from call to call: which outputs are the next value of which input."""

from __future__ import annotations

import re

from ...ir.signature import Signature, TensorSpec

_BEFORE = re.compile(r"[_.]?(0|in|input|prev|last|old)$")
_AFTER = re.compile(r"[_.]?(n|out|output|next|new)$")


def next_states(signature: Signature) -> dict[str, str]:
    """Input name -> the output that is its next value, told by name, type and rank.

    ``state`` and ``stateN``, ``h_0`` and ``h_n``, ``past_key_values.0.key`` and
    ``present.0.key``. Something else must go in and come out beside the states.
    """
    states = {
        value.name: output.name
        for value in signature.inputs
        for output in signature.outputs
        if _alike(value, output) and _stem(value.name, _BEFORE) == _stem(output.name, _AFTER)
    }
    beside = len(signature.inputs) > len(states) and len(signature.outputs) > len(states)
    return states if beside else {}


def one_step_note(signature: Signature) -> str:
    """What drift does not say of a model with states; "" for others."""
    states = next_states(signature)
    if not states:
        return ""
    pairs = ", ".join(f"{after} follows {before}" for before, after in list(states.items())[:2])
    more = f" and {len(states) - 2} more" if len(states) > 2 else ""
    return (
        f"states are handed from call to call ({pairs}{more}): drift is that of single calls and "
        "may add up over many; --evaluate can judge whole sequences"
    )


def _alike(value: TensorSpec, output: TensorSpec) -> bool:
    if value.dtype != output.dtype or not value.shape:
        return False
    return output.shape is None or len(output.shape) == len(value.shape)


def _stem(name: str, ending: re.Pattern[str]) -> str:
    bare = ending.sub("", name.casefold()) or name.casefold()
    return re.sub("^(past_key_values|past|present)(?=[._])", "past", bare)
