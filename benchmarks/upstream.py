"""Upstream's own passes and rewrite rules over generated graphs and the node cases of ONNX.

Each is applied to the file as it is, as its users apply it: loaded with onnx_ir, transformed,
written, run in ONNX Runtime without optimisations. What breaks is made small by the harness and
written to ``docs/upstream-faults.md`` with versions.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import itertools
import logging
import pkgutil
import re
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import rewriter
from onnxscript.rewriter.rules import common as common_rules

from planish.compiler.harness.case import Case
from planish.compiler.harness.execute import Outputs, run_all
from planish.compiler.harness.generator import generated
from planish.compiler.harness.reproduce import model_text
from planish.compiler.harness.shrink import shrink
from planish.compiler.harness.suites import SUITES
from planish.compiler.quality.equality import difference
from planish.ir.digest import contents_digest

from .figures import Outcome, holds
from .settings import Settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "upstream-faults.md"
ALL = "all default rules"
GRAPHS, EVERY, SECONDS, SMALL = 150, 6, 10, 5
"""Generated graphs of seed 0; one node case of so many; what one transformation may take; nodes
that the model of a fault may have."""
FUSED = 1e-3
"""Relative; what rules that fold constants into others may change of the outputs."""
PACKAGES = ("onnx", "onnx-ir", "onnxscript", "onnxruntime")

KINDS = {
    "raises": "it raises",
    "endless": f"it does not end within {SECONDS} s",
    "signature": "inputs or outputs get other names, order or types",
    "refused": "ONNX Runtime ran the model before and refuses it now",
    "numbers": "the outputs are other numbers",
    "unreported": "the model changed, and its result says that it did not",
}
"""What can be wrong with a transformation, in the order in which it is looked for."""


Face = tuple[tuple[str, int], ...]
"""Names and element types of what goes in and comes out."""


@dataclass(frozen=True)
class Transform:
    """Something of upstream that changes a model. package: where it is from. apply: in place, or
    as a new model; the answer says whether it says to have changed it (None: it does not say)."""

    name: str
    package: str
    apply: Callable[[ir.Model], tuple[ir.Model, bool | None]]
    exact: bool = True


@dataclass(frozen=True)
class Fault:
    """One kind of fault of a transformation, and the smallest model that shows it."""

    transform: Transform
    kind: str
    sentence: str
    cases: int
    small: Case | None = None

    @property
    def nodes(self) -> int:
        """Of the small model's main graph."""
        return 0 if self.small is None else len(self.small.model.graph.node)


def upstream(settings: Settings) -> Outcome:
    """Look for faults, make them small, and write the page."""
    del settings
    logging.getLogger("onnx_ir").setLevel(logging.CRITICAL)
    logging.getLogger("onnxscript").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    faults, seen = look(cases())
    write_page(faults, seen)
    known = {(f.transform.name, f.kind) for f in faults}
    expected = [
        ("IdentityEliminationPass", ("signature", "numbers", "refused")),
        ("ShapeInferencePass", ("refused", "raises", "unreported")),
        ("default rules", ("signature", "refused", "numbers")),
    ]
    figures = [
        holds(
            f"faults of {name}",
            any((found, kind) in known for kind in kinds for found in _names(faults, name)),
            ", ".join(sorted({k for n, k in known if n in _names(faults, name)})) or "none",
            f"one of {', '.join(kinds)}",
        )
        for name, kinds in expected
    ]
    largest = max((f.nodes for f in faults), default=0)
    figures.append(holds("largest model of a fault", largest <= SMALL, f"{largest} nodes", "≤ 5"))
    rows = tuple(
        (f.transform.package, f.transform.name, KINDS[f.kind], str(f.cases), str(f.nodes))
        for f in faults
    )
    columns = ("package", "what", "fault", "models", "nodes of the smallest")
    return Outcome(f"upstream over {seen} models", columns, rows, tuple(figures))


def _names(faults: list[Fault], name: str) -> set[str]:
    if name != "default rules":
        return {name}
    return {f.transform.name for f in faults if f.transform.package == "onnxscript"}


# -- what is tried ---------------------------------------------------------------------


READ = Transform("from_proto and to_proto", "onnx-ir", lambda model: (model, None))
"""Nothing but reading and writing; a model that does not survive that says nothing of passes."""


def transforms() -> list[Transform]:
    """Reading and writing, the common passes of onnx_ir, and the default rules of onnxscript."""
    skipped = {"CheckerPass", "ClearMetadataAndDocStringPass", "AddInitializersToInputsPass"}
    names = [n for n in dir(common) if n.endswith("Pass") and n not in skipped]
    passes = [Transform(n, "onnx-ir", _pass(getattr(common, n))) for n in names]
    every = Transform(ALL, "onnxscript", _rules(rewriter._DEFAULT_REWRITE_RULES), exact=False)
    own = [
        Transform(name, "onnxscript", _rules([rewriter.RewriteRule(*rule)]), exact=False)
        for name, rule in OWN.items()
    ]
    return [READ, *passes, *own, every]


def _relu(op: Any, x: Any) -> Any:
    return op.Relu(x)


