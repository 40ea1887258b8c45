"""Cases that a suite leaves out: why, in a data file a suite, and how to find out anew."""

from __future__ import annotations

import functools
import importlib.resources
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from ....ir.errors import PlanishError
from ....ir.importing.protocheck import OLDEST_OPSET
from ....targets.runtime import open_session, runtime_version
from ..case import Case

RANDOM = "two runs on the same feeds give different bits"
TOO_OLD = f"the opset is below {OLDEST_OPSET}, which planish refuses"
NO_LOCALE = "the runtime wants the locale en_US.UTF-8, which not every machine has"
_REASONS = (
    (r"construct locale", NO_LOCALE),
    (r"Unsupported model IR version", "the IR version is beyond the runtime"),
    (r"[Oo]pset \d+ is under development", "the opset is beyond the runtime"),
    (r"is not a registered function/op|No Op registered", "the runtime does not know the operator"),
    (r"Unrecognized attribute", "the runtime does not know an attribute of the operator"),
    (
        r"find an implementation|find kernel|not (?:yet )?supported",
        "the runtime has no kernel for the operator with these types or attributes",
    ),
    (r"Type Error", "the runtime refuses the model for its types"),
    (r"code returned while running", "the runtime fails on these feeds"),
)


@dataclass(frozen=True)
class Excluded:
    """reasons: by case name. onnx, onnxruntime: the versions that the list was made with."""

    reasons: Mapping[str, str]
    onnx: str
    onnxruntime: str

    @property
    def made_here(self) -> bool:
        """Whether the list was made with the versions installed here."""
        return (self.onnx, self.onnxruntime) == (onnx.__version__, runtime_version())


@functools.cache
def excluded(file: str) -> Excluded:
    """The list in a data file of this package."""
    text = importlib.resources.files(__package__).joinpath(file).read_text("utf8")
    content = tomllib.loads(text)
    reasons = {name: g["reason"] for g in content["group"] for name in g["cases"]}
    return Excluded(reasons, content["onnx"], content["onnxruntime"])


def why_not(case: Case) -> str | None:
    """Why a case proves nothing: the runtime does not give the same bits twice; None: it does."""
    if any(o.version < OLDEST_OPSET for o in case.model.opset_import if not o.domain):
        return TOO_OLD
    try:
        first, *others = [*_runs(case), *_runs(case)]
    except PlanishError as error:
        return reason_of(str(error.__cause__ or error.what))
    return None if all(same_bits(first, other) for other in others) else RANDOM


def reason_of(sentence: str) -> str:
    """The group that a refusal belongs to, by the runtime's own words."""
    return next((r for pattern, r in _REASONS if re.search(pattern, sentence)), sentence)


def same_bits(a: Any, b: Any) -> bool:
    """Whether outputs are equal in kind, type, shape and every bit."""
    if isinstance(a, (list, tuple)) or isinstance(b, (list, tuple)):
        alike = isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b)
        return alike and all(map(same_bits, a, b))
    if a is None or b is None:
        return a is b
    x, y = np.asarray(a), np.asarray(b)
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    return bool((x == y).all()) if x.dtype.hasobject else x.tobytes() == y.tobytes()


def survey(cases: Iterable[Case]) -> dict[str, str]:
    """What does not run here, by name, and why."""
    found = ((case.name, why_not(case)) for case in cases)
    return {name: reason for name, reason in found if reason is not None}


def written(reasons: Mapping[str, str], title: str) -> str:
    """The text of a data file, grouped by reason."""
    lines = [f"# {title}", f'onnx = "{onnx.__version__}"', f'onnxruntime = "{runtime_version()}"']
    for reason in sorted(set(reasons.values())):
        names = sorted(name for name, r in reasons.items() if r == reason)
        lines += ["", "[[group]]", f'reason = "{reason}"', "cases = ["]
        lines += [f'    "{name}",' for name in names] + ["]"]
    return "\n".join(lines) + "\n"


def _runs(case: Case) -> list[list[Any]]:
    """The outputs of all feeds, twice in one session, with the runtime's optimisations off."""
    session = open_session(case.model.SerializeToString(), threads=1, optimize="none")
    return [[session.run(feed) for feed in case.feeds] for _ in range(2)]
