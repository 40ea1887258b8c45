"""Writes the pages on passes and targets from what the passes and targets say of themselves.

``make docs`` runs it. A page says the same as ``planish passes show`` or ``planish targets show``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from planish.commands.passes import (
    discovered,
    facts_of,
    first_sentence,
    options_of,
    promise,
    sections,
)
from planish.commands.targets import shown, technique_row
from planish.passes.api import Pass, Semantics
from planish.targets.host import HOST
from planish.targets.loader import load_target, target_names
from planish.targets.rules.rule import Rule
from planish.targets.rules.table import CUDA, ONNXRUNTIME, SEVERITIES, TENSORRT
from planish.targets.schema import Target
from planish.targets.techniques import CODES, TECHNIQUES, compiles, support
from planish.targets.techniques import NO_BACKEND as NO_BACKEND_CODE

DOCS = Path(__file__).resolve().parent
FOLDERS = ("passes", "targets")
"""What is in them is generated, all of it."""
MARK = "<!-- Written by docs/generate.py from {source}: change it there and run `make docs`. -->"

PASSES = """\
A pipeline is a list of passes, each with options: `canonicalize,quantize{scheme=static}`. Without
`--passes` the policy proposes pipelines for the target, and the compiler measures which one pays.
`planish passes show PASS` prints what these pages say."""

TARGETS = f"""\
A target is hardware and runtime as data: a file that names the source of every figure, or says how
it was measured or estimated. `--target` takes one of these names or aliases, a TOML file of your
own ([how to write one](writing-a-target.md)), or `{HOST}`: the machine that compiles, taken for the
class with the most features which are all present. `planish targets show TARGET` prints what these
pages say, also of `{HOST}`; `planish targets diff` compares two."""

CLASSES = """\
A class holds what is true of a family: which kernels its runtime has, what they want, ratios
between types. It holds no absolute figures."""

MACHINES = """\
A machine extends a class with memory, bandwidth and rates as their makers state them. What no page
states is left out. `planish targets probe` measures the machine that it runs on instead."""

TECHNIQUES_SAID = """\
Which techniques have kernels, by class; a machine has those of its class. It follows from the
figures in the files. Where one is refused stands the code of the reason. Factors of low rank and
smaller layers (pruned heads, neurons, channels) need no kernel of their own and work everywhere."""

NO_BACKEND = """\
Where "compiles" says no, planish has no backend for the runtime yet: the target can be shown,
compared, checked against and planned for, and `planish compile` refuses it before any work (exit
code 4)."""


RULES = """\
What `planish targets check MODEL --target TARGET` looks for
([how to read it](checking-a-model.md)). An **error** is refused by the runtime, fails when it runs,
or computes something else than the file says; **slow** runs, but not in the kernels that it was
written for; a **note** is good to know. `planish targets rules --target TARGET` says which of them
apply to a target, and why others do not."""

OF_ONNXRUNTIME = """\
Of ONNX Runtime, and those that follow from the figures of any target. What is said of ONNX Runtime
was tried with 1.31.1; tests do it again."""

OF_TENSORRT = """\
Of targets whose runtime is TensorRT. These were read, not tried
([in what](checking-tensorrt.md)). Operators with their types, versions and limits are a table of
their own, which ships with planish (`targets/tensorrt/operators.toml`)."""


OF_CUDA = """\
Of ONNX Runtime's CUDA provider: a node without a kernel there runs on the CPU, with copies both
ways. These were read from the project's table of kernels and from its sources, not tried."""


def pages() -> dict[str, str]:
    """The text of every generated page by its path inside this folder."""
    passes = discovered()
    targets = [load_target(name) for name in target_names() if name != HOST]
    return {
        "passes.md": passes_page(passes.values()),
        **{f"passes/{name}.md": pass_page(cls) for name, cls in passes.items()},
        "rules.md": rules_page(),
        "targets.md": targets_page(targets),
        **{f"targets/{target.name}.md": target_page(target) for target in targets},
    }


def passes_page(passes: Iterable[type[Pass]]) -> str:
    """The index of the passes."""
    rows = [
        (f"[{cls.name}](passes/{cls.name}.md)", cls.semantics.value, first_sentence(cls))
        for cls in passes
    ]
    promises = [f"* **{s.value}**: {promise(s)}" for s in Semantics]
    head = page_head("Passes", "the passes' docstrings")
    table_ = table(("pass", "promise", "what it does"), rows)
    return joined(head, PASSES, table_, "Promises:\n\n" + "\n".join(promises))


def pass_page(cls: type[Pass]) -> str:
    """The page of a pass: its docstring, its facts and its options."""
    facts = [f"* {label}: {', '.join(facts)}" for label, facts in facts_of(cls).items() if facts]
    kind = f"* promise: **{cls.semantics.value}** ({promise(cls.semantics).rstrip('.')})"
    said = {heading: text[:1].upper() + text[1:] for heading, text in sections(cls).items()}
    options = {
        "Options": "\n\n".join([*filter(None, [said.pop("Options", "")]), options_table(cls)])
    }
    example = {"Example": said.pop("Example", "")}
    chapters = [f"## {heading}\n\n{text}" for heading, text in (said | options | example).items()]
    return joined(
        page_head(cls.name, f"the docstrings of passes/{cls.__module__.rpartition('.')[2]}.py"),
        first_sentence(cls),
        "\n".join([kind, *facts]),
        *chapters,
        "[All passes](../passes.md)",
    )


