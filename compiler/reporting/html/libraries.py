"""The libraries that a page carries: minified releases, as the lock beside them says."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

VENDOR = Path(__file__).parent / "vendor"
LOCK = VENDOR / "lock.json"

_SOURCE_MAP = re.compile(r"^//[#@] ?sourceMappingURL=.*$", re.MULTILINE)


@dataclass(frozen=True)
class Library:
    """One of them. integrity: of npm's archive; sha256: of the file that is carried."""

    name: str
    version: str
    licence: str
    file: str
    licence_file: str
    sha256: str
    integrity: str

    @property
    def path(self) -> Path:
        """Where the minified release lies."""
        return VENDOR / self.file

    @property
    def text(self) -> str:
        """The release as a page carries it: without the address of its source map, which a
        browser would look for."""
        return _SOURCE_MAP.sub("", self.path.read_text("utf8"))

    @property
    def whole(self) -> bool:
        """Whether the file is the one that was locked."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest() == self.sha256

    @property
    def notice(self) -> str:
        """Name, version and the text of the licence, which has to go along."""
        licence = (VENDOR / self.licence_file).read_text("utf8").strip()
        return f"{self.name} {self.version} ({self.licence})\n{licence}"


def libraries() -> list[Library]:
    """All of them, each behind those that it needs."""
    rows = json.loads(LOCK.read_text("utf8"))["libraries"]
    known = Library.__dataclass_fields__
    return [Library(**{key: row[key] for key in known}) for row in rows]
