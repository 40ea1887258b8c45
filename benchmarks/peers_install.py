"""Make the environments of the peers: ``python benchmarks/peers_install.py [--workdir DIR]``.

One for each of the files requirements-bench-*.txt, by pip as it is configured here. One that
cannot be installed is said and written down, and the benchmarks go on without it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.peers import DISTRIBUTIONS, install
from benchmarks.settings import Settings


def main() -> None:
    """Install every package that is not there yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workdir", type=Path, default=Settings().workdir)
    workdir = parser.parse_args().workdir.resolve()
    for package, distribution in DISTRIBUTIONS.items():
        print(f"{package} …", file=sys.stderr, flush=True)
        made = install(package, workdir)
        print(f"{package}: {made.reason or made.versions[distribution]}")


if __name__ == "__main__":
    main()
