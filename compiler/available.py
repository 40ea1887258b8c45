"""How much memory there is for this process, and how a user says how much it may take."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

from ..ir.errors import UsageError

SHARE = 0.8
"""Of the memory that is free: the rest is for what else the machine does meanwhile."""

_UNITS = {"": 1, "b": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("kmgt", start=1)
    for suffix, base in (("", 1000), ("b", 1000), ("ib", 1024))
}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-z]*)\s*", re.IGNORECASE)
_HINT = "write it like 1500MB, 1.5GB or 2GiB"
_UNLIMITED = 1 << 60  # cgroup v1 and RLIM_INFINITY say "no limit" with a number beyond this


def parse_size(text: str | int | float) -> int:
    """Bytes of ``1500MB``, ``1.5GB`` (decimal), ``2GiB`` (binary); a plain number counts bytes.

    Raises UsageError for what is no size, and for one too small to be meant.
    """
    found = _SIZE.fullmatch(str(text)) if not isinstance(text, bool) else None
    unit = None if found is None else _UNITS.get(found[2].lower())
    if found is None or unit is None:
        raise UsageError(f"{str(text)!r} is no size of memory", hint=_HINT)
    count = int(float(found[1]) * unit)
    if count < 1 << 20:
        what = "too little" if unit > 1 else "too little; a number without a unit counts bytes"
        raise UsageError(f"{count:,} bytes of memory are {what}", hint=_HINT)
    return count


def limit_of(max_memory: str | int | float | None) -> tuple[int, str]:
    """How many bytes the process may grow to, and who says so."""
    if max_memory is not None:
        return parse_size(max_memory), "--max-memory"
    free, why = available()
    return resident() + int(SHARE * free), f"{SHARE:.0%} of {why}".replace("%", " %")


def available(
    proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> tuple[int, str]:
    """Bytes that can still be taken, and what bounds them."""
    found = [
        (_free_memory(proc), "the free memory"),
        (_cgroup_headroom(proc, cgroups), "what the control group leaves"),
        (_address_space(proc), "what RLIMIT_AS leaves"),
    ]
    known = [(count, why) for count, why in found if count is not None]
    return min(known) if known else (_UNLIMITED, "an unknown amount of memory")


def resident(proc: Path = Path("/proc")) -> int:
    """Bytes of this process that are in memory now; 0 where the system does not say."""
    return _statm(proc, 1)


def _free_memory(proc: Path) -> int | None:
    for line in _lines(proc / "meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return None


def _cgroup_headroom(proc: Path, cgroups: Path) -> int | None:
    """What is left of the tightest limit on the process's group and the groups around it."""
    rooms: list[int] = []
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            root, files = cgroups, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root, files = cgroups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        folder = root / name.strip().lstrip("/")
        # In a container the name may be that of the host, where there is no such folder.
        around = [folder, *folder.parents]
        for group in around[: around.index(root) + 1] if root in around else [root]:
            room = _headroom(group, *files)
            if room is not None:
                rooms.append(room)
    return min(rooms, default=None)


def _headroom(group: Path, limit: str, usage: str) -> int | None:
    most, used = _number(group / limit), _number(group / usage)
    if most is None or used is None or most >= _UNLIMITED:
        return None
    stat = dict(line.split()[:2] for line in _lines(group / "memory.stat"))
    kept = int(stat.get("inactive_file", stat.get("total_inactive_file", 0)))
    return max(0, most - used + kept)  # cached files give way


def _address_space(proc: Path) -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY or soft >= _UNLIMITED:
        return None
    return max(0, soft - _statm(proc, 0))


def _statm(proc: Path, index: int) -> int:
    lines = _lines(proc / "self" / "statm")
    return int(lines[0].split()[index]) * os.sysconf("SC_PAGE_SIZE") if lines else 0


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("ascii", errors="replace").splitlines()
    except OSError:
        return []
