"""Run one model in a process of its own: its peak memory, and whether it runs at all.

``python -P -m planish.compiler.benching_process MODEL FEEDS THREADS ENTRIES``, FEEDS a file that
``harness.feedfile`` wrote, ENTRIES session entries as a JSON object; prints one JSON object.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..ir.errors import PlanishError

STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Solo:
    """peak: most bytes in memory at a time. base: before the model was loaded. ports: dtypes of
    its inputs and outputs, none where it does not load. error: why it does not run, "" where it
    does."""

    peak: int = 0
    base: int = 0
    ports: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


def run_alone(
    model: Path, feeds: Path, threads: int, entries: Mapping[str, str] | None = None
) -> Solo:
    """Load a model in a fresh process and run it once over a file of feeds.

    A process that dies (the runtime crashed, memory ran out) is an error, too.
    """
    words = [sys.executable, "-P", "-m", __name__, str(model), str(feeds), str(threads),
             json.dumps(dict(entries or {}))]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Solo(**json.loads(done.stdout))
    lines = done.stderr.strip().splitlines()
    return Solo(error=ended(done.returncode, lines[-1] if lines else ""))


def ended(status: int, complaint: str) -> str:
    """Why a process of its own gave no answer: its status, and the last line it complained in."""
    if status >= 0:
        return f"the process that ran it failed: {complaint or f'status {status}'}"
    name = signal.Signals(-status).name
    why = ", perhaps for want of memory" if -status == signal.SIGKILL else ""
    return f"the process that ran it was ended by {name}{why}"


def main(words: Sequence[str]) -> None:
    """Measure, and print what was found."""
    from ..targets.runtime import open_session  # its memory belongs to the base
    from .harness.feedfile import read_feeds

    model, data, threads, entries = words
    feeds = read_feeds(Path(data))
    base, error = peak_bytes(), ""
    ports: dict[str, str] = {}
    try:
        session = open_session(Path(model), threads=int(threads), entries=json.loads(entries))
        ports = {f"input {port.name!r}": port.dtype for port in session.inputs}
        ports |= {f"output {port.name!r}": port.dtype for port in session.outputs}
        for feed in feeds:
            session.run(feed)
    except PlanishError as problem:
        error = problem.what
    print(json.dumps(asdict(Solo(peak_bytes(), base, ports, error))))


def peak_bytes(status: Path = STATUS) -> int:
    """Most bytes of this process that were in memory at a time.

    Linux's own count of a process that was just started begins with that of its parent
    (``getrusage``); the one in /proc does not.
    """
    if status.is_file():
        for line in status.read_text("ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


if __name__ == "__main__":
    main(sys.argv[1:])