def _with_initializer(op: Any, x: Any) -> Any:
    return op.Max(x, op.initializer(ir.tensor(np.zeros((), np.float32), name="w")))


def _identity(op: Any, x: Any) -> Any:
    return op.Identity(x)


def _nothing(op: Any, x: Any) -> Any:
    return x


OWN: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "a rule that brings an initializer called w": (_relu, _with_initializer),
    "a rule that gives back what it matched": (_identity, _nothing),
}
"""Rules as users write them; what breaks is how they are applied."""


def single_rules() -> list[Transform]:
    """The default rules one by one, by the names that their modules give them."""
    known = {id(v): k for m in _rule_modules() for k, v in vars(m).items()}
    found = []
    for number, rule in enumerate(rewriter._DEFAULT_REWRITE_RULES):
        name = known.get(id(rule)) or f"{rule.name or _operators(rule)} (rule {number})"
        found.append(Transform(name, "onnxscript", _rules([rule]), exact=False))
    return found


def _operators(rule: Any) -> str:
    """What the pattern of a rule without a name looks for."""
    nodes = reversed(list(rule._target_pattern))
    return " of ".join(re.sub(r"[^A-Za-z]", "", str(node.op)) for node in nodes)


def _rule_modules() -> Iterator[ModuleType]:
    for info in pkgutil.iter_modules(common_rules.__path__):
        if not info.name.endswith("_test"):
            yield importlib.import_module(f"{common_rules.__name__}.{info.name}")


def _pass(cls: type[Any]) -> Callable[[ir.Model], tuple[ir.Model, bool | None]]:
    def apply(model: ir.Model) -> tuple[ir.Model, bool | None]:
        result = cls()(model)
        return result.model, bool(result.modified)

    return apply


def _rules(rules: Sequence[Any]) -> Callable[[ir.Model], tuple[ir.Model, bool | None]]:
    def apply(model: ir.Model) -> tuple[ir.Model, bool | None]:
        rewriter.RewriteRuleSet(list(rules)).apply_to_model(model)
        return model, None

    return apply


def cases() -> Iterator[Case]:
    """Generated graphs, and one operator or a few each from the onnx package."""
    yield from generated(GRAPHS, 0)
    yield from itertools.islice(SUITES["onnx-node"].cases(), 0, None, EVERY)


# -- how it is judged ------------------------------------------------------------------


@dataclass
class _Tally:
    """Of one transformation: by kind, how many models, and the smallest of them."""

    count: Counter[str] = field(default_factory=Counter)
    first: dict[str, Case] = field(default_factory=dict)

    def add(self, kind: str, case: Case) -> None:
        self.count[kind] += 1
        known = self.first.get(kind)
        if known is None or case.model.ByteSize() < known.model.ByteSize():
            self.first[kind] = case


def look(models: Iterable[Case]) -> tuple[list[Fault], int]:
    """All faults, and the number of models that were run."""
    tried, alone, seen = transforms(), single_rules(), 0
    tallies = {t.name: _Tally() for t in (*tried, *alone)}
    for case in models:
        before = _ran(case.model, case)
        if before is None or not _same(before, _ran(case.model, case)):
            continue
        seen += 1
        for transform in tried:
            broken = judge(transform, case, before)
            if broken is None:
                continue
            blamed = _single(alone, case, before) if transform.name == ALL else []
            for each, kind in blamed or [(transform, broken[0])]:
                tallies[each.name].add(kind, case)
            if transform is READ:
                break
    faults = [
        _small(transform, kind, tallies[transform.name])
        for transform in (*tried, *alone)
        for kind in KINDS
        if kind in tallies[transform.name].first
    ]
    return [fault for fault in faults if fault is not None], seen


def _single(
    alone: Sequence[Transform], case: Case, before: tuple[Outputs, ...]
) -> list[tuple[Transform, str]]:
    """The rules that break the case by themselves."""
    found = [(each, judge(each, case, before)) for each in alone]
    return [(each, broken[0]) for each, broken in found if broken is not None]


def _small(transform: Transform, kind: str, tally: _Tally) -> Fault | None:
    """The fault on the smallest model; None where it does not show a second time."""

    def shown(each: Case) -> tuple[str, str] | None:
        before = _ran(each.model, each)
        if before is None or (transform is not READ and judge(READ, each, before)):
            return None
        found = judge(transform, each, before)
        return found if found and found[0] == kind else None

    small = shrink(tally.first[kind], lambda each: shown(each) is not None)
    again = shown(small)
    return Fault(transform, kind, again[1], tally.count[kind], small) if again else None


def judge(transform: Transform, case: Case, before: tuple[Outputs, ...]) -> tuple[str, str] | None:
    """The kind of fault and a sentence; None where the transformation did its work."""
    face = _face(_copy(case.model))
    try:
        with _limited(), contextlib.redirect_stdout(io.StringIO()):
            model = ir.from_proto(_copy(case.model))
            digest = contents_digest(model)
            made, said = transform.apply(model)
            proto = ir.to_proto(made)
    except TimeoutError:
        return "endless", f"stopped after {SECONDS} s"
    except Exception as error:
        return "raises", _cause(error)
    now = _face(proto)
    if now != face:
        return "signature", _changed(face, now)
    after, why = _run(proto, case)
    if after is None:
        return "refused", why
    limit = None if transform.exact else FUSED
    told = _difference(before, after, limit)
    if told:
        return "numbers", told
    if said is False and contents_digest(ir.from_proto(proto)) != digest:
        return "unreported", "the contents are others than before"
    return None


