"""Wall time and peak memory of one command: ``python measure.py RESULT.json COMMAND …``.

A small process of its own stands between the benchmark and the command: on Linux a child's peak
memory starts at that of the process it was forked from, which here would be one with all of the
evaluation data and torch in it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def main(result: str, command: list[str]) -> None:
    """Run the command and write its seconds, CPU seconds, peak resident bytes and exit status."""
    start = time.perf_counter()
    child = os.posix_spawn(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - start
    measured = {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
        "exit_code": os.waitstatus_to_exitcode(status),
    }
    Path(result).write_text(json.dumps(measured), "utf8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
