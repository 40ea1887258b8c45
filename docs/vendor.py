"""Fetch the libraries of the HTML report anew: ``make vendor``, which needs npm and a network.

The lock says what is taken: of each package the version, the npm integrity of its archive, the
minified file and the licence. A version is changed there by hand; this script then fetches,
compares the integrity where one is noted, copies both files, and writes what it found. With
``--latest`` the newest version of the same major release is taken.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

VENDOR = Path(__file__).resolve().parent.parent / "compiler" / "reporting" / "html" / "vendor"
LOCK = VENDOR / "lock.json"


def main() -> int:
    """0: all fetched. 1: npm failed, or an archive is not the one that was locked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--latest", action="store_true", help="newest of the same major release")
    latest = parser.parse_args().latest
    lock = json.loads(LOCK.read_text("utf8"))
    with tempfile.TemporaryDirectory() as work:
        try:
            lock["libraries"] = [fetched(row, Path(work), latest) for row in lock["libraries"]]
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    LOCK.write_text(json.dumps(lock, indent=2) + "\n", "utf8")
    return 0


def fetched(row: dict[str, Any], work: Path, latest: bool) -> dict[str, Any]:
    """The row with what was found; its two files are written. Raises ValueError."""
    version = f"^{row['version']}" if latest else row["version"]
    words = ["npm", "pack", "--silent", "--pack-destination", str(work), f"{row['name']}@{version}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    archive = (work / done.stdout.split()[-1]).read_bytes()
    found = "sha512-" + base64.b64encode(hashlib.sha512(archive).digest()).decode()
    if not latest and row.get("integrity") not in (None, found):
        raise ValueError(f"{row['name']} {row['version']} is not the archive that was locked")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        about = json.loads(member(tar, "package.json"))
        script, licence = member(tar, row["source"]), member(tar, "LICENSE")
    (VENDOR / row["file"]).write_bytes(script)
    (VENDOR / row["licence_file"]).write_bytes(licence)
    print(f"{row['name']} {about['version']}: {len(script):,} bytes")
    return row | {
        "version": about["version"],
        "licence": about["license"],
        "integrity": found,
        "sha256": hashlib.sha256(script).hexdigest(),
        "bytes": len(script),
    }


def member(tar: tarfile.TarFile, name: str) -> bytes:
    """A file of a package. Raises ValueError where there is none."""
    try:
        held = tar.extractfile(f"package/{name}")
    except KeyError:
        held = None
    if held is None:
        raise ValueError(f"the package has no {name}")
    return held.read()


if __name__ == "__main__":
    raise SystemExit(main())
