"""Progress is seen on a terminal, noted where asked for, and silent else."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from planish.compiler.progress import Live, Notes, Progress, Silent, progress_on


def work(progress: Progress) -> None:
    progress.phase("importing")
    progress.note("90 MB [of weights]")
    progress.phase("measuring", total=3)
    for _ in range(3):
        progress.advance()


@pytest.mark.parametrize(
    ("terminal", "live", "verbose", "kind"),
    [
        (True, True, False, Live),
        (True, False, False, Silent),
        (True, False, True, Notes),
        (False, True, False, Notes),
        (False, False, True, Notes),
        (False, False, False, Silent),
    ],
)
def test_the_kind_of_progress(terminal: bool, live: bool, verbose: bool, kind: type) -> None:
    buffer = io.StringIO()
    console = Console(file=buffer, force_terminal=terminal)
    with progress_on(console, live=live, verbose=verbose) as progress:
        assert type(progress) is kind
        work(progress)
    assert bool(buffer.getvalue()) == (kind is not Silent)


def test_notes_are_plain_lines() -> None:
    buffer = io.StringIO()
    work(Notes(Console(file=buffer)))
    assert buffer.getvalue() == "importing …\n90 MB [of weights]\nmeasuring (3) …\n"


def test_bars_show_phase_and_steps_and_vanish() -> None:
    buffer = io.StringIO()
    with Live(Console(file=buffer, force_terminal=True, width=80)) as progress:
        work(progress)
    output = buffer.getvalue()
    assert "90 MB [of weights]" in output
    assert "measuring" in output
    assert "3/3" in output
    assert output.endswith("\x1b[2K") or "\x1b[2K" in output.rpartition("3/3")[2]
