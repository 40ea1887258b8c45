"""How much a serialized model will become in memory, told from its bytes before it is parsed.

Two bytes can spell an empty node, which takes hundreds of times that once it is an object. This
walks over the fields of the message, skips names and weights, and stops at the first limit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx

from ..errors import InputError

MAX_PARTS = 2_000_000
"""Nodes, attributes, tensors, values, types and sizes in one file; 40,000 nodes have 500,000."""
MAX_FIELDS = 20_000_000
"""Names, strings and numbers in attributes; the bytes of weights are one field a tensor."""
MAX_NODES = 500_000
MAX_NAME = 10_000
"""Bytes of one name; documentation and metadata may be longer."""
MAX_DEPTH = 100
"""Nesting at which protobuf itself gives up."""


def check_wire(data: bytes, where: str) -> bool:
    """Whether the bytes can be a model; what only the parser can tell counts as yes.

    Raises ``InputError`` for a file that would become too many objects, or has a name too long.
    """
    try:
        return _walk(data, where)
    except IndexError:  # a varint beyond the end
        return False


def _walk(data: bytes, where: str) -> bool:
    parts = fields = nodes = 0
    position, end, known = 0, len(data), _fields(onnx.ModelProto)
    open_: list[tuple[int, _Fields]] = []
    while True:
        while position >= end:
            if not open_:
                return True
            end, known = open_.pop()
        tag, position = _varint(data, position)
        fields += 1
        number, kind = tag >> 3, tag & 7
        if kind == 2:
            size, position = _varint(data, position)
            child = known.children.get(number)
            if child is None:
                if size > MAX_NAME and number in known.names:
                    raise _too_long(where, size)
                position += size
            elif position + size > end or len(open_) >= MAX_DEPTH:
                return False
            else:
                parts += 1
                nodes += child is onnx.NodeProto
                open_.append((end, known))
                end, known = position + size, _fields(child)
        elif kind == 0:
            run = known.runs.get(tag)
            found = None if run is None else run.match(data, position, end)
            if found is None:
                _, position = _varint(data, position)
            else:  # numbers of one attribute, told apart by their last bytes
                fields += (found.end() - position) // 2
                position = found.end()
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        else:  # groups, which ONNX has none of
            return False
        if parts > MAX_PARTS or fields > MAX_FIELDS or nodes > MAX_NODES:
            raise _too_many(where)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    byte = data[position]
    if byte < 128:
        return byte, position + 1
    value, shift = byte & 127, 7
    while byte >= 128 and shift < 70:
        position += 1
        byte = data[position]
        value |= (byte & 127) << shift
        shift += 7
    return value, position + 1


@dataclass(frozen=True)
class _Fields:
    """Of one message: its message fields with their classes, its names, and by their tag runs
    of numbers that follow each other."""

    children: Mapping[int, Any]
    names: frozenset[int]
    runs: Mapping[int, re.Pattern[bytes]]


@cache
def _fields(message: Any) -> _Fields:
    fields = message.DESCRIPTOR.fields
    free = message is onnx.StringStringEntryProto
    return _Fields(
        {f.number: f.message_type._concrete_class for f in fields if f.type == f.TYPE_MESSAGE},
        frozenset(
            f.number
            for f in fields
            if f.type == f.TYPE_STRING and f.name != "doc_string" and not free
        ),
        {
            f.number << 3: _run(f.number << 3)
            for f in fields
            if f.is_repeated and f.type == f.TYPE_INT64 and f.number < 16
        },
    )


def _run(tag: int) -> re.Pattern[bytes]:
    # Possessive: there is nothing to go back to, and no memory taken for it.
    number = rb"[\x80-\xff]{0,9}+[\x00-\x7f]"
    again = re.escape(bytes([tag]))
    return re.compile(number + rb"(?:" + again + number + rb")*+", re.DOTALL)


def _too_long(where: str, size: int) -> InputError:
    what = f"a name in the file has {size:,} characters; planish takes {MAX_NAME:,}"
    hint = "do not trust this file unless you know who made it; rename what the name belongs to"
    return InputError(what, where=where, hint=hint)


def _too_many(where: str) -> InputError:
    return InputError(
        f"the file describes more than planish reads: at most {MAX_NODES:,} nodes, "
        f"{MAX_PARTS:,} nodes, values and tensors together, {MAX_FIELDS:,} names and numbers",
        where=where,
        hint="do not trust this file unless you know who made it; split the model",
    )
