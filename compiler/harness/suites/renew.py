"""Write the lists of excluded cases for the versions of onnx and onnxruntime installed here.

``python -m planish.compiler.harness.suites.renew`` surveys all cases (about half a minute) and
writes the three data files; look at the difference before it is committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ..case import Case
from .constants import CONSTANTS, all_constant_cases
from .exclusions import survey, written
from .node_cases import NODE_CASES, all_node_cases
from .stored import STORED, all_stored_cases

LISTS: dict[str, tuple[str, Callable[[], Iterable[Case]]]] = {
    NODE_CASES: ("Node cases of the onnx package", lambda: all_node_cases().values()),
    CONSTANTS: ("Node cases with constants", all_constant_cases),
    STORED: ("Stored models of the onnx package", all_stored_cases),
}
"""By data file: what it is a list of, and all cases that could stand in it."""


def renewed(file: str) -> str:
    """The text that a data file should have here."""
    what, cases = LISTS[file]
    return written(survey(cases()), f"{what} that prove nothing here, and why.")


if __name__ == "__main__":
    from .exclusions import excluded

    for file in LISTS:
        Path(__file__).with_name(file).write_text(renewed(file), "utf8")
        excluded.cache_clear()  # the node cases that run are what the constants are made of
        print(f"wrote {file}")