def _changed(before: Face, after: Face) -> str:
    if len(before) != len(after):
        return f"{len(before)} inputs and outputs became {len(after)}"
    old, new = next((a, b) for a, b in zip(before, after, strict=True) if a != b)
    if old[0] != new[0]:
        return f"{old[0]!r} became {new[0]!r}"
    return f"{old[0]!r} had element type {old[1]} and has {new[1]}"


def _face(model: onnx.ModelProto) -> Face:
    """Names and element types of inputs without a default, and of outputs."""
    held = {t.name for t in model.graph.initializer}
    given = [i for i in model.graph.input if i.name not in held]
    return tuple((i.name, i.type.tensor_type.elem_type) for i in (*given, *model.graph.output))


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _run(model: onnx.ModelProto, case: Case) -> tuple[tuple[Outputs, ...] | None, str]:
    try:
        return run_all(model.SerializeToString(), case.feeds), ""
    except Exception as error:
        return None, _cause(error)


def _ran(model: onnx.ModelProto, case: Case) -> tuple[Outputs, ...] | None:
    return _run(model, case)[0] if case.feeds else None


def _same(before: tuple[Outputs, ...], after: tuple[Outputs, ...] | None) -> bool:
    return after is not None and not _difference(before, after, None)


def _difference(before: Any, after: Any, tolerance: float | None) -> str:
    for old, new in zip(before, after, strict=True):
        for name in old:
            found = difference(old[name], new[name], tolerance)
            if found:
                return f"output {name!r}: {found}"
    return ""


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    what = getattr(error, "what", "") or str(error)
    return f"{type(error).__name__}: {' '.join(what.split())[:200]}"


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError

    held = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, held)


# -- the page --------------------------------------------------------------------------


def versions() -> str:
    """Of the packages, as text."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)


def write_page(faults: list[Fault], seen: int) -> None:
    """docs/upstream-faults.md: a table, then each fault with its model."""
    lines = [
        "# Faults of upstream passes and rules", "",
        "planish reads and holds models with onnx_ir and matches patterns with onnxscript, but "
        "runs none of their passes", "or rules unguarded. Wrapped by `planish.adapt` they run on a "
        "copy, are checked, and are taken back when they do", "what stands here.", "",
        f"- Versions: {versions()}.",
        f"- Models: {seen}, of them up to {GRAPHS} generated graphs (seed 0), else one of {EVERY} "
        "node cases of the onnx package.",
        "- Each transformation is applied to the file as it is, and ONNX Runtime runs it before "
        "and after, its optimisations", f"  off. Passes keep every bit, rules a relative error of "
        f"{FUSED:g}. What a model does not survive when it is only read", "  and written is told "
        "first, and counts for no pass.",
        *_aliased(faults),
        "- Made by `benchmarks/run.py upstream`. The same faults on models made by hand: "
        "`tests/conformance/test_upstream_models.py`;", "  of rules that do not end, and others "
        "that only show in parts: `tests/conformance/test_upstream_faults.py`.", "",
        "| package | what | fault | models | nodes |", "|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [
        f"| {f.transform.package} | `{f.transform.name}` | {KINDS[f.kind]} | {f.cases} | "
        f"{f.nodes} |"
        for f in faults
    ]
    groups = itertools.groupby(faults, key=lambda f: f.transform.name)
    for name, group in groups:
        lines += ["", f"## {name}"]
        for fault in group:
            lines += ["", f"{_upper(KINDS[fault.kind])}: {_plain(fault.sentence)}", ""]
            text = "" if fault.small is None else _text(fault.small.model)
            lines += ["```text", text, "```"]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf8")


def _aliased(faults: list[Fault]) -> list[str]:
    """How many rules break for one reason: they do not know the other name of ONNX's domain."""
    rules = [f.small for f in faults if f.transform.package == "onnxscript" and f.small]
    named = [s for s in rules if any(o.domain == "ai.onnx" for o in s.model.opset_import)]
    if not named:
        return []
    return [
        f"- {len(named)} of the {len(rules)} faults of rules are on models that name their opset "
        "`ai.onnx`, which is the same as", "  the empty name: what a rule makes imports a second "
        "opset beside it.",
    ]  # fmt: skip


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _plain(text: str) -> str:
    return text.replace("`", "'").replace("|", "/").replace("<", "‹").replace(">", "›")


def _text(model: onnx.ModelProto) -> str:
    lines = (model_text(model) or "too long").splitlines()
    kept = [line for line in lines if not line.startswith("# does not parse")]
    return "\n".join(line if len(line) <= 110 else line[:108] + " …" for line in kept)
