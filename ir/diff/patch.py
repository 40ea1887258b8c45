"""A difference as plain data: what makes the second graph out of the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Ref = list[Any]
"""What an input is: ["kept", value before], ["made", node, output], ["tensor", name],
["input", name], or [] for none."""


@dataclass(frozen=True)
class Patch:
    """What makes the second graph out of the first; all of it can be written as JSON.

    removed: names of nodes that go. made: nodes that come, each with its name, operator, domain,
    attributes (serialised), inputs, outputs and what its bodies capture. rewired: (node before,
    input, what it reads). inputs, outputs: the face, serialised, and what each output is.
    tensors: digest by name of constants that come. dropped: constants that go. opsets: all.
    """

    removed: tuple[str, ...]
    made: tuple[dict[str, Any], ...]
    rewired: tuple[tuple[str, int, Ref], ...]
    inputs: tuple[str, ...]
    outputs: tuple[tuple[str, Ref], ...]
    tensors: Mapping[str, str]
    dropped: tuple[str, ...]
    opsets: Mapping[str, int]
