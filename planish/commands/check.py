"""``planish targets check`` and ``planish targets rules``: what a target makes of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..compiler.data.usercode import is_function_reference
from ..compiler.modelfile import model_file
from ..ir.errors import UsageError
from ..ir.load import load_as_written
from ..ir.shown import inline
from ..targets.loader import load_target
from ..targets.rules.rule import Rule, Violation
from ..targets.rules.table import RULES, SEVERITIES, check_model, rule_named
from ..targets.schema import Target
from ..terminal import JsonOption, VerboseOption, terminal_of

BROKEN = 10
"""Exit code of a check that found errors, or layers that are slow."""
_SHOWN = 5
_COLOURS = {"error": "bold red", "slow": "yellow", "note": "cyan"}

TargetOption = Annotated[
    str, typer.Option("--target", "-t", metavar="TARGET", help="A target's name, or a TOML file.")
]


@dataclass(frozen=True)
class Checked:
    """What a check found. idle: rules that were not asked, with why not."""

    model: str
    target: Target
    violations: tuple[Violation, ...]
    idle: Mapping[str, str]

    @property
    def counts(self) -> dict[str, int]:
        """How many violations of each severity."""
        found: Counter[str] = Counter(violation.severity for violation in self.violations)
        return {severity: found[severity] for severity in SEVERITIES}

    @property
    def exit_code(self) -> int:
        """0 where nothing but notes was found."""
        return BROKEN if self.counts["error"] or self.counts["slow"] else 0


def check_command(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="An ONNX file, or an artifact's folder.")
    ],
    target: TargetOption = "host",
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", metavar="ID", help="Ask this rule only; repeatable."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Name all nodes of a finding, all idle rules.")
    ] = False,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> int:
    """Check an ONNX file, as it stands, against the rules of a target.

    What is refused, fails, computes something else than the file says, or runs in slower kernels
    than it was written for: each with the nodes, the reason and what to do. The file may come
    from any tool. Nothing is run or changed. Exit code 10 where there are errors or slow layers,
    0 where there are none or only notes.
    """
    terminal = terminal_of(ctx)
    found = checked(model, load_target(target), rule or ())
    if terminal.json:
        terminal.document(as_json(found))
    else:
        show(found, terminal.stdout(), every=every)
    return found.exit_code


def rules_command(
    ctx: typer.Context,
    rule: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Explain this rule; default: list all.")
    ] = None,
    target: Annotated[
        str, typer.Option("--target", "-t", metavar="TARGET", help="Say which rules apply to it.")
    ] = "",
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """List the rules that a model is checked against, or explain one."""
    terminal = terminal_of(ctx)
    known = load_target(target) if target else None
    chosen = RULES if rule is None else (rule_named(rule),)
    if terminal.json:
        terminal.document({"rules": [described(each, known) for each in chosen]})
    elif rule is None:
        terminal.stdout().print(table_of(chosen, known))
    else:
        explain(chosen[0], known, terminal.stdout())


def checked(model: str, target: Target, rules: Sequence[str] = ()) -> Checked:
    """Check a file. rules: ids of those to ask, all where there are none.

    Raises UsageError for unknown rules and for what is no ONNX file, InputError for files that
    cannot be read.
    """
    if model.endswith(".py") or is_function_reference(model):
        hint = "export the model to ONNX first, or compile it: `planish compile` takes functions"
        raise UsageError("only ONNX files can be checked", where=model, hint=hint)
    chosen = tuple(rule_named(name) for name in dict.fromkeys(rules)) or RULES
    graph = load_as_written(model_file(model))
    idle = {rule.id: why for rule in chosen if (why := rule.excused(target))}
    return Checked(model, target, check_model(graph, target, rules=chosen), idle)


def show(found: Checked, console: Console, *, every: bool = False) -> None:
    """The findings, those of one rule together, and the rules that do not apply."""
    console.print(Text(headline(found)))
    for group in groups(found.violations):
        console.print()
        _show_group(group, console, len(group) if every else _SHOWN)
    if found.idle:
        console.print()
        console.print(Text(f"not asked, as they do not apply to {found.target.name}:"))
    for why, names in _by_reason(found.idle).items():
        said = ", ".join(names) if every or len(names) <= _SHOWN else _some(names)
        console.print(Text(f"  {said}: {why}"))


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} rules, such as {names[0]}"


def headline(found: Checked) -> str:
    """``model.onnx on x86-avx2: 2 errors, 1 slow, 0 notes``."""
    errors, slow, notes = (found.counts[severity] for severity in SEVERITIES)
    said = f"{counted(errors, 'error')}, {slow} slow, {counted(notes, 'note')}"
    said = said if found.violations else "breaks no rule"
    return f"{inline(found.model)} on {found.target.name}: {said}"


def counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def groups(violations: Sequence[Violation]) -> list[list[Violation]]:
    """Violations of one rule together, in the order of the first of each."""
    by_rule: dict[str, list[Violation]] = {}
    for violation in violations:
        by_rule.setdefault(violation.rule, []).append(violation)
    return list(by_rule.values())


def _show_group(group: Sequence[Violation], console: Console, most: int) -> None:
    first = group[0]
    where = counted(len(group), "node") if first.op else "the model"
    severity = (first.severity, _COLOURS[first.severity])
    console.print(Text.assemble(severity, f"  {first.rule}: {where}"))
    console.print(Text(f"  {first.reason}"))
    console.print(Text(f"  try: {first.fix}"))
    for violation in group[:most]:
        console.print(Text(f"    {line_of(violation)}"))
    if len(group) > most:
        console.print(Text(f"    … and {len(group) - most} more (--all names them)"))


def line_of(violation: Violation) -> str:
    """Operator, node and what was found there."""
    place = f"{violation.op} {inline(violation.node)}".strip()
    return ": ".join(filter(None, (place, inline(violation.value))))


def _by_reason(idle: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for rule, why in idle.items():
        found.setdefault(why, []).append(rule)
    return found


def as_json(found: Checked) -> dict[str, Any]:
    """The document of ``--json``."""
    return {
        "model": found.model,
        "target": found.target.name,
        "counts": found.counts,
        "violations": [asdict(violation) for violation in found.violations],
        "not_applied": [{"rule": rule, "why": why} for rule, why in found.idle.items()],
        "exit_code": found.exit_code,
    }


def described(rule: Rule, target: Target | None) -> dict[str, Any]:
    """A rule in words; with a target also why it does not apply, "" where it does."""
    words = ("id", "severity", "applies", "reason", "fix")
    known: dict[str, Any] = {word: getattr(rule, word) for word in words}
    return known | ({} if target is None else {"not_applied": rule.excused(target)})


def table_of(rules: Sequence[Rule], target: Target | None) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("rule", no_wrap=True)
    table.add_column("severity")
    table.add_column("what it looks at")
    if target is not None:
        table.add_column(f"on {target.name}")
    for rule in rules:
        row = [rule.id, rule.severity, rule.applies]
        row += [] if target is None else [rule.excused(target) or "applies"]
        table.add_row(*map(Text, row))
    return table


def explain(rule: Rule, target: Target | None, console: Console) -> None:
    console.print(Text.assemble(f"{rule.id} ", (rule.severity, _COLOURS[rule.severity])))
    for word in ("applies", "reason", "fix"):
        console.print(Text(f"{word}: {getattr(rule, word)}"))
    if target is not None:
        console.print(Text(f"on {target.name}: {rule.excused(target) or 'applies'}"))
