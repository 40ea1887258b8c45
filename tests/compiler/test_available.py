from __future__ import annotations

import resource
from pathlib import Path

import pytest

from planish.compiler import available as module
from planish.compiler.available import available, limit_of, parse_size, resident
from planish.ir.errors import UsageError

MB, GB = 10**6, 10**9


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1500MB", 1500 * MB), ("1.5GB", 1500 * MB), ("2GiB", 2 << 30), ("2 gib", 2 << 30),
        ("3g", 3 * GB), (".5TB", 500 * GB), ("64MiB", 64 << 20), ("2000000", 2 * MB),
        (2_000_000, 2 * MB), (3e9, 3 * GB), ("2000000B", 2 * MB), ("4096 kb", 4_096_000),
    ],
)  # fmt: skip
def test_sizes(text: str | int | float, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize(
    "text", ["", "GB", "1.5", "12", "1KB", "-3GB", "1..5GB", "nan", "inf", "1e3GB", "5 XB", True]
)
def test_what_is_no_size_is_said(text: str | bool) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert "2GiB" in caught.value.hint


def machine(folder: Path, **files: str) -> tuple[Path, Path]:
    """A /proc and a /sys/fs/cgroup with these files; ``__`` in a name stands for a slash."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "ascii")
    return folder / "proc", folder / "cgroup"


MEMINFO = "MemTotal: 9000000 kB\nMemFree: 10 kB\nMemAvailable: 4000000 kB\n"


@pytest.fixture(autouse=True)
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """No RLIMIT_AS, whatever the tests run under."""
    none = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: none)


def test_free_memory(tmp_path: Path) -> None:
    assert available(*machine(tmp_path, proc__meminfo=MEMINFO)) == (
        4_000_000 * 1024, "the free memory"
    )  # fmt: skip


def test_a_control_group_of_version_2_and_those_around_it(tmp_path: Path) -> None:
    places = machine(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="0::/outer/inner\n",
        cgroup__outer__inner__memory_DOT_max="max\n",
        cgroup__outer__inner__memory_DOT_current="5\n",
        cgroup__outer__memory_DOT_max="1000000000\n",
        cgroup__outer__memory_DOT_current="700000000\n",
        cgroup__outer__memory_DOT_stat="anon 1\ninactive_file 100000000\n",
    )
    assert available(*places) == (400_000_000, "what the control group leaves")


def test_a_control_group_whose_name_is_that_of_the_host(tmp_path: Path) -> None:
    places = machine(
        tmp_path,
        proc__self__cgroup="0::/kubepods/pod12\n",
        proc__meminfo=MEMINFO,
        cgroup__memory_DOT_max="600000000\n",
        cgroup__memory_DOT_current="100000000\n",
    )
    assert available(*places) == (500_000_000, "what the control group leaves")


def test_a_control_group_of_version_1(tmp_path: Path) -> None:
    groups = "11:cpu,cpuacct:/x\n5:memory:/docker/abc\n"
    files = {
        "proc__self__cgroup": groups,
        "proc__meminfo": MEMINFO,
        "cgroup__memory__docker__abc__memory_DOT_limit_in_bytes": "500000000\n",
        "cgroup__memory__docker__abc__memory_DOT_usage_in_bytes": "600000000\n",
    }
    assert available(*machine(tmp_path, **files)) == (0, "what the control group leaves")
    unlimited = files | {
        "cgroup__memory__docker__abc__memory_DOT_limit_in_bytes": "9223372036854771712\n"
    }
    found = available(*machine(tmp_path, **unlimited))
    assert found == (4_000_000 * 1024, "the free memory")


def test_the_address_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (GB, resource.RLIM_INFINITY))
    places = machine(tmp_path, proc__meminfo=MEMINFO, proc__self__statm="100 7 3 0 0 0 0\n")
    page = resource.getpagesize()
    assert available(*places) == (GB - 100 * page, "what RLIMIT_AS leaves")
    assert resident(places[0]) == 7 * page


def test_this_machine_says_something() -> None:
    assert 1 << 20 < resident() < available()[0] * 100


def test_the_limit_is_what_was_given_or_a_share_of_what_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert limit_of("2GB") == (2 * GB, "--max-memory")
    monkeypatch.setattr(module, "available", lambda: (GB, "the free memory"))
    monkeypatch.setattr(module, "resident", lambda: 100 * MB)
    assert limit_of(None) == (900 * MB, "80 % of the free memory")
