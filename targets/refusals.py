"""What ONNX Runtime says when it refuses a model or a feed, made fit to read."""

from __future__ import annotations

import re

from ..ir.errors import InputError, PlanishError, TargetError

_LONGEST = 700

_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : (\w+) : ")
_SOURCE_PLACE = re.compile(r"\S*/onnxruntime/\S+\.(?:h|cc|cpp|hpp):\d+ ")
_SHORT_PLACE = re.compile(r"\b\w+\.(?:h|cc|cpp):\d+ \w+ (?=\w)")
_AFTER_SIGNATURE = re.compile(r"(?: const)?(?: \[with [^\]]*\])? ?")

_NODE_PATTERNS = (
    re.compile(r"running (?P<op>\w+) node\. Name:'(?P<node>[^']*)'"),
    re.compile(r"Node \((?P<node>[^)]*)\) Op \((?P<op>\w+)\)"),
    re.compile(r"implementation for (?P<op>\w+)\(\d+\) node with name '(?P<node>[^']*)'"),
    re.compile(r"In Node, \(\"(?P<node>[^\"]*)\", (?P<op>\w+)"),
)

_NOT_A_MODEL = frozenset({"NO_SUCHFILE", "INVALID_PROTOBUF", "NO_MODEL"})
_LOADING = re.compile(r"^Load model from \S.* failed: ?")

_HINTS = (
    ("onnx opset version", "export the model at a lower opset, or install a newer onnxruntime"),
    ("IR version", "save the model with a lower IR version, or install a newer onnxruntime"),
    (
        "find an implementation",
        "the runtime has no kernel for this op with these types: export it in float32",
    ),
    ("not a registered function", "the op is unknown to the runtime: export with standard ops"),
    ("No Op registered for", "the op is unknown to the runtime: export with standard ops"),
    ("two nodes with same node name", "give every node a name of its own, or none"),
)

_PLAINER = (
    (
        re.compile(
            r"This is an invalid model\. In Node,.* Error No Op registered for (\S+) with "
            r"domain_version of (\d+)"
        ),
        r"it knows no operator \1 in opset \2",
    ),
    (
        re.compile(r"Fatal error: (\S+?)\(-?\d+\) is not a registered function/op"),
        r"it knows no operator \1",
    ),
    (
        re.compile(r"Could not find an implementation for (\w+)\(\d+\) node with name '[^']*'"),
        r"it has no kernel for \1 with these types",
    ),
    (re.compile(r"^This is an invalid model\. (?:Error: )?"), ""),
)
"""What the runtime says, and how users of a compiler would say it."""


def loading_error(error: Exception, label: str) -> PlanishError:
    """For a model that did not load: InputError when it is no model file, else TargetError."""
    text = str(error)
    reason = clean(text)
    if status_code(text) in _NOT_A_MODEL or "No graph was found" in text:
        return InputError(f"onnxruntime cannot read the model: {reason}", where=label)
    return TargetError(
        f"onnxruntime refuses the model: {reason}", where=_where(text, label), hint=_hint(text)
    )


def running_error(error: Exception, label: str) -> PlanishError:
    """For a run that failed: InputError when the values fed are at fault, else TargetError."""
    text = str(error)
    reason = clean(text)
    if status_code(text) == "INVALID_ARGUMENT":
        return InputError(
            f"onnxruntime cannot take these feeds: {reason}",
            where=_where(text, label),
            hint="check the values fed against what the model was trained on",
        )
    return TargetError(f"onnxruntime failed to run: {reason}", where=_where(text, label))


def status_code(text: str) -> str:
    """The runtime's status such as "INVALID_GRAPH", or "" when the message carries none."""
    match = _CODE.match(text)
    return match.group(1) if match else ""


def clean(text: str) -> str:
    """The runtime's message without status prefix, C++ files and signatures, on one screen."""
    text = _LOADING.sub("", _CODE.sub("", text))
    while match := _SOURCE_PLACE.search(text):
        text = text[: match.start()] + _after_signature(text[match.end() :])
    text = " ".join(_SHORT_PLACE.sub("", text).split())
    for pattern, plain in _PLAINER:
        text = pattern.sub(plain, text)
    return text if len(text) <= _LONGEST else text[:_LONGEST].rstrip() + " …"


def node_of(text: str) -> tuple[str, str] | None:
    """(node name, op type) that the message is about, where it names one."""
    for pattern in _NODE_PATTERNS:
        if match := pattern.search(text):
            return match["node"], match["op"]
    return None


def _after_signature(text: str) -> str:
    """The text behind a C++ function signature; the text itself when there is none."""
    end = text.find("(")
    while end >= 0:
        close = _closing(text, end)
        if close < 0:
            return text
        if close + 1 == len(text) or text[close + 1] == " ":
            rest = text[close + 1 :]
            skipped = _AFTER_SIGNATURE.match(rest)
            return rest[skipped.end() :] if skipped else rest
        end = text.find("(", close)
    return text


def _closing(text: str, start: int) -> int:
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return i
    return -1


def _where(text: str, label: str) -> str:
    found = node_of(text)
    if found is None:
        return label
    node, op = found
    return f"node {node!r} ({op}) of {label}" if node else f"a {op} node of {label}"


def _hint(text: str) -> str:
    return next((hint for mark, hint in _HINTS if mark in text), "")