def options_table(cls: type[Pass]) -> str:
    """Every option with its default, what it takes and what it means."""
    rows = [
        (f"`{o['name']}`", f"`{o['default']}`", o["takes"], o["meaning"]) for o in options_of(cls)
    ]
    return table(("option", "default", "takes", "meaning"), rows) if rows else "None."


def rules_page() -> str:
    """The table of rules, the gravest first."""
    return joined(
        page_head("Rules", "targets/rules"),
        RULES,
        f"## ONNX Runtime\n\n{OF_ONNXRUNTIME}",
        rules_table(ONNXRUNTIME),
        f"## ONNX Runtime on CUDA\n\n{OF_CUDA}",
        rules_table(CUDA),
        f"## TensorRT\n\n{OF_TENSORRT}",
        rules_table(TENSORRT),
    )


def rules_table(rules: Sequence[Rule]) -> str:
    """Rules in rows, the gravest first."""
    rows = [
        (f"`{rule.id}`", severity, rule.applies, sentence(rule.reason), sentence(rule.fix))
        for severity in SEVERITIES
        for rule in rules
        if rule.severity == severity
    ]
    return table(("rule", "severity", "what it looks at", "what happens", "what to do"), rows)


def sentence(text: str) -> str:
    """Words of a rule with a capital and a full stop."""
    return text[:1].upper() + text[1:] + "."


def targets_page(targets: Sequence[Target]) -> str:
    """The index of the catalogue: classes, machines, and what has kernels where."""
    classes = [target for target in targets if target.kind == "class"]
    machines = [target for target in targets if target.kind == "machine"]
    return joined(
        page_head("Targets", "targets/catalog"),
        TARGETS,
        f"## Classes\n\n{CLASSES}",
        table(("target", "extends", "compiles", "what it is"), map(class_row, classes)),
        NO_BACKEND,
        f"## Machines\n\n{MACHINES}",
        table(("target", "also", "extends", "compiles", "what it is"), map(machine_row, machines)),
        f"## Techniques\n\n{TECHNIQUES_SAID}",
        techniques_table(classes),
        "\n".join(f"* `{code}`: {said}" for code, said in CODES.items() if code != NO_BACKEND_CODE),
    )


def class_row(target: Target) -> tuple[str, ...]:
    """A class in the index."""
    return target_link(target.name), target_link(target.extends), compiled(target), target.summary


def machine_row(target: Target) -> tuple[str, ...]:
    """A machine in the index."""
    name, *rest = class_row(target)
    return name, ", ".join(f"`{alias}`" for alias in target.aliases), *rest


def compiled(target: Target) -> str:
    """Whether it can be compiled for."""
    return shown(compiles(target).supported)


def techniques_table(targets: Sequence[Target]) -> str:
    """The matrix: a target a line, a technique a column, the code where it is refused.

    Columns in which nothing is refused are left out.
    """
    matrix = {target.name: support(target) for target in targets}
    asked = [i for i, _ in enumerate(TECHNIQUES) if any(row[i].code for row in matrix.values())]
    rows = [
        (target_link(name), *(row[i].code or "yes" for i in asked)) for name, row in matrix.items()
    ]
    return table(("target", *(TECHNIQUES[i] for i in asked)), rows)


def target_link(name: str | None) -> str:
    """A link from the index to a target."""
    return "" if name is None else f"[{name}](targets/{name}.md)"


def target_page(target: Target) -> str:
    """The page of a target: every figure with its source."""
    kind = f"A {target.kind} target"
    if target.extends is not None:
        kind += f" that extends [{target.extends}]({target.extends}.md)"
    if target.aliases:
        kind += ", also called " + ", ".join(f"`{alias}`" for alias in target.aliases)
    backend = compiles(target)
    kind += ". It can be compiled for" if backend.supported else f"; {backend.sentence}"
    rows = [(f"`{f.path}`", shown(f.value), f.source) for f in target.figures()]
    return joined(
        page_head(target.name, f"targets/catalog/{target.name}.toml and what it extends"),
        f"{target.summary}.",
        f"{kind}.",
        *(["\n".join(f"* {note}" for note in target.notes)] if target.notes else []),
        table(("figure", "value", "source"), rows),
        table(("technique", "kernels", "why"), map(technique_row, support(target))),
        "[All targets](../targets.md)",
    )


def page_head(title: str, source: str) -> str:
    """The title, and where the text of the page stands."""
    return f"# {title}\n\n{MARK.format(source=source)}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; a bar inside a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    escaped = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def joined(*parts: str) -> str:
    """Paragraphs as a file, double backticks of docstrings as Markdown's single ones."""
    return re.sub(r"``([^`]+)``", r"`\1`", "\n\n".join(parts)) + "\n"


def stale(wanted: Iterable[str]) -> list[Path]:
    """Pages of passes and targets that do not exist any more."""
    kept = {DOCS / name for name in wanted}
    return [path for name in FOLDERS for path in (DOCS / name).glob("*") if path not in kept]


def main() -> None:
    """Write every page, and remove those that have no subject any more."""
    written = pages()
    for name, text in written.items():
        path = DOCS / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf8")
    for path in stale(written):
        path.unlink()


if __name__ == "__main__":
    main()
