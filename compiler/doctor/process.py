"""Profile a model in a process of its own: a runtime that aborts takes nothing else along.

``python -P -m planish.compiler.doctor.process REQUEST``, REQUEST a JSON file with the arguments of
``targets.runtime.record``; prints one JSON object.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...ir.errors import InputError, PlanishError, TargetError
from ...targets.runtime import Recorded
from ..benching_process import ended
from ..data.feedset import Feeds
from ..harness.feedfile import write_feeds

_KINDS: Mapping[str, type[PlanishError]] = {"InputError": InputError, "TargetError": TargetError}


def record_alone(
    model: Path, feeds: Sequence[Feeds], folder: Path, *, threads: int, seconds: float,
    entries: Mapping[str, str],
) -> Recorded:  # fmt: skip
    """``targets.runtime.record`` in a fresh process. Raises as it does; TargetError where the
    process dies."""
    data = folder / "feeds.npz"
    write_feeds(data, feeds)
    request = folder / "request.json"
    request.write_text(
        json.dumps({
            "model": str(model), "feeds": str(data), "folder": str(folder), "threads": threads,
            "seconds": seconds, "entries": dict(entries),
        }),
        encoding="utf8",
    )  # fmt: skip
    words = [sys.executable, "-P", "-m", __name__, str(request)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise TargetError(ended(done.returncode, lines[-1] if lines else ""), where=str(model))
    answer = json.loads(done.stdout.splitlines()[-1])
    if "error" in answer:
        raise _KINDS.get(answer["kind"], PlanishError)(
            answer["error"], where=answer["where"], hint=answer["hint"]
        )
    return Recorded(Path(answer["trace"]), Path(answer["graph"]), int(answer["skip"]))


def main(words: Sequence[str]) -> None:
    """Profile, and print where the results are, or what went wrong."""
    from ...targets.runtime import record
    from ..harness.feedfile import read_feeds

    asked: dict[str, Any] = json.loads(Path(words[0]).read_text("utf8"))
    try:
        found = record(
            Path(asked["model"]), read_feeds(Path(asked["feeds"])), Path(asked["folder"]),
            threads=asked["threads"], seconds=asked["seconds"], entries=asked["entries"],
        )  # fmt: skip
        answer = {"trace": str(found.trace), "graph": str(found.graph), "skip": found.skip}
    except PlanishError as error:
        answer = {
            "kind": type(error).__name__, "error": error.what, "where": error.where,
            "hint": error.hint,
        }  # fmt: skip
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1:])
