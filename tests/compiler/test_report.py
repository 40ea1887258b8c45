"""The headline, the report, the model card and the screen say what the result says."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from planish.compiler.reporting.headline import factor, headline, interval, size, three
from planish.compiler.reporting.report import code, render_card, render_report, text
from planish.compiler.reporting.screen import screen
from planish.compiler.reporting.selftest import Outcome
from planish.compiler.reporting.summary import done, left, measures_text, notes
from planish.compiler.result import UNCHANGED, Kernels, Plan, Quality, Speed, Trial
from planish.ir.provenance import Edit, Remark
from planish.ir.signature import Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("in|put", "FLOAT", ("batch", 4)), TensorSpec("words", "STRING", None)),
    (TensorSpec("y", "FLOAT16", ("batch", None)),),
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "faster: 2.71x (2.66-2.75), 4.0x smaller, within-budget: drop 0.18 <= 0.3"),
        (
            {
                "speed": Speed("no-gain", 5, 4.95, 1.01, 0.99, 1.03),
                "bytes_after": 90_900_001,
                "edits": (),
            },
            "no-gain: 1.01x (0.99-1.03), the lossless model is handed over, same size, "
            "within-budget: drop 0.18 <= 0.3",
        ),
        (
            {"speed": Speed("no-gain", reason=UNCHANGED), "bytes_after": 90_900_001, "edits": ()},
            "no-gain (the file is your own, byte for byte), same size, "
            "within-budget: drop 0.18 <= 0.3",
        ),
        (
            {"shortfall": "prune-heads gave back 5 of 6"},
            "faster: 2.71x (2.66-2.75), 4.0x smaller, within-budget: drop 0.18 <= 0.3, "
            "less than was asked for: prune-heads gave back 5 of 6",
        ),
        (
            {"speed": Speed("no-gain", 5, 4.95, 1.01, 0.99, 1.03)},
            "no-gain: 1.01x (0.99-1.03), 4.0x smaller, within-budget: drop 0.18 <= 0.3",
        ),
        (
            {"speed": Speed("slower", 5, 5.5, 0.909, 0.9, 0.92), "bytes_after": 100_000_000},
            "slower: 0.91x (0.90-0.92), 1.10x larger, within-budget: drop 0.18 <= 0.3",
        ),
        (
            {"quality": Quality("undecided", "drop <= 0.3", "drop 0.18", samples_needed=4200)},
            "faster: 2.71x (2.66-2.75), 4.0x smaller, "
            "undecided: drop 0.18 (about 4200 samples would decide)",
        ),
        (
            {"quality": Quality("unverified", sentence="no data was given.\n")},
            "faster: 2.71x (2.66-2.75), 4.0x smaller, unverified: no data was given",
        ),
        (
            {"quality": Quality("over-budget", "cosine >= 0.98")},
            "faster: 2.71x (2.66-2.75), 4.0x smaller, over-budget: cosine >= 0.98",
        ),
        (
            {
                "speed": Speed("not-measured", reason="the target is not executable here"),
                "run_on_target": False,
            },
            "not-measured (the target is not executable here), 4.0x smaller, "
            "within-budget: drop 0.18 <= 0.3, not run on the target host",
        ),
    ],
)
def test_the_headline_holds_both_verdicts(
    made: ModuleType, changes: dict[str, Any], expected: str
) -> None:
    assert headline(made.result(**changes)) == expected


SPEEDS = ("faster", "no-gain", "slower", "not-measured")
QUALITIES = ("within-budget", "over-budget", "undecided", "unverified")


@pytest.mark.parametrize(("speed", "quality"), [*itertools.product(SPEEDS, QUALITIES)])
def test_every_first_line_names_the_verdicts(made: ModuleType, speed: Any, quality: Any) -> None:
    result = made.result(speed=Speed(speed), quality=Quality(quality))
    (signature, folder) = SIGNATURE, Path("out")
    documents = (
        render_report(result),
        render_card(result, signature).split("\n", 2)[2],
        shown(result, folder),
    )
    for document in documents:
        first = document.splitlines()[0]
        assert speed in first
        assert quality in first


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (22_900_000, "22.9 MB"), (-5e9, "-5.00 GB")],
)
def test_sizes(count: float, expected: str) -> None:
    assert size(count) == expected


def test_numbers() -> None:
    assert [three(v) for v in (0.01234, 4.0, 99.94, 99.96, 12345.6)] == [
        "0.0123", "4.00", "99.9", "100", "12346",
    ]  # fmt: skip
    assert [factor(v) for v in (1.041, 4.13, 12.4)] == ["1.04", "4.1", "12"]
    assert interval(1, 2) == "1.00-2.00"
    assert interval(-1, 2, ".2g") == "-1 to 2"
    assert interval(None, 2) == interval(1, None) == ""


def test_every_fact_is_in_the_report(made: ModuleType) -> None:
    result = made.result()
    report = render_report(result)
    facts: Iterator[str] = itertools.chain(
        (e.site.replace("|", "\\|") for e in result.edits),
        (r.site for r in result.remarks),
        (r.sentence for r in result.remarks if r.kind != "applied"),
        (f"`{t.pipeline}`" for t in result.trials),
        ("`block9`", "`cast-first`", result.plan.pipeline, result.command, *result.notes),
        ("2 `MatMulInteger`", "too small for int8", *result.kernels.surprises),
        (
            "82.03",
            "81.85",
            "(-0.05 to 0.29)",
            "spearman, long",
            "cosine 0.9921, SQNR 21.3 dB",
            "top-1 99.5 %",
            "cosine_min 0.9",
            "0.03 %",
        ),
        ("12 alternating rounds", "1.31.1", "a\\|b", "abababab", "1.20 GB", "12.2"),
    )
    for fact in facts:
        assert fact in report, fact


def test_tables_keep_their_columns(made: ModuleType) -> None:
    evil = "a|b`c\n# d <script>"
    result = made.result(
        edits=(Edit("e", "quantize", evil, "s", loss=0.1, details={"k": evil}),),
        remarks=(Remark("refused", "p", evil, "code", evil),),
        notes=(evil,),
    )
    for document in (render_report(result), render_card(result, SIGNATURE)):
        assert "<script>" not in document.replace(code(evil), "")
        for block in re.findall(r"(?:^\|.*\n)+", document, re.MULTILINE):
            columns = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
            assert len(columns) == 1, block


def test_markdown_escapes() -> None:
    assert text("a|b\n<b> 1 <= 2") == "a\\|b &lt;b> 1 <= 2"
    assert code("a`b") == "``a`b``"
    assert code("`a") == "`` `a ``"
    assert code("") == "–"


def test_a_block_of_code_cannot_be_ended_from_inside(made: ModuleType) -> None:
    evil = "planish compile 'a\n```\n# Title <script>x</script> \x1b[2J'"
    report = render_report(made.result(command=evil, plan=Plan("canonicalize{only=a```b}")))
    blocks = re.findall(r"^(`{3,})\n(.*?)\n\1$", report, re.DOTALL | re.MULTILINE)
    assert [words for _, words in blocks] == [
        evil.replace("\x1b", "\\x1b"), "canonicalize{only=a```b}"
    ]  # fmt: skip


def test_what_a_script_prints_does_nothing_to_a_terminal() -> None:
    outcome = Outcome(["y\x1b[2J"], ["output 'a\nPASS\u202e\r'"])
    assert outcome.text().splitlines() == [
        "y\\x1b[2J", "  FAILED    output 'a\\nPASS\\u202e\\r'", "FAIL"
    ]  # fmt: skip


def test_where_nothing_was_timed_the_trials_tell_what_was_predicted(made: ModuleType) -> None:
    trial = Trial("quantize", 1000, None, "within-budget", True, "", predicted_ms=0.4237)
    report = render_report(made.result(trials=(trial,)))
    assert "| **chosen** | `quantize` | 1.00 kB | 0.424 ms (predicted) | within-budget |" in report


def test_an_empty_result_reads_well(made: ModuleType) -> None:
    result = made.result(
        speed=Speed("not-measured"), quality=Quality("unverified"), kernels=Kernels(),
        plan=Plan("canonicalize"), edits=(), remarks=(), trials=(), digests={}, environment={},
        seconds={}, peak_rss_bytes=None, notes=(), command="",
    )  # fmt: skip
    report = render_report(result)
    assert "no edit was kept" in report
    assert "No site was refused" in report
    assert "What was tried" not in report
    assert "\n\n\n" not in report
    card = render_card(result, SIGNATURE).replace("run(None, feeds)", "")
    assert "None" not in report + card + shown(result, None)


def test_the_card_tells_how_to_run_it(made: ModuleType) -> None:
    card = render_card(made.result(), SIGNATURE, "samples/0000.npz")
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    compile(snippet, "card", "exec")
    assert "| input | `in\\|put` | float32 | [batch, 4] |" in card
    assert "| output | `y` | float16 | [batch, ?] |" in card
    unverified = render_card(made.result(quality=Quality("unverified")), SIGNATURE)
    assert "not verified" in unverified
    assert "not run on" in render_card(made.result(run_on_target=False), SIGNATURE)


def test_the_snippet_of_the_card_runs(
    made: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = made.artifact(tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    card = Path("README.md").read_text("utf8")
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0], names)
    assert (names["outputs"][0] == result.samples[0].outputs["y"]).all()


def test_groups_keep_first_order_and_sum_up(made: ModuleType) -> None:
    groups = done(made.result())
    assert [(g.pass_name, g.setting, len(g.edits)) for g in groups] == [
        ("canonicalize", "fold", 1), ("quantize", "static-int8", 2), ("quantize", "table-int8", 1),
    ]  # fmt: skip
    assert groups[1].saving == 12_000_000
    assert groups[1].worst == made.edits()[2]
    assert groups[0].worst is None
    assert groups[0].sentence == "canonicalize fold at 1 site"


def test_what_was_left_is_grouped_by_reason(made: ModuleType) -> None:
    groups = left(made.result())
    assert [(g.kind, g.code, g.sites) for g in groups] == [
        ("refused", "too-small", ("pooler.dense", "head")),
        ("missed", "shared-input", ("block2",)),
    ]
    assert groups[0].sentences == ("3 rows are too few for int8.",)


def shown(result: Any, folder: Path | None, *, terminal: bool = False, width: int = 100) -> str:
    buffer = io.StringIO()
    screen(result, Console(file=buffer, force_terminal=terminal, width=width), folder)
    return buffer.getvalue()


def test_a_pipe_gets_plain_text(made: ModuleType) -> None:
    output = shown(made.result(), Path("out"))
    assert "\x1b" not in output
    assert output.replace("–", "-").isascii()
    assert "2 x too-small (quantize): 3 rows are too few for int8; pooler.dense, head" in output
    assert "quantize static-int8 at 2 sites: 12.0 MB saved" in output
    assert output.rstrip().endswith("out/report.md")


def test_a_terminal_gets_colour(made: ModuleType) -> None:
    assert "\x1b[1;32mfaster" in shown(made.result(), None, terminal=True)
    slow = made.result(speed=Speed("slower", 1, 2, 0.5, 0.4, 0.6))
    assert "\x1b[1;31mslower" in shown(slow, None, terminal=True)


def test_a_huge_result_is_still_one_screen(made: ModuleType) -> None:
    result = made.result(
        edits=tuple(Edit(str(i), f"pass{i}", f"site{i}", "s") for i in range(200)),
        remarks=tuple(Remark("refused", "p", f"s{i}", f"code{i}", "why") for i in range(300)),
        notes=tuple(f"note {i}" for i in range(50)),
        quality=Quality("unverified", drift={f"out{i}": {"cosine": 0.9} for i in range(40)}),
    )
    output = shown(result, Path("out"))
    assert len(output.splitlines()) <= 45
    assert "194 more in the report" in output
    assert "294 more in the report" in output
    assert "34 more rows in the report" in output
    report = render_report(result)
    assert all(f"`s{i}`" in report for i in range(300))


def test_an_output_that_did_not_move_has_no_infinite_ratio() -> None:
    measures = {"cosine": 1.0, "sqnr_db": float("inf"), "top1": 100.0}
    assert measures_text(measures) == "equal to the original's"
    assert "SQNR inf" in measures_text(measures | {"non_finite": 2})


def test_a_pass_with_many_settings_takes_one_line(made: ModuleType) -> None:
    def edits(settings: str) -> tuple[Edit, ...]:
        return tuple(Edit(s, "equalize", f"site{s}", f"alpha={s}") for s in settings)

    few = shown(made.result(edits=edits("12")), None)
    assert "equalize alpha=1 at 1 site\n" in few
    assert "equalize alpha=2 at 1 site\n" in few
    many = shown(made.result(edits=edits("12345")), None)
    assert "done       equalize with 5 settings at 5 sites\n" in many
    assert "alpha=" not in many


def test_what_is_noted_of_many_places_takes_one_line(made: ModuleType) -> None:
    remarks = tuple(Remark("note", "legalise", f"v{i}", "code", "kept float") for i in range(5))
    other = Remark("note", "import", "", "other", "said of nothing")
    result = made.result(remarks=(*remarks, other, remarks[0]), notes=("first",))
    assert notes(result) == ["first", "v0, v1, v2 and 2 more: kept float", "said of nothing"]
