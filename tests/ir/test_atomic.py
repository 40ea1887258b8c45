from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from planish.ir.errors import InputError
from planish.ir.storage.atomic import alone_in, write_together
from planish.ir.storage.stamp import check_unchanged, stamp


def both(folder: Path, content: bytes) -> dict[Path, bytes]:
    return {folder / "data": content, folder / "model": content}


def write(folder: Path, content: bytes) -> None:
    def writer(data: bytes) -> Callable[[IO[bytes]], None]:
        def write_data(file: IO[bytes]) -> None:
            file.write(data)

        return write_data

    write_together({path: writer(data) for path, data in both(folder, content).items()})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rounds(folder: Path, content: bytes) -> None:
    for _ in range(60):
        write(folder, content)


def test_two_processes_that_write_the_same_files_never_mix(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=rounds, args=(tmp_path, c * 4096)) for c in (b"a", b"b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert names(tmp_path) == ["data", "model"]
    assert (tmp_path / "data").read_bytes() == (tmp_path / "model").read_bytes()


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("at", [1, 2])
def test_an_interrupt_between_two_renames_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, old: bool
) -> None:
    if old:
        write(tmp_path, b"old")
    real, calls = Path.replace, []

    def replace(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == at:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, b"new")
    assert names(tmp_path) == (["data", "model"] if old else [])
    assert all(path.read_bytes() == b"old" for path in tmp_path.iterdir())


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    write(tmp_path, b"old")

    def full(file: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_together({tmp_path / "data": lambda file: None, tmp_path / "model": full})
    assert names(tmp_path) == ["data", "model"]
    assert (tmp_path / "data").read_bytes() == b"old"


def test_who_comes_second_waits(tmp_path: Path) -> None:
    entered: list[str] = []

    def second() -> None:
        with alone_in(tmp_path):
            entered.append("second")

    with alone_in(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(timeout=0.3)
        entered.append("first")
    thread.join()
    assert entered == ["first", "second"]
    assert names(tmp_path) == []


def test_a_file_that_changed_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"old")
    before = stamp(path)
    check_unchanged([before])
    path.write_bytes(b"new")
    with pytest.raises(InputError, match="changed while") as caught:
        check_unchanged([before])
    assert caught.value.where == str(path)
    path.unlink()
    with pytest.raises(InputError, match="changed while"):
        check_unchanged([before])


def test_a_link_that_points_elsewhere_is_a_change(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(b"same")
    link = tmp_path / "link"
    link.symlink_to("one")
    before = stamp(link)
    link.unlink()
    link.symlink_to("two")
    with pytest.raises(InputError, match="changed while"):
        check_unchanged([before])
